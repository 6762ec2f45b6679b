"""Write the reference explanations."""

from xrec_repro.job import Job
from xrec_repro.profiles.build import build_references
from xrec_repro.profiles.writer import chat_writer

with Job(snakemake) as job:
    device = job.device() if hasattr(job.params, "compute") else "cpu"
    job.result = build_references(
        job.input.interactions,
        job.input.item_table,
        job.input.texts,
        job.settings["profiles"],
        job.params.domain,
        job.output.references,
        published_texts=getattr(job.input, "published", None),
        chat=chat_writer(
            job.settings["profiles"], "references", job.params.domain, job.params.source, job.params.cache, device
        ),
    )
