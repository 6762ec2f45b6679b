"""Figure 2: scores of the ablations as the XRec paper and the study published them, and as measured here."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from xrec_repro.comparable import Comparable, apart
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.kinds import LABELS, warnings
from xrec_repro.metrics.columns import stated_column
from xrec_repro.paper.rows import STD, TENTH, metric_of, ranges
from xrec_repro.paper.style import RANGE, Look, drawing, footnote, legend_columns, line, look, metric_label, save
from xrec_repro.published import PublishedScores, study_name
from xrec_repro.scores import place_of, refuse_repeats

_GAP = 0.8  # between data sets, in widths of a bar
_MARGIN = 0.18  # above the highest bar: room for †
_PARTS = ("mean", "std")


@dataclass(frozen=True)
class _Bar:
    dataset: str
    variant: str
    values: dict[tuple[str, str], float]  # (metric, mean or std) -> height
    whiskers: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)  # likewise -> its ends
    few: bool = False


@dataclass(frozen=True)
class _Panel:
    title: str
    bars: list[_Bar]
    apart: dict[str, str] = field(default_factory=dict)  # metric -> what keeps it from being compared with the others
    ranges: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)  # (data set, metric) -> `rows.ranges`

    def metric(self, choices: Sequence[str]) -> str | None:
        """Return the first of several metrics that any bar has."""
        return next((m for m in choices if any((m, "mean") in bar.values for bar in self.bars)), None)

    def width(self) -> float:
        return max(len(self.bars) + _GAP * len({bar.dataset for bar in self.bars}), 3)


def figure2(
    rows: Sequence[Mapping[str, Any]],
    published: Sequence[PublishedScores],
    out_pdf: str | Path,
    out_png: str | Path,
    settings: Mapping[str, Any],
    comparable: Comparable,
) -> str:
    """Draw means and standard deviations of all variants: (a) XRec paper, (b) study, (c) this run.

    Published data sets are those of this run; where it has none of them, all. Scores of this run that do not compare
    with published ones have an axis of their own, and the caption says what differs.

    Args:
        rows: One a data set, experiment and seed: dataset, dataset_label, published_as, experiment,
            experiment_label, seed, kind, few, summary (metric -> mean, std, n, signature); optionally intervals
            (metric, or ``<metric>_std``, -> low, high: the bootstrap interval).
        published: Rows of the published tables 1 and 2.
        out_pdf: Where the PDF goes.
        out_png: Where the PNG goes.
        settings: ``metrics``: one list a pair of panel rows, of which each panel shows the first metric it has;
            ``axes``: ``full`` (bars from 0, one scale a row of panels) or ``zoomed`` (points, the axes around them);
            ``confidence``: of the intervals, e.g. 0.95; and maybe ``captions`` and ``sizes`` (`style`).
        comparable: Whether scores may be compared with published ones.

    Returns:
        The caption, which is also printed under the figure.

    Raises:
        DataError: There is no row, one is given twice, or a score is not a number.
        ConfigError: A setting is unknown, or no panel has any of the metrics.
    """
    if settings["axes"] not in ("full", "zoomed"):
        raise ConfigError(f"paper.figure2.axes: {settings['axes']!r}; say full or zoomed")
    metrics = [list(choices) for choices in settings["metrics"]]
    if not metrics or not all(metrics):
        raise ConfigError("paper.figure2.metrics: a list without a metric; name at least one in each")
    if not rows:
        raise DataError(f"{out_pdf}: there is nothing to draw; name an experiment in run.experiments")
    measured = replace(_measured_panel(rows), apart=_apart(rows, published, comparable))
    panels = [*_published_panels(published, rows, settings["confidence"]), measured]
    variants = _variants(published, panels)
    looks = {variant: look(number) for number, variant in enumerate(variants)}
    panels = [replace(panel, bars=_in_order(panel.bars, variants)) for panel in panels]
    caption = _caption(rows, panels, metrics, settings)
    lines = [(choices, part) for choices in metrics for part in _PARTS if _has_any(panels, choices, part)]
    if not lines:
        raise ConfigError("paper.figure2.metrics: none of them is scored or published; name others")
    full = settings["axes"] == "full"
    with drawing(7.2, 1.3 + 1.35 * len(lines), settings, "figure2" if full else "figure2_zoomed") as figure:
        _draw(figure, panels, lines, looks, full)
        footnote(figure, caption, settings)
        save(figure, out_pdf, out_png)
    return caption


def _variants(published: Sequence[PublishedScores], panels: Sequence[_Panel]) -> list[str]:
    """Return all variants shown, those of the study first, so that a variant always looks the same."""
    shown = {bar.variant for panel in panels for bar in panel.bars}
    study = (study_name(row.model) for row in published if row.reported_by == "study")
    names = [*sorted(dict.fromkeys(study), key=lambda name: name != "XRec"), *(b.variant for b in panels[-1].bars)]
    return [name for name in dict.fromkeys(names) if name in shown]


def _in_order(bars: Sequence[_Bar], variants: Sequence[str]) -> list[_Bar]:
    datasets = list(dict.fromkeys(bar.dataset for bar in bars))
    return sorted(bars, key=lambda bar: (datasets.index(bar.dataset), variants.index(bar.variant)))


def _published_panels(
    published: Sequence[PublishedScores], rows: Sequence[Mapping[str, Any]], confidence: float
) -> list[_Panel]:
    wanted = {row["published_as"] for row in rows} & {row.dataset for row in published}
    variants = {
        study_name(row.model) for row in published if row.reported_by == "study"
    }  # the XRec paper also has baselines
    panels = []
    for source, title in (("xrec", "(a) XRec paper\n(as published)"), ("study", "(b) Study\n(as published)")):
        bars = {}
        for row in published:
            key = (row.dataset, study_name(row.model))
            if row.reported_by == source and key[1] in variants and (row.dataset in wanted or not wanted):
                bars.setdefault(key, _published_bar(row, confidence))
        panels.append(_Panel(title, list(bars.values())))
    return panels


def _published_bar(row: PublishedScores, confidence: float) -> _Bar:
    """Return a bar as printed, with the normal interval of its mean where its standard deviation is printed, too."""
    values, whiskers = {}, {}
    for column, value in row.values.items():
        metric = metric_of(column)
        values[metric, "mean" if metric == column else "std"] = value
        if metric == column and metric + STD in row.values:
            reach = NormalDist().inv_cdf((1 + confidence) / 2) * row.values[metric + STD] / math.sqrt(row.n_test)
            whiskers[metric, "mean"] = (value - reach, value + reach)
    return _Bar(row.dataset, study_name(row.model), values, whiskers, few=row.n_test == TENTH)


def _measured_panel(rows: Sequence[Mapping[str, Any]]) -> _Panel:
    refuse_repeats(map(place_of, rows), "figure 2: ")
    runs: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        runs[row["dataset"]][row["experiment"]].append(row)
    bars = [_measured_bar(group) for experiments in runs.values() for group in experiments.values()]
    kinds = dict.fromkeys(LABELS[row["kind"]] or "measured" for row in rows)
    known = {(row["dataset_label"], m): found for row in rows for m, found in ranges(row["summary"]).items()}
    return _Panel(f"(c) This run\n({', '.join(kinds)})", bars, ranges=known)


def _apart(
    rows: Sequence[Mapping[str, Any]], published: Sequence[PublishedScores], comparable: Comparable
) -> dict[str, str]:
    """Return metric -> what keeps the scores of this run, or some of them, from the published ones' axis."""
    found: dict[str, str] = {}
    for row in rows:
        beside = [one for one in published if one.dataset == row["published_as"]] or published
        for metric, cell in row["summary"].items():
            if why := apart(comparable.differences(metric, cell["signature"], cell["n"], beside)):
                found.setdefault(metric, why)
    return found


