"""Score the explanations of all seeds of an experiment by the metrics that run no model, and join all scores."""

from xrec_repro.job import Job
from xrec_repro.metrics.stages import score_and_merge

with Job(snakemake) as job:
    folders = [path.parent for path in job.output.scores]
    job.result = score_and_merge(job.settings["metrics"], job.params.metrics, vars(job.input), folders)
