"""Score explanations by one metric, or a shard of them by a judge."""

from pathlib import Path

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.metrics.score import score_explanations
from xrec_repro.metrics.shards import score_shard
from xrec_repro.partial import Partial
from xrec_repro.shards import Shard

with Job(snakemake) as job:
    files = vars(job.input)
    own = {name: str(files[name]) for name in ("model", "weights") if name in files}
    settings = job.settings["metrics"][job.params.metric] | own
    what = (files["explanations"], job.params.metric, settings)
    device = job.device() if hasattr(job.params, "compute") else "cpu"
    kept = Partial(Path(job.params.partial), job.fingerprint) if hasattr(job.params, "partial") else None
    if hasattr(job.params, "shard"):
        score_shard(*what, Shard.parse(job.params.shard), job.output.blocks, device, kept)
    else:
        score_explanations(*what, job.output.scores, job.output.summary, device, files.get("truth"), kept)
        job.result = read_json(job.output.summary)
    if kept:
        kept.remove()
