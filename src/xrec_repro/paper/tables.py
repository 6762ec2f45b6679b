"""Tables 1 and 2: published scores beside measured ones, ranked only among numbers that can be compared."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xrec_repro.comparable import Comparable, apart
from xrec_repro.errors import DataError
from xrec_repro.kinds import warnings
from xrec_repro.metrics.columns import Column, known_columns, known_metrics, stated_column
from xrec_repro.paper.render import Cell, Head, Line, Sheet, write_sheet
from xrec_repro.paper.rows import APART, FEW_NOTE, SOURCES, STD, TENTH, Row, metric_of, score_rows, set_apart
from xrec_repro.published import (
    check_published_names,
    load_published_table1,
    load_published_table2,
    study_name,
)
from xrec_repro.run_effects import FEWEST, scope_note
from xrec_repro.scores import reason_of

# The study's, in its order, and faithfulness.
DEFAULT_COLUMNS = (
    *("gptscore", "llamascore", "bertscore_p", "bertscore_r", "bertscore_f1", "bartscore", "bleurt", "usr"),
    *("faithfulness_p", "faithfulness_r", "faithfulness_f1"),
)
_SUBJECTS = {1: "XRec with and without profiles", 2: "Ablations and extensions of XRec"}


@dataclass(frozen=True)
class _Table:
    rows: list[Row]
    columns: list[str]
    ranks: dict[tuple[int, str], int]  # (row number, column) -> 1 is best; absent where nothing is compared


def make_score_table(
    number: int,
    entries: Sequence[Mapping[str, Any]],
    published_as_by_dataset: Mapping[str, str | None],
    resources_folder: str | Path,
    out_csv: str | Path,
    out_md: str | Path,
    out_tex: str | Path,
    caption_notes: Sequence[str] = (),
    columns: Sequence[str] | None = DEFAULT_COLUMNS,
    show_difference: bool = False,
    all_published: bool = False,
    primary: Sequence[str] | None = None,
) -> None:
    """Write table 1 or 2 as CSV (every metric, full precision), Markdown and LaTeX (needs booktabs and graphicx).

    Args:
        number: 1 (XRec with and without profiles) or 2 (ablations): which published rows stand beside.
        entries: One a data set, experiment and seed: dataset, dataset_label, experiment, experiment_label, seed,
            summary (column -> mean, std, n, signature, and maybe missing), kind (one of `kinds.LABELS`), and maybe
            failed (metric without scores -> why), few (only a part of the test set was explained), test_examples (of
            the whole test set) and published_model (the study's name of the experiment, or a baseline's, or None).
        published_as_by_dataset: Data set -> its name in the published tables, or None.
        resources_folder: The folder ``resources``.
        out_csv: Where the CSV file goes.
        out_md: Where the Markdown file goes.
        out_tex: Where the LaTeX file goes.
        caption_notes: More notes to print under the table.
        columns: Metrics to print in Markdown and LaTeX, in this order, or None for all. Where the table has none of
            them, all are printed.
        show_difference: Whether to print, under measured rows with a `published_model`, measured minus published by
            the study. Rows of other kinds than ``measured`` get none.
        all_published: Whether to print the published rows of data sets that this run does not have, too.
        primary: ``statistics.primary``: the metrics that decide, for a note, or None for all.

    Raises:
        DataError: No entry, one given twice, a malformed summary, mixed signatures, or an unknown name.
    """
    if not entries:
        raise DataError(f"{out_csv}: there is nothing to print; name an experiment in run.experiments")
    published = {1: load_published_table1(resources_folder), 2: load_published_table2(resources_folder)}
    check_published_names(published_as_by_dataset, published[1])
    _check_models(entries, {study_name(row.model) for rows in published.values() for row in rows})
    names, comparable = published_as_by_dataset, Comparable(resources_folder)
    rows = list(
        score_rows(f"table {number}", entries, published[number], names, comparable, show_difference, all_published)
    )
    everything = _columns(rows, None)
    records = _records(_Table(rows, everything, _ranks(rows, everything)), show_difference)
    rows = [set_apart(row) for row in rows]
    shown = _columns(rows, columns) or _columns(rows, None)
    table = _Table(rows, shown, _ranks(rows, shown))
    notes = [*_primary_note(table, primary), *caption_notes]
    write_sheet(_sheet(number, table, notes), records, out_csv, out_md, out_tex)


# The arguments of `make_score_table` after its number.
make_table1 = partial(make_score_table, 1)
make_table2 = partial(make_score_table, 2)


def _check_models(entries: Sequence[Mapping[str, Any]], known: set[str]) -> None:
    for entry in entries:
        name = entry.get("published_model")
        if name is not None and study_name(name) not in known:
            raise DataError(
                f"experiments.{entry['experiment']}.published_model: no paper has {name!r}; "
                f"known: {', '.join(sorted(known))}"
            )


def _columns(rows: Sequence[Row], metrics: Sequence[str] | None) -> list[str]:
    """Return the columns of these metrics (None: all) with a value in any row: means, then standard deviations.

    Metrics that failed have columns of means, too, with or without a value in them.
    """
    present = dict.fromkeys(column for row in rows for column in row.values)
    for name in dict.fromkeys(name for row in rows for name in row.failed):
        present |= dict.fromkeys(known_metrics().get(name) or [name])
    if metrics is None:
        metrics = dict.fromkeys((*DEFAULT_COLUMNS, *known_columns(), *map(_base, present)))
    metrics = [name for metric in metrics for name in (metric, metric + APART)]
    return [c for c in (*metrics, *(metric + STD for metric in metrics)) if c in present]


def _base(column: str) -> str:
    """Return the metric of a column, also of one whose scores stand apart."""
    return metric_of(column).removesuffix(APART)


def _stated(name: str) -> Column:
    return stated_column(_base(name))


def _ranks(rows: Sequence[Row], columns: Sequence[str]) -> dict[tuple[int, str], int]:
    """Rank the printed values within a data set, kind and signature: 1 is best, equal values share a rank.

    Scores of a whole set of texts are ranked among sets of one size.
    """
    ranks = {}
    for column in columns:
        metric = metric_of(column)
        if _base(metric) not in known_columns():
            continue  # which direction is better is not known
        sign = -1 if column != metric or _stated(column).smaller_is_better else 1
        groups: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
        for number, row in enumerate(rows):
            if column in row.values and row.kind != "bound":
                value = sign * round(row.values[column], _stated(column).decimals)
                size = row.n if _stated(metric).whole else ""
                groups[row.block, row.kind, row.signatures[metric], size][number] = value
        for group in groups.values():
            if len(group) > 1:
                for number, value in group.items():
                    ranks[number, column] = 1 + sum(other > value for other in group.values())
    return ranks


def _sheet(number: int, table: _Table, caption_notes: Sequence[str]) -> Sheet:
    published = any(row.kind == "published" for row in table.rows)
    beside = "published scores beside those" if published else "scores"
    heads = [Head("Model", number=False), Head("Source", number=False), Head("N")]
    parts = []
    for about, columns in _parts(table.columns):
        heads += [_head(column, len(parts)) for column in columns]
        parts.append(about)
    return Sheet(
        label=f"table{number}",
        caption=f"{_SUBJECTS[number]}: {beside} of this run.",
        parts=parts,
        heads=heads,
        lines=list(_lines(table)),
        notes=[*_notes(table), *caption_notes],
        signatures=_signatures(table),
    )


def _parts(columns: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what stands side by side in LaTeX, with a sentence about it: no more metrics than can be read."""
    smaller = any(_stated(column).smaller_is_better for column in columns if not column.endswith(STD))
    sides = {
        f"Explainability: higher is better{', but for those marked ↓' * smaller}.": [
            column for column in columns if not column.endswith(STD)
        ],
        "Stability (standard deviation over the examples): lower is better.": [
            column for column in columns if column.endswith(STD)
        ],
    }
    for about, members in sides.items():
        for start in range(0, len(members), len(DEFAULT_COLUMNS)):
            yield about if start == 0 else "", members[start : start + len(DEFAULT_COLUMNS)]


