"""Score explanations by one metric."""

from xrec_repro.job import Job
from xrec_repro.metrics.score import score_explanations

with Job(snakemake) as job:
    job.result = score_explanations(
        job.input.explanations,
        job.params.metric,
        job.settings,
        job.output.scores,
        job.output.summary,
        job.device() if job.params.metric != "usr" else "cpu",
    )
