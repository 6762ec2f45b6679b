"""Join the shards of a judge's scores."""

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.metrics.shards import gather_scores
from xrec_repro.provenance import require_one_kind

with Job(snakemake) as job:
    require_one_kind(job.input.records)
    gather_scores(job.input.explanations, job.input.parts, job.output.scores, job.output.summary)
    job.result = read_json(job.output.summary) | {"parts": list(map(str, job.input.records))}
