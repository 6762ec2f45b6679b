"""Draw what each rule took and emitted."""

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.paper.cost_figure import costs_figure

with Job(snakemake) as job:
    jobs = read_json(job.input.jobs)
    job.result = {
        "caption": costs_figure(jobs, job.output.pdf, job.output.png, job.settings["emissions"], job.settings)
    }
