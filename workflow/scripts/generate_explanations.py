"""Have a method explain the test split, or a shard of it."""

from pathlib import Path

from xrec_repro.examples import load_examples
from xrec_repro.job import Job
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import load_fitted, make_method, write_explanations
from xrec_repro.shards import Shard

with Job(snakemake) as job:
    files = vars(job.input)
    run = Run(seed=job.seed, device=job.device(), domain=job.settings["domain"], sections=job.settings, inputs=files)
    method = make_method(job.settings["method"], "write", run)
    method.load(load_fitted(files["weights"].parent) if "weights" in files else None)
    examples = load_examples(files["examples"], job.settings["profiles_shown"])
    job.result = write_explanations(
        method,
        [example for example in examples if example.split == "test"],
        job.settings["generation"],
        Path(job.params.partial),
        job.output.explanations,
        job.fingerprint,
        shard=Shard.parse(job.params.shard),
    )
