"""Print table 1: published rows beside the measured ones."""

from pathlib import Path

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.paper.tables import make_table1

with Job(snakemake) as job:
    rows = job.settings["rows"]
    summaries = map(read_json, job.input.summaries)
    make_table1(
        [row | {"summary": summary} for row, summary in zip(rows, summaries, strict=True)],
        {row["dataset"]: row["published_as"] for row in rows},
        Path(job.params.resources),
        job.output.csv,
        job.output.md,
        job.output.tex,
    )
