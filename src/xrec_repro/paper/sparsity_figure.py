"""Figure 4 of the XRec paper: scores by how often a test user occurs in the training data."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.kinds import warnings
from xrec_repro.paper.sparsity import FEWEST, NOTHING_SCORED, ZERO_SHOT, group_rank
from xrec_repro.paper.style import Look, drawing, footnote, line, look, metric_label, range_lines, save, series_legend
from xrec_repro.scores import refuse_repeats

_DODGE = 0.09  # between experiments, in groups
_ORDERS = {
    "tst": "the fewest train interactions (tst1) to those with most",
    "ds": "most train interactions (ds1) to those with the fewest",
}


def figure4(
    groups: Sequence[Mapping[str, Any]], out_pdf: str | Path, out_png: str | Path, settings: Mapping[str, Any]
) -> str:
    """Draw scores by group of users: one panel a metric and data set, one line an experiment.

    Args:
        groups: Rows as `write_sparsity` writes them, each with dataset_label, experiment_label and train, and maybe
            kind, few and ranges, besides what `scores_by_group` gives.
        out_pdf: Where the PDF goes.
        out_png: Where the PNG goes.
        settings: ``metrics``: which to draw, of those that are scored; ``confidence``: of the intervals, e.g. 0.95;
            maybe ``captions`` and ``sizes`` (`style`).

    Returns:
        The caption, which is also printed under the figure.

    Raises:
        DataError: There is no group, or one is given twice.
        ConfigError: No group has one of the metrics.
    """
    if not groups:
        raise DataError(f"{out_pdf}: there is no group of users to draw; name an experiment in run.experiments")
    keys = ("dataset_label", "experiment_label", "group")
    refuse_repeats((" / ".join(row[key] for key in keys) for row in groups), "figure 4: ")
    metrics = [metric for metric in settings["metrics"] if any(metric in row["scores"] for row in groups)]
    if not metrics and any(row.get("failed") for row in groups):
        return _nothing(groups, out_pdf, out_png, settings)
    if not metrics:
        raise ConfigError(NOTHING_SCORED.format(", ".join(settings["metrics"])))
    datasets = list(dict.fromkeys(row["dataset_label"] for row in groups))
    looks = {label: look(n) for n, label in enumerate(dict.fromkeys(row["experiment_label"] for row in groups))}
    caption = _caption(groups, settings["confidence"])
    size = max(6.5, 3.6 * len(datasets)), 1.5 + 2.2 * len(metrics)
    with drawing(*size, settings, "figure4") as figure:
        grid = figure.subplots(len(metrics), len(datasets), squeeze=False, sharex="col")
        for metric, axes_row in zip(metrics, grid, strict=True):
            for dataset, axes in zip(datasets, axes_row, strict=True):
                _draw(axes, [row for row in groups if row["dataset_label"] == dataset], metric, looks)
            axes_row[0].set_ylabel(metric_label(metric))
        ranged = any(metrics[0] in row.get("ranges", {}) for row in groups)  # named between title and panel
        for dataset, axes in zip(datasets, grid[0], strict=True):
            axes.set_title(dataset, fontweight="bold", pad=16 if ranged else 6)
        for axes in grid[-1]:
            axes.set_xlabel("train interactions of the user")
        figure.align_ylabels()
        few = {row["experiment_label"] for row in groups if row.get("few")}
        series_legend(figure, {label + "†" * (label in few): seen for label, seen in looks.items()})
        footnote(figure, caption, settings)
        save(figure, out_pdf, out_png)
    return caption


def _nothing(
    groups: Sequence[Mapping[str, Any]], out_pdf: str | Path, out_png: str | Path, settings: Mapping[str, Any]
) -> str:
    """Draw why there is nothing to draw, and return it."""
    failed = dict.fromkeys(f"{metric}: {why}" for row in groups for metric, why in row["failed"].items())
    caption = f"No metric of this figure has scores. {' '.join(failed)}"
    with drawing(6.5, 1.5, settings, "figure4") as figure:
        footnote(figure, caption, {**settings, "captions": True})
        save(figure, out_pdf, out_png)
    return caption


def _caption(groups: Sequence[Mapping[str, Any]], confidence: float) -> str:
    order = _ORDERS["tst" if any(row["group"].startswith("tst") for row in groups) else "ds"]
    parts = [
        f"Mean score by group of users, from those with {order}; 0: zero-shot users. n: test examples. "
        "Axes do not start at 0. "
        f"Whiskers: {100 * confidence:g} % bootstrap interval, of means of at least {FEWEST} scores."
    ]
    if any(row.get("ranges") for row in groups):
        parts.append("Chance, and the reference explanations' own score: over the whole test set.")
    few = dict.fromkeys(f"{row['dataset_label']}: {row['experiment_label']}" for row in groups if row.get("few"))
    if few:
        parts.append(f"† a part of the test set only ({'; '.join(few)}).")
    parts += warnings(row.get("kind") for row in groups)
    return " ".join(parts)


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], metric: str, looks: Mapping[str, Look]) -> None:
    names = sorted({row["group"] for row in rows}, key=group_rank)
    shift = -_DODGE * (len(looks) - 1) / 2
    for number, (label, seen) in enumerate(looks.items()):
        scored = [row for row in rows if row["experiment_label"] == label and metric in row["scores"]]
        own = {row["group"]: row["scores"][metric] for row in scored}
        places = [names.index(group) + shift + _DODGE * number for group in names]
        means = [own[group][0] if group in own else math.nan for group in names]
        trained = len([group for group in names if group != ZERO_SHOT])
        for part in (slice(None, trained), slice(trained, None)):  # nothing lies between tst5 and zero-shot
            axes.plot(places[part], means[part], zorder=3, **line(seen))
        for place, group in zip(places, names, strict=True):
            _, low, high = own.get(group, (None, None, None))
            if low is not None and high is not None:
                axes.vlines(place, low, high, color=seen.colour, linewidth=1.2, zorder=2)
    if not any(metric in row["scores"] for row in rows):
        axes.text(0.5, 0.5, "not scored", transform=axes.transAxes, ha="center", color="0.25")
    known = next((row["ranges"][metric] for row in rows if row.get("ranges", {}).get(metric)), None)
    if known:
        range_lines(axes, known)
    ticks = [_tick([row for row in rows if row["group"] == name]) for name in names]
    axes.set_xticks(range(len(names)), ticks, fontsize=8)  # n=77–162 touches no neighbour
    axes.margins(x=0.05)


def _tick(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many train interactions the members of a group have, and its test examples."""
    spans = rows[0]["train"], (min(row["n"] for row in rows), max(row["n"] for row in rows))
    return "\nn=".join(str(low) if low == high else f"{low}–{high}" for low, high in spans)
