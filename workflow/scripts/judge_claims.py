"""Judge the study's claims by the published numbers and by this run's scores."""

from xrec_repro.job import Job
from xrec_repro.paper.claims import judge_claims
from xrec_repro.scores import attach

with Job(snakemake) as job:
    judge_claims(
        attach(job.settings["rows"], job.params.files),
        job.settings["claims"],
        job.settings["statistics"],
        job.params.resources,
        job.output.json,
        job.output.md,
    )
