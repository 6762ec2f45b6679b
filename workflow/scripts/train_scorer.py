"""Train a small scorer on train-split references."""

from xrec_repro.explainer.examples import load_examples
from xrec_repro.job import Job
from xrec_repro.scorers import train_scorer

with Job(snakemake) as job:
    job.set_threads()
    references = [
        example.reference
        for texts, written in zip(job.input.texts, job.input.references, strict=True)
        for example in load_examples(texts, written)
        if example.split == "train"
    ]
    job.result = train_scorer(job.params.scorer, references, job.settings, job.output.model, job.fingerprint)
