"""Write item profiles, then user profiles."""

from pathlib import Path

from xrec_repro.job import Job
from xrec_repro.profiles.build import build_profiles

with Job(snakemake) as job:
    job.device()
    job.result = build_profiles(
        job.input.interactions,
        job.input.item_table,
        job.input.graph,
        job.settings["profiles"],
        job.params.domain,
        job.output.user_profiles,
        job.output.item_profiles,
        published_texts=getattr(job.input, "published", None),
        cache=Path(job.params.cache),
    )
