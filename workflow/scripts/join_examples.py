"""Join all that is known of each pair with a reference explanation."""

from xrec_repro.data.examples import join_examples
from xrec_repro.job import Job

with Job(snakemake) as job:
    files = job.input
    job.result = join_examples(
        files.texts, files.references, files.user_profiles, files.item_profiles, files.interactions, job.output.examples
    )
