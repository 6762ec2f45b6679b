"""Split the graph and the pairs with texts."""

from xrec_repro.data.split import split_interactions
from xrec_repro.job import Job

with Job(snakemake) as job:
    job.result = split_interactions(
        job.input.interactions,
        job.settings["split"],
        job.output.graph,
        job.output.texts,
        released_edges=getattr(job.input, "edges", None),
        released_texts=getattr(job.input, "texts", None),
    )
