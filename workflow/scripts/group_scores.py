"""Score groups of users by how often they occur in the train split."""

from xrec_repro.job import Job
from xrec_repro.paper.sparsity import write_sparsity
from xrec_repro.scores import attach, with_summaries

with Job(snakemake) as job:
    rows = with_summaries(attach(job.settings["rows"], job.params.files))
    write_sparsity(rows, job.settings, job.output.json, job.output.csv)