def _measured_bar(group: Sequence[Mapping[str, Any]]) -> _Bar:
    """Return the bar of one experiment: over several seeds the mean, with their standard deviation as whisker."""
    first = group[0]
    values, whiskers, intervals = {}, {}, first.get("intervals", {})
    for metric, part in product(first["summary"], _PARTS):
        numbers = [_number(row, metric, part) for row in group]
        if None in numbers:
            continue
        value = values[metric, part] = fmean(numbers)
        column = metric if part == "mean" else metric + STD
        if len(group) > 1:
            whiskers[metric, part] = (value - stdev(numbers), value + stdev(numbers))
        elif column in intervals:
            whiskers[metric, part] = tuple(intervals[column])
    few = any(row["few"] for row in group)
    return _Bar(first["dataset_label"], first["experiment_label"], values, whiskers, few)


def _number(row: Mapping[str, Any], metric: str, part: str) -> float | None:
    cell = row["summary"].get(metric, {})
    value = cell.get(part, math.nan)
    if value is None and part == "std":
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"figure 2: {place_of(row)}: {part} of {metric} is not a finite number; score it again")
    return value


def _draw(
    figure: Figure,
    panels: Sequence[_Panel],
    lines: Sequence[tuple[Sequence[str], str]],
    looks: Mapping[str, Look],
    full: bool,
) -> None:
    widths = [panel.width() for panel in panels]
    grid = figure.subplots(len(lines), 3, squeeze=False, sharex="col", gridspec_kw={"width_ratios": widths})
    for (choices, part), axes_row in zip(lines, grid, strict=True):
        cells = list(zip(axes_row, panels, strict=True))
        extents = [_draw_panel(axes, panel, panel.metric(choices), part, looks, full) for axes, panel in cells]
        own = [panel.metric(choices) in panel.apart for panel in panels]
        shared = [ends for ends, alone in zip(extents, own, strict=True) if ends and not alone]
        for axes, ends, alone in zip(axes_row, extents, own, strict=True):
            if full:
                axes.set_ylim(*_from_zero([ends] if alone and ends else shared or [(0.0, 0.0)]))
            elif ends:
                axes.set_ylim(*_around(*ends))
    for axes, panel in zip(grid[0], panels, strict=True):
        axes.set_title(panel.title, fontweight="bold")
    draw = _patch if full else _point
    handles = [draw(seen, variant) for variant, seen in looks.items()]
    figure.align_ylabels()
    columns = legend_columns(figure, len(handles))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handleheight=1.2)


