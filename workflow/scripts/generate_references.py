"""Write the reference explanations."""

from pathlib import Path

from xrec_repro.job import Job
from xrec_repro.profiles.build import build_references

with Job(snakemake) as job:
    job.device()
    job.result = build_references(
        job.input.interactions,
        job.input.item_table,
        job.input.texts,
        job.settings["profiles"],
        job.params.domain,
        job.output.references,
        published_texts=getattr(job.input, "published", None),
        cache=Path(job.params.cache),
    )
