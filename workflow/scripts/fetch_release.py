"""Download a released data set, checked by sha256."""

from xrec_repro.data.download import fetch
from xrec_repro.job import Job

with Job(snakemake) as job:
    job.result = fetch(job.wildcards.download, job.input.manifest[0], job.output.folder, job.params.copies)
