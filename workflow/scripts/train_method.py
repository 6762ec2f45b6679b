"""Train a method on the train split."""

from pathlib import Path

from xrec_repro.examples import load_examples
from xrec_repro.job import Job
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import fit, make_method

with Job(snakemake) as job:
    run = Run(
        seed=job.seed,
        device=job.device(),
        domain=job.settings["domain"],
        sections=job.settings,
        inputs=vars(job.input),
        checkpoint=Path(job.params.checkpoint),
        identity=job.fingerprint,
    )
    examples = load_examples(job.input.examples, job.settings["profiles_shown"])
    job.result = fit(make_method(job.settings["method"], "fit", run), examples, job.output.weights.parent)
