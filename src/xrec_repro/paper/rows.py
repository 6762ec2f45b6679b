"""The rows of tables 1 and 2: checked, averaged over seeds, beside the published ones of their data set."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from xrec_repro.errors import DataError
from xrec_repro.paper.published import PublishedScores, study_name

FEW_NOTE = "† In this run, only a part of the test set was explained."
STD = "_std"  # ends the column of a metric's standard deviation
Entry = Mapping[str, Any]
_SOURCES = {"xrec": "XRec paper", "study": "study"}
TENTH = 300  # test examples of the study's rows marked †: a tenth of the test set


@dataclass(frozen=True)
class Row:
    """A row of a table of scores.

    Attributes:
        block: Label of the data set.
        model: Name of the model or experiment.
        source: Where the numbers come from, for people.
        n: Examples, scored or not; two numbers where seeds differ.
        values: Column (a metric, or ``<metric>_std``) -> number, over several seeds their mean.
        signatures: Metric -> what it was computed with; rows are compared where it is the same.
        seeds: How many runs the numbers are the mean of; 0 for published rows, which do not say.
        seed_sd: Metric -> sample standard deviation of its mean over the seeds.
        missing: Metric -> examples that could not be scored, and all examples, both over all seeds; only where any.
        failed: Metric that failed -> why; it has no values.
        differences: Column -> measured minus published by the study, where that is asked for.
        printed: Column -> the number as published.
        kind: ``published``, ``measured`` or ``demo``.
        few: Whether only a part of the test set was explained.
        test_examples: How many the whole test set has, where that is known.
    """

    block: str
    model: str
    source: str
    n: str
    values: dict[str, float]
    signatures: dict[str, str]
    seeds: int = 0
    seed_sd: dict[str, float] = field(default_factory=dict)
    missing: dict[str, tuple[int, int]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    kind: str = "published"
    few: bool = False
    test_examples: int | None = None


def metric_of(column: str) -> str:
    """Return the metric that a column holds the mean or the standard deviation of."""
    return column.removesuffix(STD)


def run_source(kind: str) -> str:
    """Return how the tables call the source of this run's rows."""
    return "this run (demo)" if kind == "demo" else "this run"


def dataset_blocks(entries: Sequence[Entry]) -> Iterator[tuple[str, str, list[Entry]]]:
    """Yield each data set's name, label and entries, in their order.

    Raises:
        DataError: Two data sets have the same label.
    """
    blocks: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        blocks[entry["dataset"]].append(entry)
    labels: set[str] = set()
    for dataset, members in blocks.items():
        label = members[0]["dataset_label"]
        if label in labels:
            raise DataError(f"datasets.{dataset}.label: {label!r} names another data set too; change one")
        labels.add(label)
        yield dataset, label, members


def score_rows(
    place: str,
    entries: Sequence[Entry],
    published: Sequence[PublishedScores],
    published_as: Mapping[str, str | None],
    show_difference: bool,
    all_published: bool = False,
) -> Iterator[Row]:
    """Yield the rows, data set by data set, published ones first.

    Args:
        place: The table's name, for messages.
        entries: As `make_score_table` takes them.
        published: The table's published rows, of all data sets.
        published_as: Data set -> its published name, or None.
        show_difference: Whether to compare measured rows with those of the study.
        all_published: Whether published data sets that this run does not have come first.

    Raises:
        DataError: An entry is given twice or malformed, a name is unknown, or a column would mix signatures.
    """
    _refuse_mixed(place, entries)
    if all_published:
        yield from (_published_row(row.dataset, row) for row in elsewhere(published, published_as))
    for dataset, label, members in dataset_blocks(entries):
        beside = [row for row in published if row.dataset == published_as.get(dataset)]
        yield from (_published_row(label, row) for row in beside)
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in members:
            groups[entry["experiment"]].append(entry)
        study = {study_name(row.model): row for row in beside if row.reported_by == "study"} if show_difference else {}
        for group in groups.values():
            for entry in group:
                _check_entry(place, entry, group)
            yield _measured_row(label, group, study.get(study_name(group[0].get("published_model") or "")))


