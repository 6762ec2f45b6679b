"""Describe all scores with intervals, and compare the experiments with the reference one."""

from xrec_repro.job import Job
from xrec_repro.paper.appendix import write_statistics
from xrec_repro.scores import attach

with Job(snakemake) as job:
    rows = attach(job.settings["rows"], job.params.files)
    write_statistics(rows, job.settings["statistics"], job.output.json, job.output.md)
