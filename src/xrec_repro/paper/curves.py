"""Figure 3: training losses, raw and smoothed, and the validation loss at their end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_table
from xrec_repro.paper.style import Look, drawing, footnote, hollow, line, look, save, series_legend
from xrec_repro.scores import validation_loss

_CURVE = pa.schema({"step": pa.int32(), "loss": pa.float64()})
_COVERED = (0.5, 99.5)  # percentiles of the raw losses that the axis covers
_POINTS = 500  # of a smoothed line, more than a printer tells apart


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
    for trained in _trained(curves, settings):
        panels.setdefault(trained.dataset, []).append(trained)
    caption = _caption([one for group in panels.values() for one in group], settings)
    with drawing(max(6.5, 3.4 * len(panels)), 3.7, settings, "figure3") as figure:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (label, group) in zip(grid, panels.items(), strict=True):
            _draw(axes, group, looks)
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
    """An experiment on a data set: what each of its seeds has.

    Attributes:
        steps: As many as each seed has.
        losses: One a step.
        smoothed: Likewise.
        validation: The loss after tuning, of the seeds that have one.
    """

    dataset: str
    label: str
    steps: list[np.ndarray]
    losses: list[np.ndarray]
    smoothed: list[np.ndarray]
    validation: list[float]


def _trained(curves: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[_Trained]:
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


def _draw(axes: Axes, group: Sequence[_Trained], looks: Mapping[str, Look]) -> None:
    shown: list[float] = []
    last = max(steps[-1] for one in group for steps in one.steps)
    for number, one in enumerate(group):
        seen = looks[one.label]
        shown += _draw_raw(axes, one, seen) if len(one.steps) == 1 else _draw_seeds(axes, one, seen)
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


def _draw_raw(axes: Axes, one: _Trained, seen: Look) -> list[float]:
    """Draw the loss of every step of a single seed; return what the axis is to cover."""
    # A picture of the raw losses: as lines, a long training would fill megabytes of PDF.
    axes.plot(one.steps[0], one.losses[0], color=seen.colour, alpha=0.18, linewidth=0.5, zorder=1, rasterized=True)
    low, high = np.percentile(one.losses[0], _COVERED)
    return [low, high, one.smoothed[0].min()]


def _draw_seeds(axes: Axes, one: _Trained, seen: Look) -> list[float]:
    """Draw each seed by itself; return what the axis is to cover."""
    for steps, smoothed in zip(one.steps, one.smoothed, strict=True):
        points = _spread(len(steps))
        axes.plot(steps[points], smoothed[points], color=seen.colour, alpha=0.45, linewidth=0.8, zorder=2)
    return [end for smoothed in one.smoothed for end in (smoothed.min(), smoothed.max())]


def _spread(length: int) -> np.ndarray:
    """Return the places of a line's points."""
    return np.unique(np.linspace(0, length - 1, _POINTS).round().astype(int))


def _caption(trained: Sequence[_Trained], settings: Mapping[str, Any]) -> str:
    window = settings["window"]
    how = {
        "rolling": f"the mean of the last {window} steps (of fewer at the start)",
        "ema": f"the exponential moving average of span {window} steps",
    }[settings["method"]]
    parts = [f"Loss on the explanations' tokens in training: {how}."]
    seeds = {len(one.steps) for one in trained}
    if max(seeds) > 1:
        parts.append(f"Strong: the mean over the seeds ({max(seeds)}), as far as all have steps; thin: each seed.")
    if 1 in seeds:
        parts.append(
            "Faint: every step; the vertical axis is cut to the range of "
            f"{_COVERED[1] - _COVERED[0]:.0f} % of the steps."
        )
    if any(one.validation for one in trained):
        parts.append("Hollow, at the right: mean loss of the validation examples after the last step, one a seed.")
    return " ".join(parts)
