"""A figure of what each rule took and emitted, over the whole run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from xrec_repro.accounting.jobs import by_rule, total
from xrec_repro.errors import DataError
from xrec_repro.paper.style import NO_OPTIONS, Look, Options, drawing, footnote, look, save

_TIMES = ((3600, "h"), (60, "min"), (1, "s"))
_MASSES = ((1, "kg"), (1e-3, "g"), (1e-6, "mg"))
_LOOKS = {"done": look(0), "failed": look(1)}
_LABELS = {"done": "attempts that succeeded", "failed": "attempts that failed"}


def costs_figure(
    jobs: Sequence[Mapping[str, Any]],
    out_pdf: str | Path,
    out_png: str | Path,
    emissions: Mapping[str, Any],
    settings: Options = NO_OPTIONS,
) -> str:
    """Draw the time and the emissions of each rule, side by side, the longest first.

    Args:
        jobs: The attempts at all jobs of the run, as `xrec_repro.accounting.jobs.account` returns them.
        out_pdf: Where the PDF goes.
        out_png: Where the PNG goes.
        emissions: carbon_intensity (kg/kWh), pue, and maybe charge (share or node).
        settings: Maybe ``captions`` and ``sizes`` (`style`).

    Returns:
        The caption, which is also printed under the figure.

    Raises:
        DataError: There is no job.
    """
    if not jobs:
        raise DataError(f"{out_pdf}: there is no job to draw; run the rule collect_jobs again")
    rules = by_rule(jobs)
    caption = _caption(jobs, emissions)
    outcomes = [name for name in _LOOKS if any(job["outcome"] == name for job in jobs)]
    with drawing(7.2, 1.5 + 0.24 * len(rules), settings, "costs") as figure:
        time, kilograms = figure.subplots(1, 2, sharey=True)
        time.set_xlabel(f"time charged ({_draw(time, jobs, rules, 'charged_seconds', _TIMES)})")
        kilograms.set_xlabel(f"CO₂e by equation 1 ({_draw(kilograms, jobs, rules, 'kg_co2', _MASSES)})")
        time.set_yticks(range(len(rules)), [f"{rule['rule']} ({rule['jobs']})" for rule in rules])
        time.set_ylim(len(rules) - 0.4, -0.6)
        if len(outcomes) > 1:
            handles = [_patch(_LOOKS[name], _LABELS[name]) for name in outcomes]
            figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        footnote(figure, caption, settings)
        save(figure, out_pdf, out_png)
    return caption


def _patch(seen: Look, label: str) -> Patch:
    return Patch(facecolor=seen.colour, hatch=seen.hatch, edgecolor="white", label=label)


def _unit(value: float, units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """Return the largest unit of which there is at least one, or the smallest, and its name."""
    return next((unit for unit in units if value >= unit[0]), units[-1])


def _draw(
    axes: Axes,
    jobs: Sequence[Mapping[str, Any]],
    rules: Sequence[Mapping[str, Any]],
    column: str,
    units: Sequence[tuple[float, str]],
) -> str:
    """Draw a bar a rule, what failed after what succeeded, its sum behind it, and return the unit of the axis."""
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.tick_params(axis="y", length=0)
    largest = max((rule[column] for rule in rules if rule[column] is not None), default=None)
    size, name = _unit(largest or 0.0, units)
    for place, rule in enumerate(rules):
        left, label = 0.0, "not known"
        for outcome, seen in _LOOKS.items() if rule[column] is not None else ():
            members = [job for job in jobs if (job["rule"], job["outcome"]) == (rule["rule"], outcome)]
            width = (total(members, column) or 0.0) / size
            style = {"color": seen.colour, "hatch": seen.hatch, "edgecolor": "white", "linewidth": 0}
            axes.barh(place, width, left=left, height=0.72, **style)
            left += width
        if rule[column] is not None:
            own, unit = _unit(rule[column], units)
            amount = rule[column] / own
            label = f"{amount:#.2g} {unit}" if amount < 9.95 else f"{amount:,.0f} {unit}"
        axes.annotate(label, (left, place), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_xlim(0, 1.17 * (largest or 0.0) / size or 1)
    if largest is None:
        axes.set_xticks([])
    return name if largest is not None else "not known"


def _caption(jobs: Sequence[Mapping[str, Any]], emissions: Mapping[str, Any]) -> str:
    failed = sum(job["outcome"] == "failed" for job in jobs)
    counted = sum(job["slurm_seconds"] is not None for job in jobs)
    parts = [
        f"What the {len(jobs) - failed} jobs of this run took and emitted, by rule (in brackets: jobs).",
        {0: "Times are by the jobs' own clocks.", len(jobs): "Times are Slurm's."}.get(
            counted, f"Times are Slurm's for {counted} of {len(jobs)} attempts, else by the jobs' own clocks."
        ),
        f"Attempts that failed: {failed}.",
        f"Equation 1: {emissions['carbon_intensity']:g} kg/kWh × PUE {emissions['pue']:g} × power × time"
        + (", of a whole node." if emissions.get("charge") == "node" else ", by each job's share of its node."),
    ]
    parts += [f"Not known: {reason}." for reason in dict.fromkeys(job["reason"] for job in jobs if job["reason"])]
    return " ".join(parts)
