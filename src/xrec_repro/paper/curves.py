"""Curves: training losses over the steps (figure 3), and scores over the values of one setting (sweeps)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.estimates import estimates
from xrec_repro.io import read_json, read_table, write_text
from xrec_repro.kinds import warnings
from xrec_repro.paper.rows import ranges
from xrec_repro.paper.style import (
    Look,
    drawing,
    footnote,
    hollow,
    line,
    look,
    metric_label,
    range_lines,
    save,
    series_legend,
)
from xrec_repro.scores import VALIDATION_LOSS, Run, load_runs, validation_loss
from xrec_repro.statistic_settings import Settings

_CURVE = pa.schema({"step": pa.int32(), "loss": pa.float64()})
_COVERED = (0.5, 99.5)  # percentiles of the raw losses that the axis covers
_FAINT = 2  # so many experiments of a panel have room for the loss of every step
_POINTS = 500  # of a smoothed line, more than a printer tells apart
_SPANNING = 4  # from this ratio of the largest value to the smallest on, the axis is logarithmic
Numbers = dict[str, Any]


def smooth(losses: Sequence[float], method: str, window: int) -> np.ndarray:
    """Smooth a training curve by looking back only, so that no step knows its future.

    Args:
        losses: One a step.
        method: ``rolling``, the mean of the last `window` losses (of as many as there are, at the start); or
            ``ema``, the exponential moving average of span `window`, its weights normalised at every step.
        window: In steps.

    Returns:
        As many values.

    Raises:
        ConfigError: The method is unknown or the window is no positive whole number.
    """
    if method not in ("rolling", "ema"):
        raise ConfigError(f"paper.figure3.method: {method!r}; say rolling or ema")
    if not isinstance(window, int) or window < 1:
        raise ConfigError(f"paper.figure3.window: {window!r}; give a number of steps of at least 1")
    series = pd.Series(losses, dtype="float64")
    if method == "rolling":
        return series.rolling(window, min_periods=1).mean().to_numpy()
    return series.ewm(span=window, adjust=True).mean().to_numpy()


def figure3(
    curves: Sequence[Mapping[str, Any]], out_pdf: str | Path, out_png: str | Path, settings: Mapping[str, Any]
) -> str:
    """Draw the losses of some experiments, one panel a data set: in training, and on validation examples after it.

    Args:
        curves: Each of dataset, dataset_label, experiment_label, seed, training (a file with step and loss) and train
            (the adapter's provenance.json, which has the validation loss).
        out_pdf: Where the PDF goes.
        out_png: Where the PNG goes.
        settings: ``method`` and ``window`` of `smooth`; maybe ``captions`` and ``sizes`` (`style`).

    Returns:
        The caption, which is also printed under the figure.

    Raises:
        DataError: There is no curve, or a file is missing, empty, or holds a loss that is not a number.
        ConfigError: A setting is unknown.
    """
    if not curves:
        raise DataError(
            f"{out_pdf}: there is no training curve to draw; name trained experiments in paper.figure3.experiments"
        )
    labels = dict.fromkeys(curve["experiment_label"] for curve in curves)
    looks = {label: look(number) for number, label in enumerate(labels)}
    panels: dict[str, list[_Trained]] = {}
    for trained in _read_trained(curves, settings):
        panels.setdefault(trained.dataset, []).append(trained)
    caption = _loss_caption(list(panels.values()), settings)
    with drawing(max(6.5, 3.4 * len(panels)), 3.7, settings, "figure3") as figure:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (label, group) in zip(grid, panels.items(), strict=True):
            _draw_losses(axes, group, looks)
            axes.set_title(label, fontweight="bold")
        grid[0].set_ylabel("loss (nats per token)")
        validation = Line2D([], [], label="validation, at the end", **hollow("0.25", "o"))
        known = any(one.validation for group in panels.values() for one in group)
        series_legend(figure, looks, [validation] if known else [])
        footnote(figure, caption, settings)
        save(figure, out_pdf, out_png)
    return caption


@dataclass(frozen=True)
class _Trained:
    """An experiment on a data set: what each of its seeds has."""

    dataset: str
    label: str
    steps: list[np.ndarray]  # as many as each seed has
    losses: list[np.ndarray]  # one a step
    smoothed: list[np.ndarray]  # likewise
    validation: list[float]  # the loss after tuning, of the seeds that have one


def _read_trained(curves: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[_Trained]:
    found: dict[tuple[str, str], _Trained] = {}
    for curve in curves:
        place = curve["dataset_label"], curve["experiment_label"]
        own = found.setdefault(place, _Trained(*place, [], [], [], []))
        steps, losses = _read(curve["training"])
        own.steps.append(steps)
        own.losses.append(losses)
        own.smoothed.append(smooth(losses, settings["method"], settings["window"]))
        loss = validation_loss(curve["train"])
        own.validation.extend([] if loss is None else [loss])
    return list(found.values())


def _read(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    table = read_table(path, _CURVE)
    steps, losses = (table[name].to_numpy() for name in _CURVE.names)
    if not len(steps):
        raise DataError(f"{path}: there is no step in it; train the experiment again")
    if not np.isfinite(losses).all():
        row = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise DataError(f"{path}: the loss of step {steps[row]} is not a finite number; train the experiment again")
    return steps, losses


def _draw_losses(axes: Axes, group: Sequence[_Trained], looks: Mapping[str, Look]) -> None:
    shown: list[float] = []
    last = max(steps[-1] for one in group for steps in one.steps)
    for number, one in enumerate(group):
        seen = looks[one.label]
        if _is_faint(one, group):
            shown += _draw_raw(axes, one, seen)
        else:
            if len(one.steps) > 1:
                _draw_seeds(axes, one, seen)
            shown += [end for smoothed in one.smoothed for end in (smoothed.min(), smoothed.max())]
        length = min(map(len, one.steps))
        mean = np.mean([smoothed[:length] for smoothed in one.smoothed], axis=0)
        points = _spread(length)
        axes.plot(one.steps[0][points], mean[points], color="white", linewidth=3, zorder=3)
        axes.plot(one.steps[0][points], mean[points], markevery=0.15, zorder=4, **line(seen))
        place = last * (1.03 + 0.02 * number)
        axes.plot([place] * len(one.validation), one.validation, zorder=5, **hollow(seen.colour, seen.marker))
        shown += one.validation
    room = 0.05 * (max(shown) - min(shown)) or 0.05
    axes.set_ylim(min(shown) - room, max(shown) + room)
    axes.set_xlim(-0.01 * last, last * (1.03 + 0.02 * len(group)))
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _is_faint(one: _Trained, group: Sequence[_Trained]) -> bool:
    """Tell whether the loss of every step is drawn: of a single seed, where the others' do not hide it."""
    return len(one.steps) == 1 and len(group) <= _FAINT


def _draw_raw(axes: Axes, one: _Trained, seen: Look) -> list[float]:
    """Draw the loss of every step of a single seed; return what the axis is to cover."""
    # A picture of the raw losses: as lines, a long training would fill megabytes of PDF.
    axes.plot(one.steps[0], one.losses[0], color=seen.colour, alpha=0.18, linewidth=0.5, zorder=1, rasterized=True)
    low, high = np.percentile(one.losses[0], _COVERED)
    return [low, high, one.smoothed[0].min()]


def _draw_seeds(axes: Axes, one: _Trained, seen: Look) -> None:
    """Draw each of several seeds by itself."""
    for steps, smoothed in zip(one.steps, one.smoothed, strict=True):
        points = _spread(len(steps))
        axes.plot(steps[points], smoothed[points], color=seen.colour, alpha=0.45, linewidth=0.8, zorder=2)


def _spread(length: int) -> np.ndarray:
    """Return the places of a line's points."""
    return np.unique(np.linspace(0, length - 1, _POINTS).round().astype(int))


def _loss_caption(panels: Sequence[Sequence[_Trained]], settings: Mapping[str, Any]) -> str:
    trained = [one for group in panels for one in group]
    window = settings["window"]
    how = {
        "rolling": f"the mean of the last {window} steps (of fewer at the start)",
        "ema": f"the exponential moving average of span {window} steps",
    }[settings["method"]]
    parts = [f"Loss on the explanations' tokens in training: {how}."]
    seeds = max(len(one.steps) for one in trained)
    if seeds > 1:
        parts.append(f"Strong: the mean over the seeds ({seeds}), as far as all have steps; thin: each seed.")
    if any(_is_faint(one, group) for group in panels for one in group):
        parts.append(
            "Faint: every step; the vertical axis is cut to the range of "
            f"{_COVERED[1] - _COVERED[0]:.0f} % of the steps."
        )
    if any(one.validation for one in trained):
        parts.append("Hollow, at the right: mean loss of the validation examples after the last step, one a seed.")
    return " ".join(parts)


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
    lines = [one for members in _by_value(rows) for one in _numbers(members, settings["metrics"], statistics)]
    metrics = [metric for metric in settings["metrics"] if any(one["metric"] == metric for one in lines)]
    if not metrics:
        raise ConfigError("paper.sweeps.metrics: none of them is there; name others, or score them")
    _refuse_mixed(lines)
    numbers = pd.DataFrame(lines).astype({"n": "Int64", "missing": "Int64"})
    write_text(out_csv, numbers.to_csv(index=False, lineterminator="\n"))
    caption = _sweep_caption(rows, lines, statistics)
    _draw_sweeps(rows, lines, metrics, caption, settings, (out_pdf, out_png))
    return caption


def _by_value(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the rows of each sweep and value: its seeds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["sweep"], row["experiment"]), []).append(row)
    return list(groups.values())


