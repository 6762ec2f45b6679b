"""Write the page on which a person reads explanations side by side."""

from xrec_repro.job import Job
from xrec_repro.paper.browse import write_browser
from xrec_repro.scores import attach

with Job(snakemake) as job:
    rows = attach(job.settings["rows"], job.params.files)
    job.result = write_browser(rows, job.output.html, job.settings["title"], job.settings["run"], job.settings)
