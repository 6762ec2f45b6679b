"""Tune the adapters through the frozen language model."""

from pathlib import Path

from xrec_repro.examples import load_examples
from xrec_repro.explainer.assemble import fresh_explainer
from xrec_repro.explainer.stages import tune_and_save
from xrec_repro.job import Job

with Job(snakemake) as job:
    device = job.device()
    files = vars(job.input)
    job.result = tune_and_save(
        fresh_explainer(
            job.settings, job.settings["domain"], files.get("embeddings"), files.get("llm"), job.seed, device
        ),
        load_examples(files["examples"], job.settings["prompt"]["profiles"]),
        job.settings,
        job.seed,
        job.output.weights.parent,
        Path(job.params.checkpoint),
        job.fingerprint,
    )