def _head(column: str, part: int) -> Head:
    name, known = _heading(column), _base(column) in known_columns()
    if column.endswith(STD):
        return Head(f"{name} std{' ↓' * known}", "Stability ↓", name, part)
    arrow = "↓" if _stated(column).smaller_is_better else "↑"
    return Head(f"{name}{f' {arrow}' * known}", f"Explainability {arrow}", name, part)


def _heading(column: str) -> str:
    stated = _stated(column)
    return (stated.heading or stated.label) + APART * metric_of(column).endswith(APART)


def _lines(table: _Table) -> Iterator[Line]:
    for i, row in enumerate(table.rows):
        n = f"{row.n} of {row.test_examples}" if row.few and row.test_examples else row.n
        cells = [Cell(row.model + "†" * row.few), Cell(row.source), Cell(n)]
        cells += [Cell(_number(row, column), table.ranks.get((i, column), 0)) for column in table.columns]
        yield Line(cells, row.block)
        if any(column in row.differences for column in table.columns):
            shown = (_difference(row, column) for column in table.columns)
            yield Line([Cell("measured − study"), Cell(""), Cell(""), *map(Cell, shown)], row.block)


def _number(row: Row, column: str) -> str:
    if column not in row.values:
        return "–" if reason_of(column, row.failed) is None else "–§"
    text = row.printed.get(column, f"{row.values[column]:z.{_stated(column).decimals}f}")
    return text + "‡" * (metric_of(column) in row.missing)


