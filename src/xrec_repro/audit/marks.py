"""Audit of the published tables: bold and underlined cells, and numbers that are printed twice."""

from collections.abc import Iterator, Sequence
from typing import Any

from xrec_repro.audit.facts import SCORE_TABLES, STD, Finding, ScoreRow, Sources, listing, published, run_name


def check_marks(sources: Sources) -> Iterator[Finding]:
    """Yield the findings about marks and reprints of the published tables of scores.

    Raises:
        DataError: A file of ``resources/published`` is missing or malformed.
    """
    for table in SCORE_TABLES:
        yield _marks(sources, table)
    yield _reprints(sources)
    yield _repeats(sources)
    yield _baselines(sources)


def derive_marks(rows: Sequence[ScoreRow]) -> dict[tuple[str, str, str, str], str]:
    """Return the marks that the numbers of a table deserve.

    The best value of a data set and column is bold and the second best underlined; equal values share a mark, and
    several best leave no second. Standard deviations are better when lower, all else when higher.

    Args:
        rows: All rows of one table.

    Returns:
        (dataset, model, reported_by, column) -> ``bold`` or ``underline``.
    """
    marks = {}
    for row in rows:
        peers = [other for other in rows if other.dataset == row.dataset]
        for column in row.printed:
            sign = -1 if column.endswith(STD) else 1
            better = sum(sign * other[column] > sign * row[column] for other in peers if column in other.printed)
            if better < 2:
                marks[row.dataset, row.model, row.reported_by, column] = ("bold", "underline")[better]
    return marks


def _marks(sources: Sources, table: str) -> Finding:
    rows = sources.scores(table)
    derived = derive_marks(rows)
    printed = {
        (fact["dataset"], fact["model"], fact["reported_by"], fact["column"]): fact["mark"]
        for fact in sources.facts("marks")
        if fact["table"] == table
    }
    values = {(row.dataset, row.model, row.reported_by): row for row in rows}
    wrong = sorted(key for key in printed.keys() | derived.keys() if printed.get(key) != derived.get(key))
    details = []
    for key in wrong:
        dataset, model, reporter, column = key
        value = values[dataset, model, reporter].printed.get(column, "–") if key[:3] in values else "–"
        detail = {"dataset": dataset, "model": model, "reported_by": reporter, "column": column, "value": value}
        details.append(detail | {"printed": printed.get(key, "none"), "by the numbers": derived.get(key, "none")})
    misplaced = sum(key in printed for key in wrong)
    return Finding(
        id=f"marks-{table.replace('_', '-')}",
        title=f"Bold and underlined cells of {SCORE_TABLES[table]}",
        method="Best and second best of each data set and column by the printed numbers; std: lower is better; "
        "equal values share a mark, several best leave no second.",
        files=published(table, "marks"),
        printed=f"{len(printed)} marks",
        computed=f"{len(derived)} marks; {len(wrong)} cells differ",
        verdict="differs" if wrong else "agrees",
        comment=f"{misplaced} of these cells carry a mark that they do not deserve, {len(wrong) - misplaced} lack one "
        "(which could also have been lost in the text version of the paper)."
        if wrong
        else "",
        details=tuple(details),
    )


# --- The same number printed twice ------------------------------------------------------------------------


def _compare(pairs: Sequence[tuple[ScoreRow, ScoreRow]]) -> tuple[int, list[dict[str, Any]]]:
    """Count the cells that both rows of a pair have, and list those that differ."""
    cells, wrong = 0, []
    for one, other in pairs:
        for column in (name for name in one.printed if name in other.printed):
            cells += 1
            if one[column] != other[column]:
                place = {"dataset": one.dataset, "model": one.model, "column": column}
                wrong.append(place | {one.table: one.printed[column], other.table: other.printed[column]})
    return cells, wrong


def _reprints(sources: Sources) -> Finding:
    names = {"Ours": "XRec", "Ours (w/o profile)": "XRec (w/o prof.)"}
    originals = {(row.dataset, names.get(row.model, row.model)): row for row in sources.scores("xrec_table1")}
    reprints = [row for row in sources.scores("study_table1") if row.reported_by == "xrec"]
    pairs = [(row, originals[row.dataset, row.model]) for row in reprints if (row.dataset, row.model) in originals]
    return _twice(
        "reprints",
        "The XRec paper's rows as the study reprints them",
        ("xrec_table1", "study_table1"),
        pairs,
        "The study copied the XRec paper's numbers without a slip.",
    )


def _repeats(sources: Sources) -> Finding:
    table1 = [row for row in sources.scores("study_table1") if row.reported_by == "study"]
    table2 = {(row.dataset, run_name(row.model)): row for row in sources.scores("study_table2")}
    pairs = [
        (row, table2[row.dataset, run_name(row.model)])
        for row in table1
        if (row.dataset, run_name(row.model)) in table2
    ]
    return _twice(
        "repeats",
        "Experiments that the study prints in both table 1 and table 2",
        ("study_table1", "study_table2"),
        pairs,
        "Both tables print the same runs.",
    )


def _twice(
    name: str, title: str, tables: tuple[str, str], pairs: Sequence[tuple[ScoreRow, ScoreRow]], comment: str
) -> Finding:
    cells, wrong = _compare(pairs)
    return Finding(
        id=name,
        title=title,
        method="Cell by cell, as numbers.",
        files=published(*tables),
        printed=f"{len(pairs)} rows with {cells} cells in both tables",
        computed=f"{len(wrong)} cells differ",
        verdict="differs" if wrong else "agrees",
        comment="The two tables cannot both be right." if wrong else comment,
        details=tuple(wrong),
    )


def _baselines(sources: Sources) -> Finding:
    original = {row.model for row in sources.scores("xrec_table1") if not row.model.startswith("Ours")}
    study = sources.scores("study_table1")
    left_out = sorted(original - {row.model for row in study})
    extra = [row for row in sources.scores("xrec_table1") if row.model in left_out]
    marks = derive_marks([*study, *extra])
    would_have = [
        {"dataset": key[0], "model": key[1], "column": key[3], "mark": mark}
        for key, mark in marks.items()
        if key[1] in left_out
    ]
    stated = sources.number("baselines")
    return Finding(
        id="baselines",
        title="Baselines that the XRec paper compares with",
        method="Models of the XRec paper's table 1 other than its own, against those that the study reprints.",
        files=published("xrec_table1", "study_table1", "statements"),
        printed=f"{stated:g} ({sources.source('baselines')})",
        computed=f"{len(original)}; left out: {listing(left_out)}",
        verdict="agrees" if stated == len(original) else "differs",
        comment=f"With all baselines in the study's table 1, {len(would_have)} of their cells would be marked there.",
        details=tuple(would_have),
    )
