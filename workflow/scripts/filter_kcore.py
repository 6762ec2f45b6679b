"""Filter interactions and reduce them to their k-core."""

from xrec_repro.data.kcore import filter_kcore
from xrec_repro.job import Job

with Job(snakemake) as job:
    job.result = filter_kcore(
        job.input.interactions,
        job.input.item_table,
        job.settings["kcore"],
        job.output.interactions,
        job.output.item_table,
    )
