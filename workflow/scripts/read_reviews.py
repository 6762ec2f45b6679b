"""Read raw reviews and metadata into the one internal schema."""

from xrec_repro.data.readers import read_raw
from xrec_repro.job import Job

with Job(snakemake) as job:
    # The glassbox writes its world in the format of Amazon reviews.
    source = "amazon" if job.params.source == "glassbox" else job.params.source
    job.result = read_raw(
        source,
        job.input.reviews,
        job.input.metadata,
        job.output.interactions,
        job.output.item_table,
        **job.settings["read"],
        columns=job.params.columns,
    )
