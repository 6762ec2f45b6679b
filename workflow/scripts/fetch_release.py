"""Download a released data set, checked by sha256."""

from pathlib import Path

from xrec_repro.data.download import fetch
from xrec_repro.job import Job

with Job(snakemake) as job:
    job.result = fetch(job.wildcards.download, Path(job.params.manifest), job.output.folder)
