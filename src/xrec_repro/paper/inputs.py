"""From the lists of files that a rule names to the rows that the paper stage works on."""

from collections.abc import Mapping, Sequence
from typing import Any


def attach(rows: Sequence[Mapping[str, Any]], files: Mapping[str, Sequence[str | None]]) -> list[dict[str, Any]]:
    """Give each row its file of every kind.

    Args:
        rows: One a data set, experiment and seed.
        files: Kind, e.g. ``scores`` -> a path for each row, or None where it has none.
    """
    return [{**row, **{kind: paths[i] for kind, paths in files.items()}} for i, row in enumerate(rows)]


def with_intervals(rows: Sequence[Mapping[str, Any]], statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give each row ``intervals``, column -> (low, high), from statistics.json: of means, and of ``<metric>_std``."""
    found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for one in statistics["estimates"]:
        if one["mean_low"] is not None:
            place = found.setdefault((one["dataset"], one["experiment"]), {})
            place[one["metric"]] = (one["mean_low"], one["mean_high"])
            place[f"{one['metric']}_std"] = (one["std_low"], one["std_high"])
    return [{**row, "intervals": found.get((row["dataset"], row["experiment"]), {})} for row in rows]
