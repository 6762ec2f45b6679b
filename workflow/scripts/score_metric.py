"""Score the explanations of a seed by one metric, or a shard of them by a judge; one that fails leaves its reason."""

from pathlib import Path

from xrec_repro.io import read_json, write_json
from xrec_repro.job import Job
from xrec_repro.metrics._failures import failing
from xrec_repro.metrics.base import FAILED
from xrec_repro.metrics.score import score_explanations, write_failure
from xrec_repro.metrics.shards import score_shard
from xrec_repro.partial import Partial
from xrec_repro.shards import Shard

with Job(snakemake) as job:
    files, metric = vars(job.input), job.params.metric
    own = {name: str(files[name]) for name in ("model", *job.params.models) if name in files}
    settings = job.settings["metrics"][metric] | own
    what = (files["explanations"], metric, settings)
    device = job.device() if hasattr(job.params, "compute") else "cpu"
    kept = Partial(Path(job.params.partial), job.fingerprint) if hasattr(job.params, "partial") else None
    replies = getattr(job.output, "replies", None)
    sharded = hasattr(job.params, "shard")
    with failing(metric, job.output.provenance.with_name("failures.txt")) as failure:
        if sharded:
            score_shard(*what, Shard.parse(job.params.shard), job.output.blocks, device, kept)
        else:
            made, known = (job.output.scores, job.output.summary), files.get("examples")
            score_explanations(*what, *made, device, files.get("truth"), kept, replies, known)
    if failure.reason and sharded:
        write_json(job.output.blocks, {FAILED: failure.reason})
    elif failure.reason:
        write_failure(files["explanations"], metric, failure.reason, job.output.scores, job.output.summary, replies)
    if not sharded:
        job.result = read_json(job.output.summary)
    if kept and not failure.reason:
        kept.remove()
