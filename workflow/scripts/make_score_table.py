"""Print table 1 or 2: published rows beside the measured ones."""

from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.paper.tables import make_score_table
from xrec_repro.scores import attach, with_summaries

with Job(snakemake) as job:
    rows = with_summaries(attach(job.settings["rows"], job.params.files))
    for row in rows:
        row["test_examples"] = read_json(row["generate"])["result"]["test_examples"]
    make_score_table(
        job.settings["number"],
        rows,
        {row["dataset"]: row["published_as"] for row in rows},
        job.params.resources,
        job.output.csv,
        job.output.md,
        job.output.tex,
        columns=job.settings["columns"],
        all_published=job.settings["published"] == "all",
        primary=job.settings["primary"],
        show_difference=job.settings["show_difference"],
    )
