"""Train LightGCN on the graph with BPR."""

from pathlib import Path

from xrec_repro.job import Job
from xrec_repro.recommender.train import train_lightgcn

with Job(snakemake) as job:
    device = job.device()
    job.result = train_lightgcn(
        job.input.graph,
        job.settings["recommender"],
        job.seed,
        job.output.embeddings,
        job.output.metrics,
        Path(job.params.checkpoint),
        device,
        fingerprint=job.fingerprint,
    )
