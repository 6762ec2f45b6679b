"""Generate explanations of the test split, or of a shard of it."""

from pathlib import Path

from xrec_repro.examples import load_examples
from xrec_repro.explainer.assemble import tuned_explainer, untuned_explainer
from xrec_repro.explainer.generation import generate
from xrec_repro.job import Job
from xrec_repro.shards import Shard

with Job(snakemake) as job:
    device = job.device()
    files = vars(job.input)
    examples = load_examples(files["examples"], job.settings["prompt"]["profiles"])
    if "weights" in files:
        explainer = tuned_explainer(
            job.settings, files["weights"].parent, files.get("embeddings"), files.get("llm"), job.seed, device
        )
    else:
        explainer = untuned_explainer(job.settings, job.settings["domain"], files.get("llm"), device)
    job.result = generate(
        explainer,
        [example for example in examples if example.split == "test"],
        job.settings["generation"],
        job.seed,
        Path(job.params.partial),
        job.output.explanations,
        job.fingerprint,
        shard=Shard.parse(job.params.shard),
    )
