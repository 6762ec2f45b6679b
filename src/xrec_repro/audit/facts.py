"""What the audit reads and what it finds: the papers' printed facts as rows, and findings about them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from xrec_repro.errors import DataError
from xrec_repro.identity import sha256_file
from xrec_repro.published import read_rows

Verdict = Literal["agrees", "differs", "not checked"]

# File of resources/published -> columns that the audit needs of it.
_COLUMNS = {
    "datasets": "dataset folder reported_by users items interactions train_texts val_texts test_texts source",
    "marks": "table dataset model reported_by column mark",
    "statements": "key reported_by value source note",
    "configurations": "metric reported_by configuration basis source",
    "comparisons": "claim needed table dataset column left left_by relation right right_by",
    "xrec_table1": "dataset model",
    "study_table1": "dataset model reported_by n_test",
    "study_table2": "dataset model n_test",
    "study_table3": "dataset experiment",
}
# File of resources/published -> what to call the table.
SCORE_TABLES = {
    "xrec_table1": "table 1 of the XRec paper",
    "study_table1": "table 1 of the study",
    "study_table2": "table 2 of the study",
}
STD = "_std"
# The tables' names of one experiment -> its name in the study's table 3.
_RUN_NAMES = {
    "XRec (w/o prof.)": "XRec w/o profile",
    "XRec w/o prof. & inj.": "XRec w/o profile & w/o injection",
    "XRec w/o embed.": "XRec w/o embeddings",
    "XRec fixed MoE": "XRec with fixed MoE",
}
_IDENTITY = frozenset({"dataset", "model", "reported_by", "n_test"})
_RESTORE = "restore it from the repository"


@dataclass(frozen=True)
class Finding:
    """One check of the published material.

    Attributes:
        id: Short and unique, e.g. ``emissions-total``; checks of released data end in ``.<folder>``.
        title: What is in question.
        method: What was computed, and under which premise.
        files: Names of the files that it was computed from; they start with ``resources/`` or ``data/``.
        printed: What the papers say, and where.
        computed: What came out.
        verdict: Whether the two agree; ``not checked`` where something needed is not at hand.
        comment: What follows, in one line; why, if it was not checked.
        details: The rows behind it.
        sha256: File -> SHA-256 of its bytes; `run_audit` fills it.
    """

    id: str
    title: str
    method: str
    files: tuple[str, ...]
    printed: str
    computed: str
    verdict: Verdict
    comment: str
    details: tuple[Mapping[str, Any], ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreRow:
    """A row of a published table of scores, as printed.

    Attributes:
        table: File that it comes from, e.g. ``study_table1``.
        dataset: As published.
        model: As published.
        reported_by: ``xrec`` or ``study``.
        n_test: Test examples scored; None where the table does not say.
        printed: Column -> number as printed; what was not published is absent.
    """

    table: str
    dataset: str
    model: str
    reported_by: str
    n_test: int | None
    printed: Mapping[str, str]

    def __getitem__(self, column: str) -> float:
        if column not in self.printed:
            raise DataError(f"{self.table}.csv: {self.dataset}/{self.model} has no {column}; {_RESTORE}")
        return float(self.printed[column])


class Sources:
    """The files of an audit.

    Args:
        resources_folder: The folder ``resources``.
        data_folder: Released data, one folder a data set; None if there are none.
    """

    def __init__(self, resources_folder: str | Path, data_folder: str | Path | None = None) -> None:
        self.resources = Path(resources_folder)
        self.data = None if data_folder is None else Path(data_folder)
        self._facts: dict[str, list[dict[str, str]]] = {}
        self._digests: dict[str, str] = {}

    def facts(self, name: str) -> list[dict[str, str]]:
        """Return the rows of ``resources/published/<name>.csv``.

        Raises:
            DataError: The file is missing, or lacks a column or a cell.
        """
        if name not in self._facts:
            rows = read_rows(self.resources / "published" / f"{name}.csv", _COLUMNS[name].split())
            self._facts[name] = [row for _, row in rows]
        return self._facts[name]

    def scores(self, table: str) -> list[ScoreRow]:
        """Return the rows of a published table of scores.

        Raises:
            DataError: The file is missing or malformed.
        """
        path = self.resources / "published" / f"{table}.csv"
        rows = []
        for line, row in enumerate(self.facts(table), start=2):
            printed = {key: text for key, text in row.items() if text and key not in _IDENTITY}
            for key, text in {**printed, "n_test": row.get("n_test", "0")}.items():
                _require_number(f"{path}: line {line}", key, text)
            reporter = row.get("reported_by") or table.partition("_")[0]
            n_test = int(float(row["n_test"])) if "n_test" in row else None
            rows.append(ScoreRow(table, row["dataset"], row["model"], reporter, n_test, printed))
        return rows

    def score(self, table: str, dataset: str, model: str, reported_by: str = "study") -> ScoreRow:
        """Return one row of a published table of scores.

        Raises:
            DataError: The table has no such row, or is malformed.
        """
        for row in self.scores(table):
            if (row.dataset, row.model, row.reported_by) == (dataset, model, reported_by):
                return row
        path = self.resources / "published" / f"{table}.csv"
        raise DataError(f"{path}: no row {dataset}/{model} of {reported_by!r}; {_RESTORE}")

    @cached_property
    def datasets(self) -> list[dict[str, str]]:
        """One row of ``datasets.csv`` a data set: that of the paper which also prints the sizes of the texts."""
        rows = {row["dataset"]: row for row in self.facts("datasets") if row["test_texts"]}
        return list(rows.values())

    def has_statement(self, key: str) -> bool:
        """Return whether ``statements.csv`` has that key."""
        return any(row["key"] == key for row in self.facts("statements"))

    def statements(self, key: str) -> list[dict[str, str]]:
        """Return all statements of ``statements.csv`` with that key.

        Raises:
            DataError: There is none.
        """
        found = [row for row in self.facts("statements") if row["key"] == key]
        if not found:
            raise DataError(f"{self.resources}/published/statements.csv: no statement {key!r}; {_RESTORE}")
        return found

    def number(self, key: str) -> float:
        """Return the one stated number with that key.

        Raises:
            DataError: There is none, or it is not a number.
        """
        text = self.statements(key)[0]["value"]
        _require_number(f"{self.resources}/published/statements.csv: {key}", "value", text)
        return float(text)

    def source(self, key: str) -> str:
        """Return where the first statement with that key stands."""
        return self.statements(key)[0]["source"]

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Return name -> SHA-256 of files named as in `Finding.files`."""
        roots = {"resources": self.resources, "data": self.data}
        for name in names:
            root, _, rest = name.partition("/")
            if name not in self._digests:
                self._digests[name] = sha256_file(roots[root] / rest)
        return {name: self._digests[name] for name in names}


def run_name(model: str) -> str:
    """Return table 3's name of an experiment of the study's tables 1 and 2."""
    return _RUN_NAMES.get(model, model)


def published(*names: str) -> tuple[str, ...]:
    """Return the names, for `Finding.files`, of files of ``resources/published``."""
    return tuple(f"resources/published/{name}.csv" for name in names)


def listing(parts: Iterable[str]) -> str:
    """Join parts for people, or say that there is none."""
    return "; ".join(parts) or "none"


def _require_number(place: str, key: str, text: str) -> None:
    try:
        finite = math.isfinite(float(text))
    except ValueError:
        finite = False
    if not finite:
        raise DataError(f"{place}: {key} is {text!r}, not a number; correct it")
