"""Join the shards of a judge's scores; one that failed in a shard leaves its reason."""

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.metrics._failures import failing
from xrec_repro.metrics.score import write_failure
from xrec_repro.metrics.shards import gather_scores
from xrec_repro.provenance import require_one_kind

with Job(snakemake) as job:
    files = (job.output.scores, job.output.summary, job.output.replies)
    with failing(job.params.metric, job.output.provenance.with_name("failures.txt")) as failure:
        require_one_kind(job.input.records)
        gather_scores(job.input.explanations, job.input.parts, *files)
    if failure.reason:
        write_failure(job.input.explanations, job.params.metric, failure.reason, *files)
    job.result = read_json(job.output.summary) | {"parts": list(map(str, job.input.records))}
