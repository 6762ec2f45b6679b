"""Import a released XRec folder into the internal schema, with its own split and texts."""

from xrec_repro.data.release import import_release
from xrec_repro.job import Job

with Job(snakemake) as job:
    job.result = import_release(
        job.input.folder, job.output.interactions, job.output.item_table, job.output.edges, job.output.texts
    )
