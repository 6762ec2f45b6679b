"""Collect what every job behind the results took and emitted, by its own record and by Slurm's."""

from xrec_repro.accounting.jobs import collect_jobs
from xrec_repro.job import Job

with Job(snakemake) as job:
    job.result = collect_jobs(
        [*job.input.summary, *job.input.generate, *getattr(job.input, "train", [])],
        job.params.resources,
        job.settings["emissions"],
        job.params.store,
        job.output.json,
        job.output.csv,
        job.output.rules,
    )
