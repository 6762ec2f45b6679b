"""What all figures share: colours that colour-blind people and grey printers tell apart, and reproducible files."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xrec_repro.io import atomic_path
from xrec_repro.metrics.columns import stated_column

# Okabe and Ito's palette (jfly.uni-koeln.de/color), the colours of strongest contrast first.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000")
# As many of each as leave no pair with a colour repeated within 56 entries.
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oo", "----")
MARKERS = ("o", "s", "^", "D", "v", ">", "<")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (2, 3)))
_DPI = 200
Options = Mapping[str, Any]
NO_OPTIONS: Options = {}
_RC = {
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine has it
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "0.85",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,  # text stays text
}


@dataclass(frozen=True)
class _Range:
    name: str
    drawn: str
    line: tuple[int, tuple[float, ...]]


# What is known of a metric's range (`rows.BOUNDS`), and how it is drawn.
RANGE = {
    "chance": _Range("chance", "dashed", (0, (5, 2))),
    "reference": _Range("references", "dotted", (0, (1, 1.5))),
}


@dataclass(frozen=True)
class Look:
    """How one series is drawn; every part but the colour tells it apart in grey.

    Attributes:
        colour: Fill or line.
        hatch: Of bars.
        marker: Of points.
        line: Line style.
    """

    colour: str
    hatch: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]


def look(number: int) -> Look:
    """Return the look of the series with this number, from 0."""
    dress = number % len(HATCHES)
    return Look(COLOURS[number % len(COLOURS)], HATCHES[dress], MARKERS[dress], LINES[dress])


def line(seen: Look) -> dict[str, Any]:
    """Return matplotlib's arguments for a line with points."""
    edge = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    return {"color": seen.colour, "linestyle": seen.line, "marker": seen.marker, "linewidth": 1.6, **edge}


def hollow(colour: str, marker: str) -> dict[str, Any]:
    """Return matplotlib's arguments for empty points without a line."""
    edge = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.3}
    return {"linestyle": "none", "marker": marker, "markersize": 5, **edge}


def legend_columns(figure: Figure, entries: int, most: int = 3, width: float = 1.85) -> int:
    """Return in how many columns, each so many inches wide, a legend stands over a figure."""
    return max(1, min(entries, most, int(figure.get_figwidth() / width)))


def series_legend(figure: Figure, looks: Mapping[str, Look], more: Sequence[Line2D] = ()) -> None:
    """Write a legend of lines, and maybe of more, over a figure."""
    handles = [*(Line2D([], [], label=label, **line(seen)) for label, seen in looks.items()), *more]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=legend_columns(figure, len(handles)), handlelength=3.2
    )


def metric_label(metric: str) -> str:
    """Return the name of a score column for people, with an arrow where smaller is better."""
    stated = stated_column(metric)
    return stated.label + " ↓" * stated.smaller_is_better


@contextmanager
def drawing(width: float, height: float, settings: Options = NO_OPTIONS, stem: str = "") -> Iterator[Figure]:
    """Yield an empty figure in the house style, whatever the machine's own matplotlib settings are.

    Args:
        width: In inches, where the settings name no size.
        height: In inches, likewise.
        settings: ``sizes``, of the configuration's ``paper.figures``: stem -> width and height in inches, or None.
        stem: The figure's name in it.
    """
    size = settings.get("sizes", {}).get(stem) or (width, height)
    with matplotlib.style.context(["default", _RC]):
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def footnote(figure: Figure, text: str, settings: Options = NO_OPTIONS) -> None:
    """Write a note under a figure, in lines as wide as it is, unless the settings' ``captions`` is off."""
    if not settings.get("captions", True):
        return
    size = 8
    characters = int(figure.get_figwidth() * 72 / (0.53 * size))  # a character is about half as wide as high
    figure.supxlabel("\n".join(textwrap.wrap(text, characters)), x=0.01, ha="left", fontsize=size, color="0.25")


def range_lines(axes: Axes, known: Mapping[str, float]) -> None:
    """Draw the scores in `known` (`RANGE`) that lie near what a panel shows, and name all of them over its right end.

    One that lies farther off than the panel is high is only named, with an arrow: drawn, it would flatten all else.
    """
    low, high = axes.get_ylim()
    texts = []
    for kind, value in known.items():
        about, arrow = RANGE[kind], ""
        if low - (high - low) <= value <= high + (high - low):
            axes.axhline(value, color="0.25", linewidth=1, linestyle=about.line, zorder=1.5)
        else:
            arrow = " ↑" if value > high else " ↓"
        texts.append(f"{about.name} {value:.2f}{arrow or f' ({about.drawn})'}")
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(", ".join(texts), (1, 1), (0, 2), ha="right", va="bottom", fontsize=8, color="0.25", **place)


def save(figure: Figure, out_pdf: str | Path, out_png: str | Path) -> None:
    """Write a figure as PDF and PNG: the same figure gives the same bytes."""
    for path, kind, metadata in ((out_pdf, "pdf", {"CreationDate": None}), (out_png, "png", {})):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=_DPI, metadata=metadata)
