"""Table 1: published scores beside measured ones, ranked only among numbers that can be compared."""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from xrec_repro.errors import DataError
from xrec_repro.io import write_text
from xrec_repro.paper.published import PublishedScores, load_published_table1

# Metric -> heading and decimals, in the study's order. Of all of them, higher is better.
METRICS = {
    "gptscore": ("GPT", 2),
    "llamascore": ("Llama", 2),
    "bertscore_p": ("BERT P", 4),
    "bertscore_r": ("BERT R", 4),
    "bertscore_f1": ("BERT F1", 4),
    "bartscore": ("BART", 4),
    "bleurt": ("BLEURT", 4),
    "usr": ("USR", 4),
}
_STD = "_std"
_SOURCES = {"xrec": "XRec paper", "study": "study"}
_TEX_SPECIAL = {character: f"\\{character}" for character in "{}$&#_%"}
_TEX_SPECIAL |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_TEX_SPECIAL |= {"|": "\\textbar{}", "<": "\\textless{}", ">": "\\textgreater{}", "†": "\\dag{}", "–": "--"}
_TEX_SPECIAL |= {"[": "{[}", "]": "{]}"}  # after a line break, a bare [ would open its optional argument
_TEX = """\\begin{{table}}[htbp]
\\centering
\\caption{{{caption}}}
\\label{{tab:table1}}
\\scriptsize
\\setlength{{\\tabcolsep}}{{2.5pt}}
\\makebox[\\linewidth]{{%
\\begin{{tabular}}{{{form}}}
\\toprule
{spans} \\\\
{rules}
{heads} \\\\
{body}
\\bottomrule
\\end{{tabular}}}}

\\medskip
\\begin{{minipage}}{{\\linewidth}}
\\raggedright
{notes}
\\end{{minipage}}
\\end{{table}}
"""
_FEW = 300  # test examples of the study's rows marked †: a tenth of the test set


@dataclass(frozen=True)
class Row:
    """A row of table 1.

    Attributes:
        block: Label of the data set.
        model: Name of the model or experiment.
        source: Where the numbers come from, for people.
        n: Examples scored; two numbers where metrics or seeds differ.
        values: Column (a metric, or ``<metric>_std``) -> number, over several seeds their mean.
        signatures: Metric -> what it was computed with; rows are compared where it is the same.
        seeds: How many runs the numbers are the mean of; 0 for published rows, which do not say.
        seed_sd: Metric -> sample standard deviation of its mean over the seeds.
        printed: Column -> the number as published.
        kind: ``published``, ``measured`` or ``demo``.
    """

    block: str
    model: str
    source: str
    n: str
    values: dict[str, float]
    signatures: dict[str, str]
    seeds: int = 0
    seed_sd: dict[str, float] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    kind: str = "published"


@dataclass(frozen=True)
class _Table:
    rows: list[Row]
    columns: list[str]
    ranks: dict[tuple[int, str], int]  # (row number, column) -> 1 is best; absent where nothing is compared
    caption: str
    notes: list[str]
    signatures: dict[str, str]  # of this run's rows -> the headings of their columns


def make_table1(
    entries: Sequence[Mapping[str, Any]],
    published_as_by_dataset: Mapping[str, str | None],
    resources_folder: str | Path,
    out_csv: str | Path,
    out_md: str | Path,
    out_tex: str | Path,
    caption_notes: Sequence[str] = (),
) -> None:
    """Write table 1 as CSV (full precision), Markdown and LaTeX (needs booktabs).

    Args:
        entries: One a data set, experiment and seed: dataset, dataset_label, experiment, experiment_label, seed,
            summary (metric -> mean, std, n, signature), kind (``measured``, or ``demo``: trained on the spot).
        published_as_by_dataset: Data set -> its name in the published tables, or None.
        resources_folder: The folder ``resources``.
        out_csv: Where the CSV file goes.
        out_md: Where the Markdown file goes.
        out_tex: Where the LaTeX file goes.
        caption_notes: More notes to print under the table.

    Raises:
        DataError: No entry, one given twice, a malformed summary, mixed signatures, or an unknown name.
    """
    if not entries:
        raise DataError(f"{out_csv}: there is nothing to print; name an experiment in run.experiments")
    rows = list(_all_rows(entries, published_as_by_dataset, resources_folder))
    _refuse_mixed(entries)
    columns = _columns(rows)
    notes = [*_notes(rows), *caption_notes]
    table = _Table(rows, columns, _ranks(rows, columns), _caption(rows), notes, _signatures(rows))
    write_text(out_csv, _csv(table))
    write_text(out_md, _markdown(table))
    write_text(out_tex, _latex(table))


