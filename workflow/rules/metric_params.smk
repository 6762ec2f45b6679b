"""Parameters of the rules that score: what decides a metric's scores, and how often it failed before."""


def metric_params(metric):
    """Return what decides a metric's scores: settings, code, its own files, and the libraries that its signature names."""
    return {
        **split_params({"metrics": {metric: config["metrics"][metric]}}),
        "metric": metric,
        "models": own_digests(asked(PLAN.metric_places, metric)),
        "libraries": PLAN.metric_libraries(metric),
    }


def failure_params(folder):
    """Return where a metric's failures are counted, and their number: one more makes the rule due again."""
    record = f"{folder}/failures.txt"

    def count(wildcards):
        path = Path(record.format(**wildcards))
        return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0

    return {"failures": record, "failed_before": count}
