"""Train a small scorer on train-split references."""

from xrec_repro.examples import load_examples
from xrec_repro.job import Job
from xrec_repro.scorers import train_scorer

with Job(snakemake) as job:
    job.set_threads()
    references = [
        example.reference for path in job.input.examples for example in load_examples(path) if example.split == "train"
    ]
    job.result = train_scorer(job.params.scorer, references, job.settings, job.output.model, job.fingerprint)
