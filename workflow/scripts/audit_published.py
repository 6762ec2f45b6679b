"""Audit the published material."""

from pathlib import Path

from xrec_repro.audit.report import write_audit
from xrec_repro.job import Job

with Job(snakemake) as job:
    # Looked for here: login and compute nodes that see different files must still plan the same jobs.
    data = Path(job.settings["data"])
    write_audit(job.params.resources, job.reads(data) if data.is_dir() else None, job.output.json, job.output.md)
