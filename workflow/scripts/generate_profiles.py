"""Write item profiles, then user profiles."""

from xrec_repro.job import Job
from xrec_repro.profiles.build import build_profiles
from xrec_repro.profiles.writer import chat_writer

with Job(snakemake) as job:
    device = job.device() if hasattr(job.params, "compute") else "cpu"
    job.result = build_profiles(
        job.input.interactions,
        job.input.item_table,
        job.input.graph,
        job.settings["profiles"],
        job.params.domain,
        job.output.user_profiles,
        job.output.item_profiles,
        published_texts=getattr(job.input, "published", None),
        chat=chat_writer(
            job.settings["profiles"], "backend", job.params.domain, job.params.source, job.params.cache, device
        ),
    )
