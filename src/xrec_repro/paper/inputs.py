"""From the lists of files that a rule names to the rows that the paper stage works on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xrec_repro.errors import DataError
from xrec_repro.io import read_json
from xrec_repro.metrics.columns import known_metrics

VALIDATION_LOSS = "validation_loss"


def attach(rows: Sequence[Mapping[str, Any]], files: Mapping[str, Sequence[str | None]]) -> list[dict[str, Any]]:
    """Give each row its file of every kind.

    Args:
        rows: One a data set, experiment and seed.
        files: Kind, e.g. ``scores`` -> a path for each row, or None where it has none.
    """
    return [{**row, **{kind: paths[i] for kind, paths in files.items()}} for i, row in enumerate(rows)]


def with_summaries(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give each row the content of its summary, less what failed or is absent, and ``failed``: metric -> reason.

    A metric that failed for one seed of an experiment is left out of all its seeds: no mean is over a part of them.

    Args:
        rows: One a data set, experiment and seed, with ``summary``: the file, or its content.

    Raises:
        DataError: A summary is not one.
    """
    found = []
    for row in rows:
        content = row["summary"] if isinstance(row["summary"], Mapping) else read_json(row["summary"])
        if not isinstance(content, Mapping) or not all(isinstance(cell, Mapping) for cell in content.values()):
            place = f"{row['dataset']}/{row['experiment']}/seed{row['seed']}"
            raise DataError(f"{place}: its summary is not one of scores; score it again")
        found.append({**row, "summary": content})
    failed: dict[tuple[str, str], dict[str, str]] = {}
    for row in found:
        reasons = {name: cell["failed"] for name, cell in row["summary"].items() if "failed" in cell}
        failed.setdefault((row["dataset"], row["experiment"]), {}).update(reasons)
    for row in found:
        row["failed"] = failed[row["dataset"], row["experiment"]]
        row["summary"] = {
            name: cell
            for name, cell in row["summary"].items()
            if "absent" not in cell and reason_of(name, row["failed"]) is None
        }
    return found


def reason_of(column: str, failed: Mapping[str, str]) -> str | None:
    """Return why a column is empty, of metrics that failed; None if its metric did not.

    Of a metric that is not known, its name stands for its columns.
    """
    known = known_metrics()
    return next((why for name, why in failed.items() if column in known.get(name, (name,)) or column == name), None)


def with_intervals(rows: Sequence[Mapping[str, Any]], statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give each row ``intervals``, column -> (low, high), from statistics.json: of means, and of ``<metric>_std``."""
    found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for one in statistics["estimates"]:
        if one["mean_low"] is not None:
            place = found.setdefault((one["dataset"], one["experiment"]), {})
            place[one["metric"]] = (one["mean_low"], one["mean_high"])
            place[f"{one['metric']}_std"] = (one["std_low"], one["std_high"])
    return [{**row, "intervals": found.get((row["dataset"], row["experiment"]), {})} for row in rows]


def validation_loss(path: str | Path) -> float | None:
    """Return the mean loss of the validation examples (nats per token) after tuning, None where there are none.

    Args:
        path: The adapter's provenance.json.

    Raises:
        DataError: It has no such number, or one that is not finite.
    """
    try:
        loss = read_json(path)["result"][VALIDATION_LOSS]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: result.{VALIDATION_LOSS} is missing; tune the experiment again") from error
    if loss is not None and not math.isfinite(loss):
        raise DataError(f"{path}: result.{VALIDATION_LOSS} is {loss}; tune the experiment again")
    return loss
