"""Print table 3: times and emissions, published beside measured."""

from xrec_repro.accounting.jobs import attempts_of
from xrec_repro.io import read_json
from xrec_repro.job import Job
from xrec_repro.paper.costs import make_table3
from xrec_repro.scores import attach

with Job(snakemake) as job:
    jobs = read_json(job.input.jobs)
    entries = []
    for row in attach(job.settings["rows"], job.params.files):
        made = {"n_test": read_json(row["generate"])["result"]["explanations"], "train": None, "stopped_early": False}
        made["generate"] = attempts_of(row["generate"], jobs)
        if row["train"]:
            early = read_json(row["train"])["result"].get("stopped_early", False)
            made |= {"train": attempts_of(row["train"], jobs), "stopped_early": bool(early)}
        entries.append(row | made)
    make_table3(
        entries,
        {row["dataset"]: row["published_as"] for row in entries},
        job.params.resources,
        job.settings["emissions"],
        job.output.csv,
        job.output.md,
        job.output.tex,
        all_published=job.settings["published"] == "all",
        jobs=jobs,
    )
