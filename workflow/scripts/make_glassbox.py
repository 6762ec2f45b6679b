"""Write the demo's world: raw reviews and metadata whose true reasons are known."""

from xrec_repro.data.glassbox import make_glassbox
from xrec_repro.job import Job

with Job(snakemake) as job:
    job.result = make_glassbox(
        job.settings["glassbox"], job.output.reviews, job.output.metadata, job.output.texts, job.output.truth
    )