def _all_rows(
    entries: Sequence[Mapping[str, Any]], published_as: Mapping[str, str | None], resources: str | Path
) -> Iterator[Row]:
    """Yield the rows, data set by data set, published ones first."""
    published: dict[str, list[PublishedScores]] = defaultdict(list)
    for scores in load_published_table1(resources):
        published[scores.dataset].append(scores)
    runs: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        runs[entry["dataset"]][entry["experiment"]].append(entry)
    labels: set[str] = set()
    for dataset, experiments in runs.items():
        label = next(iter(experiments.values()))[0]["dataset_label"]
        if label in labels:
            raise DataError(f"datasets.{dataset}.label: {label!r} names another data set too; change one")
        labels.add(label)
        name = published_as.get(dataset)
        if name is not None and name not in published:
            known = ", ".join(published)
            raise DataError(f"datasets.{dataset}.published_as: no published row of {name!r}; known: {known}")
        yield from (_published_row(label, scores) for scores in published.get(name, []))
        yield from (_measured_row(label, group) for group in experiments.values())


def _published_row(label: str, scores: PublishedScores) -> Row:
    # Judges and checkpoints of the two papers differ, so each paper counts as a signature of its own.
    signature = f"published|reported_by:{scores.reported_by}"
    return Row(
        block=label,
        model=scores.model,
        source=_SOURCES.get(scores.reported_by, scores.reported_by),
        n=str(scores.n_test),
        values=scores.values,
        signatures=dict.fromkeys(map(_metric, scores.values), signature),
        printed=scores.printed,
    )


def _measured_row(label: str, group: Sequence[Mapping[str, Any]]) -> Row:
    """Return the mean over the seeds of one experiment."""
    for entry in group:
        _check_entry(entry, group)
    first = group[0]
    values, spread, signatures, counts = {}, {}, {}, set()
    for metric in first["summary"]:
        cells = [entry["summary"][metric] for entry in group]
        values[metric] = fmean(cell["mean"] for cell in cells)
        if len(cells) > 1:
            spread[metric] = stdev(cell["mean"] for cell in cells)
        if all(cell["std"] is not None for cell in cells):
            values[metric + _STD] = fmean(cell["std"] for cell in cells)
        signatures[metric] = cells[0]["signature"]
        counts |= {cell["n"] for cell in cells}
    source = "this run (demo)" if first["kind"] == "demo" else "this run"
    return Row(
        block=label,
        model=first["experiment_label"],
        source=source if len(group) == 1 else f"{source}, {len(group)} seeds",
        n=str(min(counts)) if len(counts) == 1 else f"{min(counts)}-{max(counts)}",
        values=values,
        signatures=signatures,
        seeds=len(group),
        seed_sd=spread,
        kind=first["kind"],
    )


def _check_entry(entry: Mapping[str, Any], group: Sequence[Mapping[str, Any]]) -> None:
    place = f"{entry['dataset']}/{entry['experiment']}/seed{entry['seed']}"
    if sum(other["seed"] == entry["seed"] for other in group) > 1:
        raise DataError(f"table 1: {place} is given twice; name it once")
    if entry["kind"] not in ("demo", "measured") or entry["kind"] != group[0]["kind"]:
        raise DataError(f"table 1: {place}: kind {entry['kind']!r}; say demo or measured, for all seeds alike")
    summary, expected = entry["summary"], group[0]["summary"]
    if not summary or set(summary) != set(expected):
        raise DataError(f"table 1: {place}: no metric, or not those of the other seeds; score it again")
    for metric, cell in summary.items():
        if not {"mean", "std", "n", "signature"} <= set(cell):
            raise DataError(f"table 1: {place}: {metric} needs mean, std, n and signature; score it again")
        numbers = [cell["mean"], *([] if cell["std"] is None else [cell["std"]])]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise DataError(f"table 1: {place}: {metric} is not a finite number; score it again")