def _difference(row: Row, column: str) -> str:
    if column not in row.differences:
        return ""
    return f"{row.differences[column]:+.{_stated(column).decimals}f}"


def _notes(table: _Table) -> list[str]:
    rows, shown = table.rows, {metric_of(column) for column in table.columns}
    kinds = {row.kind for row in rows}
    whole = ", ".join(dict.fromkeys(_heading(_base(name)) for name in table.columns if _stated(name).whole))
    sized = f", of {whole}, which depends on N, also of the same N" if whole else ""
    notes = [
        "Bold is best and underlined second best of a data set, as printed, among rows of the same source or "
        f"signature only{sized}; equal values share a mark. "
        "N: examples. std: over examples (population)."
    ]
    if "published" in kinds:
        notes.append(
            "Rows of the XRec paper and of the study are as published and were not measured here; "
            "the two used different judges and checkpoints."
        )
    if any(row.few and row.kind == "published" for row in rows):
        notes.append(f"† Published for {TENTH} test examples, a tenth of the test set.")
    if any(row.few and row.kind != "published" for row in rows):
        notes.append(FEW_NOTE)
    if "bound" in kinds:
        notes.append(
            "Chance: the expected score of the reference explanations if they were dealt to the examples at random. "
            "Reference explanations: their own score, below 1 where they name the strongest reasons only."
        )
    unscored = [_unscored(row, shown) for row in rows if shown & row.missing.keys()]
    if unscored:
        notes.append(f"‡ Less the examples that could not be scored: {'; '.join(unscored)}.")
    notes += _comparisons(table)
    notes += _failures(table)
    if any(row.differences for row in rows):
        notes.append(
            "measured − study: the row above less the study's row of the same data set and model, where they compare."
        )
    notes += warnings(kinds)
    measured = {row.seeds for row in rows if row.kind not in ("published", "bound") and row.seeds}
    if measured and min(measured) < FEWEST:
        notes.append(scope_note(measured, "fixed"))
    if any(row.seeds > 1 for row in rows):
        notes.append("Rows with several seeds are means over the seeds; the CSV file gives their spread.")
    return notes


