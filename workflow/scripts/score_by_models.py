"""Score the explanations of all seeds of an experiment by the metrics that run models."""

from xrec_repro.job import Job
from xrec_repro.metrics.stages import score_by_models

with Job(snakemake) as job:
    metrics = {name: job.settings["metrics"][name] for name in job.params.metrics}
    folders = job.output.scores[: len(job.input.explanations)]
    device = job.device()
    job.result = score_by_models(metrics, vars(job.input), [p.parents[1] for p in folders], device, job.fingerprint)
