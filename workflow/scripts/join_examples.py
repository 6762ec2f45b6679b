"""Join all that is known of each pair with a reference explanation."""

from xrec_repro.data.examples import join_examples
from xrec_repro.job import Job

with Job(snakemake) as job:
    files = vars(job.input)
    profiles = files.get("user_profiles"), files.get("item_profiles")
    job.result = join_examples(
        files["texts"], files["references"], *profiles, files["interactions"], job.output.examples
    )