def _comparisons(table: _Table) -> Iterator[str]:
    """Say which columns hold scores that compare with no published ones, or with those of one paper only, and why."""
    shown = {_base(column): _heading(_base(column)) for column in table.columns}
    alone: dict[str, str] = {}
    partly: dict[str, str] = {}
    for row in table.rows:
        for metric, differences in row.beside.items():
            if metric in shown and (why := apart(differences)):
                alone[shown[metric]] = why
            elif metric in shown:
                others = {SOURCES[paper]: why for (paper, _), why in differences.items() if why}
                partly |= {f"{shown[metric]} and the {source}": why for source, why in others.items()}
    for about, names in ((f"Columns{APART} do not", alone), ("In columns of both, these do not", partly)):
        if names:
            yield f"{about} compare with published ones: {'; '.join(': '.join(pair) for pair in names.items())}."


def _primary_note(table: _Table, primary: Sequence[str] | None) -> list[str]:
    measured = {_base(metric) for row in table.rows if row.kind != "published" for metric in row.signatures}
    shown = [metric for metric in dict.fromkeys(map(_base, table.columns)) if metric in measured]
    if primary is None or all(metric in primary for metric in shown):
        return []
    named = ", ".join(_heading(metric) for metric in shown if metric in primary) or "none of those shown"
    return [f"Primary metrics of this run: {named}. What its other columns show is exploratory."]


def _unscored(row: Row, shown: set[str]) -> str:
    metrics = [f"{_heading(m)} {some} of {total}" for m, (some, total) in row.missing.items() if m in shown]
    return f"{row.model} on {row.block}, {', '.join(metrics)}"


def _failures(table: _Table) -> Iterator[str]:
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in table.rows:
        for metric, reason in row.failed.items():
            if any(reason_of(column, {metric: reason}) for column in table.columns):
                places[metric, reason].append(f"{row.model} on {row.block}")
    for (metric, reason), rows in places.items():
        yield f"§ No scores by {metric} of {'; '.join(rows)}: {reason}"


def _signatures(table: _Table) -> dict[str, str]:
    used: dict[str, dict[str, None]] = defaultdict(dict)
    for metric in dict.fromkeys(map(metric_of, table.columns)):
        for row in table.rows:
            if row.kind != "published" and metric in row.signatures:
                used[row.signatures[metric]][_heading(metric)] = None
    return {signature: ", ".join(headings) for signature, headings in used.items()}


def _records(table: _Table, show_difference: bool) -> list[dict[str, Any]]:
    """Return the rows of the CSV file."""
    metrics = [column for column in table.columns if column == metric_of(column)]
    records = []
    for i, row in enumerate(table.rows):
        record: dict[str, Any] = {"dataset": row.block, "model": row.model, "source": row.source, "kind": row.kind}
        record |= {"n": row.n, "few": int(row.few), "test_examples": row.test_examples, "seeds": row.seeds or None}
        record |= {column: row.values.get(column) for column in table.columns}
        record |= {f"{metric}_seed_sd": row.seed_sd.get(metric) for metric in metrics}
        record |= {f"{column}_rank": table.ranks.get((i, column)) for column in table.columns}
        if show_difference:
            record |= {f"{column}_difference": row.differences.get(column) for column in table.columns}
        record |= {f"{m}_missing": row.missing.get(m, (0,))[0] if row.seeds else None for m in metrics}
        record |= {f"{metric}_apart": apart(row.beside.get(metric, {})) for metric in metrics}
        failures = {m: [reason_of(m, other.failed) for other in table.rows] for m in metrics}
        record |= {f"{m}_failed": reasons[i] for m, reasons in failures.items() if any(reasons)}
        records.append(record | {f"{metric}_signature": row.signatures.get(metric) for metric in metrics})
    return records
