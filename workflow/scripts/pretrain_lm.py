"""Pretrain a small language model on train-split text."""

from xrec_repro.examples import load_examples
from xrec_repro.explainer.pretrain import pretrain
from xrec_repro.job import Job

with Job(snakemake) as job:
    job.set_threads()
    examples = load_examples(job.input.examples)
    train = [example for example in examples if example.split == "train"]
    # Beside the declared folder, which Snakemake removes with all that is in it when the job fails.
    checkpoint = job.output.model.with_name("checkpoint.safetensors")
    job.result = pretrain(train, job.params.domain, job.settings, job.output.model, checkpoint, job.fingerprint)