def _patch(seen: Look, label: str) -> Patch:
    return Patch(facecolor=seen.colour, hatch=seen.hatch, edgecolor="black", linewidth=0.6, label=label)


def _point(seen: Look, label: str) -> Line2D:
    return Line2D([], [], label=label, **line(seen) | {"linestyle": "none"})


def _has_any(panels: Sequence[_Panel], choices: Sequence[str], part: str) -> bool:
    return any((panel.metric(choices), part) in bar.values for panel in panels for bar in panel.bars)


def _draw_panel(
    axes: Axes, panel: _Panel, metric: str | None, part: str, looks: Mapping[str, Look], full: bool
) -> tuple[float, float] | None:
    """Draw one panel, bars or points; return the lowest and highest value, or None where there is none."""
    places = _places(panel.bars)
    groups: dict[str, list[float]] = defaultdict(list)
    ends: list[float] = []
    for place, bar in zip(places, panel.bars, strict=True):
        groups[bar.dataset].append(place)
        value = bar.values.get((metric or "", part))
        if value is None:
            continue
        seen = looks[bar.variant]
        if full:
            axes.bar(place, value, 0.9, color=seen.colour, hatch=seen.hatch, edgecolor="black", linewidth=0.6)
        else:
            axes.plot(place, value, zorder=3, **line(seen) | {"markersize": 4.5})
        low, high = bar.whiskers.get((metric, part), (value, value))
        if low < high:
            colour, cap = ("black", 1.8) if full else (seen.colour, 0)
            axes.errorbar(place, value, [[value - low], [high - value]], color=colour, capsize=cap, linewidth=1)
        if bar.few:
            tip = max(high, 0) if value >= 0 else min(low, 0)
            axes.annotate("†", (place, tip), (0, 5 if value >= 0 else -12), textcoords="offset points", ha="center")
        ends += [value, low, high]
    for dataset, members in groups.items() if part == "mean" else ():
        ends += _draw_range(axes, members, panel.ranges.get((dataset, metric or ""), {}), full, ends)
    axes.set_xticks([fmean(group) for group in groups.values()], list(groups), rotation=20, ha="right")
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5 - _GAP / 2, max(places, default=2) + 0.5 + _GAP / 2)
    if full:
        axes.spines["bottom"].set_visible(False)  # not where 0 is
        axes.axhline(0, color="black", linewidth=0.8)
    if metric:
        axes.set_ylabel(metric_label(metric) + " std" * (part == "std") + "\n(this run)" * (metric in panel.apart))
    if not ends:
        axes.text(0.5, 0.5, "no std" if metric else "not scored", transform=axes.transAxes, ha="center", color="0.4")
        axes.set_yticks([])
        return None
    return min(ends), max(ends)


