"""What the rules that score name: files of all seeds, what decides scores, and how often a metric failed before."""


def each_seed(*names):
    """Return files of an experiment, of each seed."""
    return expand(f"{EXPERIMENT}/metrics/{{name}}", name=names, seed=PLAN.seeds, allow_missing=True)


def metric_params(metric, folder):
    """Return what decides a metric's scores: settings, its own files, and the libraries that its signature names.

    Args:
        metric: Its name.
        folder: Where its failures are counted.
    """
    return {
        **split_params({"metrics": {metric: config["metrics"][metric]}}),
        "metric": metric,
        "models": own_digests(asked(PLAN.metric_places, metric)),
        "libraries": PLAN.metric_libraries(metric),
        "failed_before": failed_before(folder),
    }


def shared_params(chosen, *folders):
    """Return the same for metrics that share a job.

    Args:
        chosen: A function of the wildcards: the metrics.
        folders: Where their failures are counted.
    """
    return {
        **split_params(lambda wildcards: {"metrics": {name: config["metrics"][name] for name in chosen(wildcards)}}),
        "models": own_digests(lambda wildcards: PLAN.shared_places(wildcards, chosen(wildcards))),
        "libraries": lambda wildcards: PLAN.metric_libraries(*chosen(wildcards)),
        "failed_before": failed_before(*folders),
    }


def failed_before(*folders):
    """Return a params function: how many failures are counted in folders; one more makes the rule due again."""

    def count(wildcards):
        records = [Path(f"{folder}/failures.txt".format(**wildcards)) for folder in folders]
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in records if path.is_file())

    return count
