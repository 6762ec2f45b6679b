"""End the run with an error if a metric failed; all that could be made is made."""

from xrec_repro.job import Job
from xrec_repro.metrics._failures import refuse_failed

with Job(snakemake) as job:
    refuse_failed(job.input.summary)