def _draw_range(
    axes: Axes, places: Sequence[float], known: Mapping[str, float], full: bool, ends: Sequence[float]
) -> list[float]:
    """Draw what is known of a metric's range over a data set's bars; among points, only what lies near them."""
    reach = max(ends, default=0) - min(ends, default=0)
    drawn = {k: v for k, v in known.items() if full or (ends and min(ends) - reach <= v <= max(ends) + reach)}
    for kind, value in drawn.items():
        sides = min(places) - 0.5, max(places) + 0.5
        axes.hlines(value, *sides, color="0.25", linewidth=1, linestyle=RANGE[kind].line, zorder=2.5)
    return list(drawn.values())


def _places(bars: Sequence[_Bar]) -> list[float]:
    places, place, last = [], 0.0, bars[0].dataset if bars else ""
    for bar in bars:
        place += 0 if bar.dataset == last else _GAP
        places.append(place)
        place, last = place + 1, bar.dataset
    return places


def _from_zero(extents: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return one scale for a row of panels, that begins or ends at 0 where all values have one sign."""
    low, high = min(0, *(ends[0] for ends in extents)), max(0, *(ends[1] for ends in extents))
    room = _MARGIN * (high - low) or 1
    return low - room * (low < 0), high + room * (high > 0 or low == high)


def _around(low: float, high: float) -> tuple[float, float]:
    room = _MARGIN * (high - low) or 0.05 * abs(high) or 1
    return low - room, high + 1.6 * room


def _caption(
    rows: Sequence[Mapping[str, Any]],
    panels: Sequence[_Panel],
    metrics: Sequence[Sequence[str]],
    settings: Mapping[str, Any],
) -> str:
    shown = [panels[-1].metric(choices) for choices in metrics]
    alone = [metric for metric in dict.fromkeys(shown) if metric in panels[-1].apart]
    seeds = len({row["seed"] for row in rows})
    smaller = ", but for ↓" if any(stated_column(metric).smaller_is_better for metric in shown) else ""
    parts = [
        f"Ablations: mean over the test examples (higher is better{smaller}) and standard deviation (lower is more "
        "stable).",
        f"Axes start at 0 and agree along a row{', but for (this run)' if alone else ''}."
        if settings["axes"] == "full"
        else "The axes do not start at 0, and differ.",
        "(a) and (b) are printed numbers and were not measured here; a variant without printed numbers is left out.",
    ]
    for metric in alone:
        why = panels[-1].apart[metric]
        parts.append(f"{metric_label(metric)} (this run) has an axis of its own and does not compare: {why}.")
    confidence = f"{100 * settings['confidence']:g} %"
    if any(bar.whiskers for panel in panels[:-1] for bar in panel.bars):
        parts.append(f"Whiskers of (a) and (b): {confidence} interval of the mean by the printed std and N.")
    if seeds > 1:
        parts.append(f"(c): means over {seeds} seeds; whiskers: ± their standard deviation.")
    elif any(metric == column for bar in panels[-1].bars for column, _ in bar.whiskers for metric in shown):
        parts.append(f"Whiskers of (c): {confidence} bootstrap interval.")
    if any(metric in shown for _, metric in panels[-1].ranges):
        near = "" if settings["axes"] == "full" else ", where they are near"
        parts.append(f"Dashed: chance; dotted: the reference explanations' own score{near}.")
    if any(bar.few for panel in panels for bar in panel.bars):
        parts.append("† a part of the test set only.")
    return " ".join(parts + warnings(row["kind"] for row in rows))
