"""Draw figure 4: scores by group of users."""

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.paper.sparsity_figure import figure4

with Job(snakemake) as job:
    groups = read_json(job.input.groups)
    job.result = {"caption": figure4(groups, job.output.pdf, job.output.png, job.settings)}
