"""Draw figure 3: training loss."""

from xrec_repro.job import Job
from xrec_repro.paper.curves import figure3
from xrec_repro.scores import attach

with Job(snakemake) as job:
    curves = [row for row in attach(job.settings["rows"], job.params.files) if row["training"]]
    job.result = {"caption": figure3(curves, job.output.pdf, job.output.png, job.settings)}