def _numbers(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], statistics: Settings) -> Iterator[Numbers]:
    """Yield the lines of the CSV file for one value of a sweep."""
    run = load_runs(rows)[0]
    about = {key: rows[0][key] for key in ("sweep", "key", "dataset", "value", "experiment", "own")}
    for metric in metrics:
        numbers = _loss(rows) if metric == VALIDATION_LOSS else _score(run, metric, statistics)
        if numbers:
            yield about | {"metric": metric} | numbers


def _score(run: Run, metric: str, statistics: Settings) -> Numbers | None:
    if metric not in run.signatures:
        return None
    found = estimates(run.files, [metric], statistics, run.corpus, run.texts)[0]
    return {
        "mean": found.mean,
        "low": found.mean_low,
        "high": found.mean_high,
        "n": found.n,
        "missing": found.missing,
        **_over_seeds(found.seed_means),
        "signature": run.signatures[metric],
    }


def _loss(rows: Sequence[Mapping[str, Any]]) -> Numbers | None:
    losses = [validation_loss(row["train"]) for row in rows if row["train"]]
    if not losses or None in losses:  # without embeddings nothing is tuned; without validation texts nothing measured
        return None
    unknown = dict.fromkeys(("low", "high", "n", "missing"))
    return {"mean": fmean(losses), **unknown, **_over_seeds(losses), "signature": None}