def _refuse_mixed(entries: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        for metric, cell in entry["summary"].items():
            one, other = seen.setdefault(metric, cell["signature"]), cell["signature"]
            if one != other:
                raise DataError(
                    f"table 1: column {metric} would mix {one!r} and {other!r}; score all with the same settings"
                )


def _metric(column: str) -> str:
    return column.removesuffix(_STD)


def _columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns that have a value in any row: scores, then their standard deviations."""
    present = dict.fromkeys(column for row in rows for column in row.values)
    metrics = [*METRICS, *(c for c in present if _metric(c) == c and c not in METRICS)]
    return [c for c in (*metrics, *(metric + _STD for metric in metrics)) if c in present]


def _decimals(column: str) -> int:
    return METRICS.get(_metric(column), ("", 4))[1]


def _ranks(rows: Sequence[Row], columns: Sequence[str]) -> dict[tuple[int, str], int]:
    """Rank the printed values within a data set and signature: 1 is best, equal values share a rank."""
    ranks = {}
    for column in columns:
        metric = _metric(column)
        if metric not in METRICS:
            continue  # which direction is better is not known
        sign = 1 if column == metric else -1
        groups: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        for number, row in enumerate(rows):
            if column in row.values:
                value = sign * round(row.values[column], _decimals(column))
                groups[row.block, row.signatures[metric]][number] = value
        for group in groups.values():
            if len(group) > 1:
                for number, value in group.items():
                    ranks[number, column] = 1 + sum(other > value for other in group.values())
    return ranks


def _caption(rows: Sequence[Row]) -> str:
    what = "Published scores beside those" if any(row.kind == "published" for row in rows) else "Scores"
    return f"{what} of this run: explainability (higher is better) and stability (std, lower is better)."


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = [
        "Bold is best and underlined second best of a data set, as printed, among rows of the same source or "
        "signature only; equal values share a mark. N: examples scored. std: over examples (population)."
    ]
    if any(row.kind == "published" for row in rows):
        notes.append(
            "Rows of the XRec paper and of the study are as published and were not measured here; "
            "the two used different judges and checkpoints."
        )
    if any(_few(row) for row in rows):
        notes.append(f"† Published for {_FEW} test examples, a tenth of the test set.")
    if any(row.kind == "demo" for row in rows):
        notes.append(
            "Warning: rows of the demo come from models trained on the spot. They show that the workflow works, "
            "say nothing about the published models, and are not to be compared with published rows."
        )
    if any(row.seeds > 1 for row in rows):
        notes.append("Rows with several seeds are means over the seeds; the CSV file gives their spread.")
    return notes


def _signatures(rows: Sequence[Row]) -> dict[str, str]:
    used: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        if row.kind != "published":
            for metric, signature in row.signatures.items():
                used[signature][_heading(metric)] = None
    return {signature: ", ".join(headings) for signature, headings in used.items()}


def _heading(column: str) -> str:
    name = METRICS.get(_metric(column), (_metric(column), 4))[0]
    return f"{name} std" if column.endswith(_STD) else name


def _few(row: Row) -> bool:
    return row.kind == "published" and row.n == str(_FEW)


def _number(row: Row, column: str) -> str:
    if column not in row.values:
        return "–"
    return row.printed.get(column, f"{row.values[column]:.{_decimals(column)}f}")


def _csv(table: _Table) -> str:
    metrics = [column for column in table.columns if column == _metric(column)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = ["dataset", "model", "source", "kind", "n", "seeds", *table.columns]
    head += [f"{metric}_seed_sd" for metric in metrics] + [f"{column}_rank" for column in table.columns]
    writer.writerow(head + [f"{metric}_signature" for metric in metrics])
    for number, row in enumerate(table.rows):
        cells = [row.block, row.model, row.source, row.kind, row.n, row.seeds or ""]
        cells += [row.values.get(column, "") for column in table.columns]
        cells += [row.seed_sd.get(metric, "") for metric in metrics]
        cells += [table.ranks.get((number, column), "") for column in table.columns]
        writer.writerow(cells + [row.signatures.get(metric, "") for metric in metrics])
    return stream.getvalue()


def _lines(
    table: _Table, text: Callable[[str], str], number: Callable[[str], str], marks: Mapping[int, str]
) -> Iterator[tuple[str | None, list[str]]]:
    """Yield, for each row, the label of the data set that it opens (or None) and its marked-up cells."""
    block = None
    for i, row in enumerate(table.rows):
        cells = [text(row.model + ("†" if _few(row) else "")), text(row.source), text(row.n)]
        for column in table.columns:
            mark = marks.get(table.ranks.get((i, column), 0), "{}")
            cells.append(mark.format(number(_number(row, column))))
        yield (text(row.block) if row.block != block else None), cells
        block = row.block


def _markdown(table: _Table) -> str:
    heads = ["Model", "Source", "N"]
    arrows = {c: " ↓" if c.endswith(_STD) else " ↑" for c in table.columns if _metric(c) in METRICS}
    heads += [_md(_heading(c)) + arrows.get(c, "") for c in table.columns]
    rules = ["---", "---", *["---:"] * (len(heads) - 2)]
    rows = []
    for block, cells in _lines(table, _md, str, {1: "**{}**", 2: "<u>{}</u>"}):
        rows += [[f"*{block}*", *[""] * (len(heads) - 1)]] if block is not None else []
        rows.append(cells)
    lines = [_md(table.caption), "", *(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)), ""]
    lines += [f"- {_md(note)}" for note in table.notes]
    lines += [f"- Signature of {_md(heads)} in this run: `{s}`" for s, heads in table.signatures.items()]
    return "\n".join(lines) + "\n"


def _latex(table: _Table) -> str:
    scores = sum(column == _metric(column) for column in table.columns)
    groups = [("Explainability $\\uparrow$", scores), ("Stability $\\downarrow$", len(table.columns) - scores)]
    spans, rules, last = [], [], 3
    for title, width in ((title, width) for title, width in groups if width):
        spans.append(f"\\multicolumn{{{width}}}{{c}}{{{title}}}")
        rules.append(f"\\cmidrule(lr){{{last + 1}-{last + width}}}")
        last += width
    body = []
    for block, cells in _lines(table, _tex, _tex_number, {1: "\\textbf{{{}}}", 2: "\\underline{{{}}}"}):
        if block is not None:
            body += ["\\midrule", f"\\multicolumn{{{last}}}{{l}}{{\\textit{{{block}}}}} \\\\"]
        body.append(" & ".join(cells) + " \\\\")
    notes = [_tex(note) for note in table.notes]
    for signature, heads in table.signatures.items():
        code = _tex(signature).replace("\\textbar{}", "\\textbar{}\\allowbreak ")
        notes.append(f"Signature of {_tex(heads)} in this run: \\texttt{{{code}}}")
    return _TEX.format(
        caption=_tex(table.caption),
        form="ll" + "r" * (last - 2),
        spans=" & ".join(["", "", "", *spans]).strip(),
        rules="".join(rules),
        heads=" & ".join(["Model", "Source", "N", *(_tex(_heading(c)) for c in table.columns)]),
        body="\n".join(body),
        notes="\n\n".join(notes),
    )


def _md(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(text.split()))


def _tex(text: str) -> str:
    return "".join(_TEX_SPECIAL.get(character, character) for character in " ".join(text.split()))


def _tex_number(text: str) -> str:
    return _tex(text).replace("-", "$-$", 1) if text.startswith("-") else _tex(text)
