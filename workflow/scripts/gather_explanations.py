"""Join the explanations of all shards."""

from xrec_repro.examples import load_examples
from xrec_repro.job import Job
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import gather, make_method
from xrec_repro.provenance import require_one_kind

with Job(snakemake) as job:
    require_one_kind(job.input.records)
    run = Run(seed=job.seed, sections=job.settings, inputs=vars(job.input))
    test = [example for example in load_examples(job.input.examples) if example.split == "test"]
    examples = make_method(job.settings["method"], "gather", run).explained(test)
    job.result = gather(job.input.parts, examples, job.settings["generation"], job.output.explanations)
    job.result["parts"] = list(map(str, job.input.records))
