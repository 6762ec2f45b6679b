"""Join the shards of a judge's scores."""

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.metrics.shards import gather_scores

with Job(snakemake) as job:
    gather_scores(job.input.explanations, job.input.parts, job.output.scores, job.output.summary)
    job.result = read_json(job.output.summary) | {"parts": list(map(str, job.input.records))}
