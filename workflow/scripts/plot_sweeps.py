"""Draw the sweeps: scores and held-out loss over the values of a setting."""

from xrec_repro.job import Job
from xrec_repro.paper.curves import figure_sweeps
from xrec_repro.scores import attach

with Job(snakemake) as job:
    rows = attach(job.settings["rows"], job.params.files)
    caption = figure_sweeps(rows, job.settings, job.output.pdf, job.output.png, job.output.csv)
    job.result = {"caption": caption}
