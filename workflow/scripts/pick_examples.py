"""Pick examples that show variants side by side, and count broken outputs."""

from xrec_repro.job import Job
from xrec_repro.paper.examples import pick_examples
from xrec_repro.scores import attach, with_summaries

with Job(snakemake) as job:
    rows = with_summaries(attach(job.settings["rows"], job.params.files))
    pick_examples(rows, job.settings, job.output.json, job.output.md)
