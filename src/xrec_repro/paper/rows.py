"""The rows of tables 1 and 2: checked, averaged over seeds, beside the published ones of their data set."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from xrec_repro.comparable import Comparable, apart
from xrec_repro.errors import DataError
from xrec_repro.kinds import LABELS, run_source
from xrec_repro.published import PublishedScores, study_name
from xrec_repro.scores import place_of, refuse_repeats

FEW_NOTE = "† In this run, only a part of the test set was explained."
STD = "_std"  # ends the column of a metric's standard deviation
APART = " (this run)"  # ends the name of a metric whose scores may stand beside no published ones
# What a metric may know about its own range: the suffix of its counts -> how the tables and figures call it.
BOUNDS = {"chance": "Chance", "reference": "Reference explanations"}
Entry = Mapping[str, Any]
SOURCES = {"xrec": "XRec paper", "study": "study"}
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
        beside: Metric -> of each published row that it could stand beside, what keeps it from being compared
            (`Comparable.differences`); only of measured rows.
        failed: Metric that failed -> why; it has no values.
        differences: Column -> measured minus published by the study, where that is asked for and the two compare.
        printed: Column -> the number as published.
        kind: ``published``, one of `kinds.LABELS`, or ``bound``: the range of a metric, no model's score.
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
    beside: dict[str, dict[tuple[str, int], str | None]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    kind: str = "published"
    few: bool = False
    test_examples: int | None = None


def metric_of(column: str) -> str:
    """Return the metric that a column holds the mean or the standard deviation of."""
    return column.removesuffix(STD)


def bounds(summary: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, float]:
    """Return metric -> its score by chance, or that of the references (`BOUNDS`), where summary.json knows it."""
    known = {metric: cell.get("counts", {}) for metric, cell in summary.items()}
    return {metric: counts[f"{metric}_{kind}"] for metric, counts in known.items() if f"{metric}_{kind}" in counts}


def ranges(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return metric -> kind -> score (`bounds`), of the metrics that know any."""
    found: dict[str, dict[str, float]] = {}
    for kind in BOUNDS:
        for metric, value in bounds(summary, kind).items():
            found.setdefault(metric, {})[kind] = value
    return found


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
    comparable: Comparable,
    show_difference: bool,
    all_published: bool = False,
) -> Iterator[Row]:
    """Yield the rows, data set by data set, published ones first.

    Args:
        place: The table's name, for messages.
        entries: As `make_score_table` takes them.
        published: The table's published rows, of all data sets.
        published_as: Data set -> its published name, or None.
        comparable: Whether measured scores may stand beside published ones.
        show_difference: Whether to compare measured rows with those of the study.
        all_published: Whether published data sets that this run does not have come first.

    Raises:
        DataError: An entry is given twice or malformed, a name is unknown, or a column would mix signatures.
    """
    _refuse_mixed(place, entries)
    refuse_repeats(map(place_of, entries), f"{place}: ")
    others = elsewhere(published, published_as) if all_published else []
    yield from (_published_row(row.dataset, row) for row in others)
    printed = [*others, *(row for row in published if row.dataset in published_as.values())]
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
            row = _measured_row(label, group)
            row = replace(row, beside=_beside(group, beside or printed, comparable))
            yield _with_differences(row, study.get(study_name(group[0].get("published_model") or "")))
        yield from _bound_rows(label, members)


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
        source=SOURCES.get(scores.reported_by, scores.reported_by),
        n=str(scores.n_test),
        values=scores.values,
        signatures=dict.fromkeys(map(metric_of, scores.values), signature),
        printed=scores.printed,
        few=scores.n_test == TENTH,
    )


def _bound_rows(label: str, entries: Sequence[Entry]) -> Iterator[Row]:
    """Yield the range of the metrics that know theirs, by the entry with most examples."""
    for kind, name in BOUNDS.items():
        known = [(entry["summary"], values) for entry in entries if (values := bounds(entry["summary"], kind))]
        if known:
            sizes = [max(_total(summary[metric]) for metric in values) for summary, values in known]
            summary, values = known[sizes.index(max(sizes))]
            signatures = {metric: summary[metric]["signature"] for metric in values}
            yield Row(label, name, "true reasons", str(max(sizes)), values, signatures, kind="bound")


def _total(cell: Mapping[str, Any]) -> int:
    """Return how many examples there were, scored or not."""
    return cell["n"] + cell.get("missing", 0)


def _measured_row(label: str, group: Sequence[Entry]) -> Row:
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
        totals = [_total(cell) for cell in cells]
        counts |= set(totals)
        if unscored := sum(totals) - sum(cell["n"] for cell in cells):
            missing[metric] = (unscored, sum(totals))
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
        kind=first["kind"],
        few=any(entry.get("few", False) for entry in group),
        test_examples=max((entry["test_examples"] for entry in group if entry.get("test_examples")), default=None),
    )


def _beside(
    group: Sequence[Entry], published: Sequence[PublishedScores], comparable: Comparable
) -> dict[str, dict[tuple[str, int], str | None]]:
    found = {}
    for metric, cell in group[0]["summary"].items():
        n = min(entry["summary"][metric]["n"] for entry in group)
        found[metric] = comparable.differences(metric, cell["signature"], n, published)
    return {metric: differences for metric, differences in found.items() if differences}


def _with_differences(row: Row, study: PublishedScores | None) -> Row:
    """Return a measured row with its differences from the study's row of the same system."""
    # Other kinds are no attempt at the published models, so a difference would say nothing.
    if study is None or row.kind != "measured":
        return row
    place = (study.reported_by, study.n_test)
    columns = [c for c in row.values if c in study.values and row.beside[metric_of(c)][place] is None]
    return replace(row, differences={column: row.values[column] - study.values[column] for column in columns})


def set_apart(row: Row) -> Row:
    """Return a row in which what compares with no published row has a name of its own, which ends with `APART`."""
    own = {metric for metric, differences in row.beside.items() if apart(differences)}

    def named(column: str) -> str:
        metric = metric_of(column)
        return metric + APART + column.removeprefix(metric) if metric in own else column

    parts = ("values", "signatures", "seed_sd", "missing")
    return replace(row, **{part: {named(key): value for key, value in getattr(row, part).items()} for part in parts})


def _check_entry(table: str, entry: Entry, group: Sequence[Entry]) -> None:
    place = f"{table}: {place_of(entry)}"
    if entry["kind"] not in LABELS or entry["kind"] != group[0]["kind"]:
        raise DataError(f"{place}: kind {entry['kind']!r}; say one of {', '.join(LABELS)}, for all seeds alike")
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