def _over_seeds(means: Sequence[float]) -> Numbers:
    sd = stdev(means) if len(means) > 1 else None
    return {"seeds": len(means), "seed_sd": sd, "seed_means": " ".join(map(repr, map(float, means)))}


def _refuse_mixed(lines: Sequence[Numbers]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for one in lines:
        first = seen.setdefault((one["sweep"], one["metric"]), one["signature"])
        if first != one["signature"]:
            place = f"sweeps.{one['sweep']}: {one['metric']}"
            raise DataError(f"{place} would mix {first!r} and {one['signature']!r}; score all values alike")


def _draw_sweeps(
    rows: Sequence[Mapping[str, Any]],
    lines: Sequence[Numbers],
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
                _draw_sweep(axes, points, values, looks[row["base_label"]])
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


def _draw_sweep(axes: Axes, points: Sequence[Numbers], values: Sequence[Any], seen: Look) -> None:
    """Draw the points of a panel, whose column has these values."""
    numeric = _numeric(values)
    if numeric and _logarithmic(values):
        axes.set_xscale("log", base=2)
    axes.set_xticks(values if numeric else range(len(values)), [_value_text(value) for value in values])
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


def _value_text(value: Any) -> str:
    return f"{value:g}" if _numeric([value]) else str(value).lower() if isinstance(value, bool) else str(value)


def _sweep_caption(rows: Sequence[Mapping[str, Any]], lines: Sequence[Numbers], statistics: Settings) -> str:
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
