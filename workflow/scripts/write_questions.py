"""Ask what embeddings decide in a text, and how outliers are explained."""

from xrec_repro.job import Job
from xrec_repro.paper.questions import write_questions
from xrec_repro.scores import attach

with Job(snakemake) as job:
    rows = attach(job.settings["rows"], job.params.files)
    write_questions(rows, job.settings, job.output.json, job.output.md)
