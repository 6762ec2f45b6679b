"""Sweeps: how scores and the held-out loss move with one setting (the study's next checks)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_json, write_text
from xrec_repro.kinds import warnings
from xrec_repro.paper.rows import ranges
from xrec_repro.paper.style import Look, drawing, footnote, line, look, metric_label, range_lines, save, series_legend
from xrec_repro.scores import VALIDATION_LOSS, Run, load_runs, validation_loss
from xrec_repro.statistics import Settings, estimates

_SPANNING = 4  # from this ratio of the largest value to the smallest on, the axis is logarithmic
Line = dict[str, Any]


def figure_sweeps(
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    out_pdf: str | Path,
    out_png: str | Path,
    out_csv: str | Path,
) -> str:
    """Draw metrics over the values of a setting, one column a sweep and one row a metric, and write the numbers.

    Args:
        rows: One a sweep, value and seed: what `scores.load_runs` needs, `sweep`, `key` (of the setting), `value`,
            `own` (whether it is the base's), `base_label`, and `train`: the adapter's provenance.json, or None.
        settings: ``metrics``: score columns, and ``validation_loss`` for the mean loss of the validation examples
            (nats per token); those that no row has are left out. ``statistics``: that section; maybe
            ``captions`` and ``sizes`` (`style`).
        out_pdf: Where the PDF goes.
        out_png: Where the PNG goes.
        out_csv: One line a sweep, value and metric: mean (over examples and seeds), bootstrap interval (none for
            the loss and for scores of a whole set of texts), n, missing, seeds, sample standard deviation over seeds,
            the mean of each seed, signature.

    Returns:
        The caption, which is also printed under the figure.

    Raises:
        DataError: There is no row, files are unusable, or the values of a sweep were not scored alike.
        ConfigError: None of the metrics is there.
    """
    if not rows:
        raise DataError(f"{out_pdf}: there is no sweep to draw; describe one in sweeps")
    statistics = Settings.from_settings(settings["statistics"])
    lines = [one for members in _members(rows) for one in _measured(members, settings["metrics"], statistics)]
    metrics = [metric for metric in settings["metrics"] if any(one["metric"] == metric for one in lines)]
    if not metrics:
        raise ConfigError("paper.sweeps.metrics: none of them is there; name others, or score them")
    _refuse_mixed(lines)
    numbers = pd.DataFrame(lines).astype({"n": "Int64", "missing": "Int64"})
    write_text(out_csv, numbers.to_csv(index=False, lineterminator="\n"))
    caption = _caption(rows, lines, statistics)
    _draw_all(rows, lines, metrics, caption, settings, (out_pdf, out_png))
    return caption


def _members(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the rows of each sweep and value: its seeds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["sweep"], row["experiment"]), []).append(row)
    return list(groups.values())


def _measured(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], statistics: Settings) -> Iterator[Line]:
    """Yield the lines of the CSV file for one value of a sweep."""
    run = load_runs(rows)[0]
    about = {key: rows[0][key] for key in ("sweep", "key", "dataset", "value", "experiment", "own")}
    for metric in metrics:
        numbers = _loss(rows) if metric == VALIDATION_LOSS else _score(run, metric, statistics)
        if numbers:
            yield about | {"metric": metric} | numbers


def _score(run: Run, metric: str, statistics: Settings) -> Line | None:
    if metric not in run.signatures:
        return None
    found = estimates(run.files, [metric], statistics, run.corpus)[0]
    return {
        "mean": found.mean,
        "low": found.mean_low,
        "high": found.mean_high,
        "n": found.n,
        "missing": found.missing,
        **_over_seeds(found.seed_means),
        "signature": run.signatures[metric],
    }


def _loss(rows: Sequence[Mapping[str, Any]]) -> Line | None:
    losses = [validation_loss(row["train"]) for row in rows if row["train"]]
    if not losses or None in losses:  # without embeddings nothing is tuned; without validation texts nothing measured
        return None
    unknown = dict.fromkeys(("low", "high", "n", "missing"))
    return {"mean": fmean(losses), **unknown, **_over_seeds(losses), "signature": None}


def _over_seeds(means: Sequence[float]) -> Line:
    sd = stdev(means) if len(means) > 1 else None
    return {"seeds": len(means), "seed_sd": sd, "seed_means": " ".join(map(repr, map(float, means)))}


def _refuse_mixed(lines: Sequence[Line]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for one in lines:
        first = seen.setdefault((one["sweep"], one["metric"]), one["signature"])
        if first != one["signature"]:
            place = f"sweeps.{one['sweep']}: {one['metric']}"
            raise DataError(f"{place} would mix {first!r} and {one['signature']!r}; score all values alike")


def _draw_all(
    rows: Sequence[Mapping[str, Any]],
    lines: Sequence[Line],
    metrics: Sequence[str],
    caption: str,
    settings: Mapping[str, Any],
    paths: tuple[str | Path, str | Path],
) -> None:
    sweeps = {row["sweep"]: row for row in rows}  # any row of each knows what all of its sweep have in common
    looks = {label: look(n) for n, label in enumerate(dict.fromkeys(row["base_label"] for row in sweeps.values()))}
    known = {sweep: ranges(read_json(row["summary"])) for sweep, row in sweeps.items()}
    few = {row["base_label"] for row in rows if row.get("few")}
    with drawing(max(5.0, 3.2 * len(sweeps)), 1.5 + 1.9 * len(metrics), settings, "sweeps") as figure:
        grid = figure.subplots(len(metrics), len(sweeps), squeeze=False, sharex="col", sharey="row")
        for metric, axes_row in zip(metrics, grid, strict=True):
            for (sweep, row), axes in zip(sweeps.items(), axes_row, strict=True):
                points = [one for one in lines if one["sweep"] == sweep and one["metric"] == metric]
                values = list(dict.fromkeys(other["value"] for other in rows if other["sweep"] == sweep))
                _draw(axes, points, values, looks[row["base_label"]])
                if points and metric in known[sweep]:
                    range_lines(axes, known[sweep][metric])
            loss = "validation loss\n(nats per token)"
            axes_row[0].set_ylabel(loss if metric == VALIDATION_LOSS else metric_label(metric))
        for row, first, last in zip(sweeps.values(), grid[0], grid[-1], strict=True):
            first.set_title(
                f"{row['dataset_label']}: {row['sweep']}",
                fontweight="bold",
                pad=16 if metrics[0] in known[row["sweep"]] else 6,
            )
            last.set_xlabel(row["key"])
        figure.align_ylabels()
        series_legend(figure, {label + "†" * (label in few): seen for label, seen in looks.items()})
        footnote(figure, caption, settings)
        save(figure, *paths)


def _draw(axes: Axes, points: Sequence[Line], values: Sequence[Any], seen: Look) -> None:
    """Draw the points of a panel, whose column has these values."""
    numeric = _numeric(values)
    if numeric and _logarithmic(values):
        axes.set_xscale("log", base=2)
    axes.set_xticks(values if numeric else range(len(values)), [_text(value) for value in values])
    axes.minorticks_off()
    axes.ticklabel_format(axis="y", useOffset=False)
    places = [one["value"] if numeric else values.index(one["value"]) for one in points]
    ranked = sorted(zip(places, points, strict=True), key=lambda pair: pair[0])
    style = line(seen) | ({} if numeric else {"linestyle": "none"})  # nothing lies between words
    axes.plot([place for place, _ in ranked], [one["mean"] for _, one in ranked], zorder=3, **style)
    for place, one in ranked:
        if one["low"] is not None:
            axes.vlines(place, one["low"], one["high"], color=seen.colour, linewidth=1.2, zorder=2)
        if one["seeds"] > 1:
            means = [float(mean) for mean in one["seed_means"].split()]
            axes.plot([place] * len(means), means, "o", color="0.45", markersize=2.5, linestyle="none", zorder=4)
        if one["own"]:
            axes.axvline(place, color="0.45", linestyle=":", linewidth=1, zorder=1)
    if not points:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="0.25")
    axes.margins(x=0.08)


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _logarithmic(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) >= _SPANNING * min(values)


def _text(value: Any) -> str:
    return f"{value:g}" if _numeric([value]) else str(value).lower() if isinstance(value, bool) else str(value)


def _caption(rows: Sequence[Mapping[str, Any]], lines: Sequence[Line], statistics: Settings) -> str:
    parts = ["Means with one setting changed at a time; dotted: the base's own value. Axes do not start at 0."]
    if any(one["low"] is not None for one in lines):
        parts.append(
            f"Whiskers: {statistics.confidence:.0%} bootstrap interval of the mean over the test examples; it says "
            "nothing about another training."
        )
    if any(one["metric"] == VALIDATION_LOSS for one in lines):
        parts.append("Of the validation loss, lower is better; it has no interval.")
    seeds = max(one["seeds"] for one in lines)
    if seeds > 1:
        parts.append(f"Small grey dots: single seeds ({seeds}).")
    if any(row.get("few") for row in rows):
        parts.append("† A part of the test set only.")
    parts += warnings(row["kind"] for row in rows)
    return " ".join(parts)
