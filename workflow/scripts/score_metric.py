"""Score explanations by one metric."""

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.metrics.score import score_explanations

with Job(snakemake) as job:
    score_explanations(
        job.input.explanations,
        job.params.metric,
        job.settings,
        job.output.scores,
        job.output.summary,
        job.device() if job.params.metric != "usr" else "cpu",
    )
    job.result = read_json(job.output.summary)
