"""Join the scores of all metrics."""

from xrec_repro.job import Job
from xrec_repro.metrics.score import merge_scores

with Job(snakemake) as job:
    merge_scores(list(zip(job.input.scores, job.input.summaries, strict=True)), job.output.scores, job.output.summary)
