"""Join the explanations of all shards."""

from xrec_repro.examples import load_examples
from xrec_repro.explainer.gather import gather_explanations
from xrec_repro.job import Job
from xrec_repro.provenance import require_one_kind

with Job(snakemake) as job:
    require_one_kind(job.input.records)
    files = vars(job.input)
    examples = load_examples(files["examples"], job.settings["prompt"]["profiles"])
    job.result = gather_explanations(
        job.input.parts,
        [example for example in examples if example.split == "test"],
        job.settings["generation"],
        job.output.explanations,
    )
    job.result["parts"] = list(map(str, job.input.records))