def elsewhere(published: Sequence[Any], published_as: Mapping[str, str | None]) -> list[Any]:
    """Return the published rows of data sets that this run does not have, data set by data set."""
    names = [name for name in dict.fromkeys(row.dataset for row in published) if name not in published_as.values()]
    return [row for name in names for row in published if row.dataset == name]


def _published_row(label: str, scores: PublishedScores) -> Row:
    # Judges and checkpoints of the two papers differ, so each paper counts as a signature of its own.
    signature = f"published|reported_by:{scores.reported_by}"
    return Row(
        block=label,
        model=scores.model,
        source=_SOURCES.get(scores.reported_by, scores.reported_by),
        n=str(scores.n_test),
        values=scores.values,
        signatures=dict.fromkeys(map(metric_of, scores.values), signature),
        printed=scores.printed,
        few=scores.n_test == TENTH,
    )


def _measured_row(label: str, group: Sequence[Entry], study: PublishedScores | None) -> Row:
    """Return the mean over the seeds of one experiment."""
    first = group[0]
    values, spread, missing, counts = {}, {}, {}, set()
    for metric in first["summary"]:
        cells = [entry["summary"][metric] for entry in group]
        values[metric] = fmean(cell["mean"] for cell in cells)
        if len(cells) > 1:
            spread[metric] = stdev(cell["mean"] for cell in cells)
        if all(cell["std"] is not None for cell in cells):
            values[metric + STD] = fmean(cell["std"] for cell in cells)
        totals = [cell["n"] + cell.get("missing", 0) for cell in cells]
        counts |= set(totals)
        if unscored := sum(totals) - sum(cell["n"] for cell in cells):
            missing[metric] = (unscored, sum(totals))
    # The demo's models are no attempt at the published ones, so a difference would say nothing.
    compared = study.values if study and first["kind"] == "measured" else {}
    source = run_source(first["kind"])
    return Row(
        block=label,
        model=first["experiment_label"],
        source=source if len(group) == 1 else f"{source}, {len(group)} seeds",
        n="-".join(map(str, sorted({min(counts), max(counts)}))) if counts else "–",
        values=values,
        signatures={metric: cell["signature"] for metric, cell in first["summary"].items()},
        seeds=len(group),
        seed_sd=spread,
        missing=missing,
        failed=first.get("failed", {}),
        differences={column: values[column] - compared[column] for column in values if column in compared},
        kind=first["kind"],
        few=any(entry.get("few", False) for entry in group),
        test_examples=max((entry["test_examples"] for entry in group if entry.get("test_examples")), default=None),
    )


def _check_entry(table: str, entry: Entry, group: Sequence[Entry]) -> None:
    place = f"{table}: {entry['dataset']}/{entry['experiment']}/seed{entry['seed']}"
    if sum(other["seed"] == entry["seed"] for other in group) > 1:
        raise DataError(f"{place} is given twice; name it once")
    if entry["kind"] not in ("demo", "measured") or entry["kind"] != group[0]["kind"]:
        raise DataError(f"{place}: kind {entry['kind']!r}; say demo or measured, for all seeds alike")
    summary, expected = entry["summary"], group[0]["summary"]
    if not (summary or entry.get("failed")) or set(summary) != set(expected):
        raise DataError(f"{place}: no metric, or not those of the other seeds; score it again")
    for metric, cell in summary.items():
        if not {"mean", "std", "n", "signature"} <= set(cell):
            raise DataError(f"{place}: {metric} needs mean, std, n and signature; score it again")
        numbers = [cell["mean"], *([] if cell["std"] is None else [cell["std"]])]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise DataError(f"{place}: {metric} is not a finite number; score it again")


def _refuse_mixed(place: str, entries: Sequence[Entry]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        for metric, cell in entry["summary"].items():
            if "signature" not in cell:
                continue  # `_check_entry` says so
            one, other = seen.setdefault(metric, cell["signature"]), cell["signature"]
            if one != other:
                raise DataError(
                    f"{place}: column {metric} would mix {one!r} and {other!r}; score all with the same settings"
                )
