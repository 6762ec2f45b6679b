"""Let a recommender learn embeddings from the graph."""

from pathlib import Path

from xrec_repro.job import Job
from xrec_repro.recommenders.base import Run
from xrec_repro.recommenders.train import train_recommender

with Job(snakemake) as job:
    device = job.device()
    run = Run(
        name=job.wildcards.recommender,
        seed=job.seed,
        device=device,
        checkpoint=Path(job.params.checkpoint),
        identity=job.fingerprint,
        inputs=vars(job.input),
    )
    job.result = train_recommender(
        job.input.graph, job.settings["recommender"], run, job.output.embeddings, job.output.metrics
    )
