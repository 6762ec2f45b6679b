"""The published tables (resources/published) as typed rows."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xrec_repro.errors import DataError
from xrec_repro.io import require_file

# The XRec paper's own names for its model -> the study's, which this workflow uses.
_ALIASES = {"Ours": "XRec", "Ours (w/o profile)": "XRec (w/o prof.)"}
# The study names an experiment differently from table to table -> as its table 2 does.
_TABLE2_NAMES = {
    "XRec (w/o prof.)": "XRec w/o profile",
    "XRec w/o profile & w/o injection": "XRec w/o prof. & inj.",
    "XRec w/o embeddings": "XRec w/o embed.",
    "XRec with fixed MoE": "XRec fixed MoE",
}
_IDENTITY = ("dataset", "model", "reported_by", "n_test")
_STATED = ("claimed", "validated", "rejected")


@dataclass(frozen=True)
class PublishedScores:
    """A row of a published table of scores.

    Attributes:
        dataset: As published, e.g. ``Amazon-books``.
        model: The study's name of the model.
        reported_by: ``xrec`` (the XRec paper) or ``study`` (the reproduction study).
        n_test: Test examples scored.
        values: Column (a metric, or ``<metric>_std``) -> number; what was not published is absent.
        printed: The same numbers as printed.
    """

    dataset: str
    model: str
    reported_by: str
    n_test: int
    values: dict[str, float]
    printed: dict[str, str]


@dataclass(frozen=True)
class PublishedRun:
    """A row of the study's table 3: what an experiment took.

    Attributes:
        dataset: As published.
        experiment: The study's name of the experiment.
        train_gpu: H100 or MIG; None where nothing was trained.
        train_seconds: Seconds of training; None where nothing was trained.
        train_early_stopped: Whether training was stopped early.
        generate_gpu: H100 or MIG.
        generate_seconds: Seconds of generation.
        co2_kg: Emissions as printed, in kg of CO2 equivalent.
    """

    dataset: str
    experiment: str
    train_gpu: str | None
    train_seconds: int | None
    train_early_stopped: bool
    generate_gpu: str
    generate_seconds: int
    co2_kg: float


def load_published_table1(resources_folder: str | Path) -> list[PublishedScores]:
    """Read table 1 of the XRec paper and of the study.

    The study reprints most rows of the XRec paper. Each number is taken from the paper that reported it first,
    and the reprint must agree with it; it gives the number of test examples, which the XRec paper's table lacks.

    Args:
        resources_folder: The folder ``resources``.

    Returns:
        The XRec paper's rows, then the study's own.

    Raises:
        DataError: A file is missing or malformed, or the two disagree.
    """
    folder = Path(resources_folder) / "published"
    original_file, study_file = folder / "xrec_table1.csv", folder / "study_table1.csv"
    study = _read_scores(study_file)
    reprints = {(row.dataset, row.model): row for row in study if row.reported_by == "xrec"}
    tested = {row.dataset: row.n_test for row in reprints.values()}
    originals = _read_scores(original_file, reported_by="xrec", n_test=tested)
    keys = {(row.dataset, row.model) for row in originals}
    for row in originals:
        reprint = reprints.get((row.dataset, row.model), row)
        if reprint.values != row.values:
            raise DataError(
                f"{study_file}: {row.dataset}/{row.model} differs from {original_file.name}; correct the wrong one"
            )
    for dataset, model in reprints.keys() - keys:
        raise DataError(f"{study_file}: {dataset}/{model} is not in {original_file.name}; add it there")
    return originals + [row for row in study if row.reported_by != "xrec"]


def load_published_table2(resources_folder: str | Path) -> list[PublishedScores]:
    """Read the study's table 2 (ablations and extensions).

    Raises:
        DataError: The file is missing or malformed.
    """
    return _read_scores(Path(resources_folder) / "published" / "study_table2.csv", reported_by="study")


def load_published_table3(resources_folder: str | Path) -> list[PublishedRun]:
    """Read the study's table 3 (times and emissions).

    Raises:
        DataError: The file is missing or malformed.
    """
    path = Path(resources_folder) / "published" / "study_table3.csv"
    rows = []
    for place, row in read_rows(path, PublishedRun.__dataclass_fields__):
        rows.append(
            PublishedRun(
                dataset=row["dataset"],
                experiment=row["experiment"],
                train_gpu=row["train_gpu"] or None,
                train_seconds=int(_number(place, row, "train_seconds")) if row["train_seconds"] else None,
                train_early_stopped=bool(_number(place, row, "train_early_stopped")),
                generate_gpu=row["generate_gpu"],
                generate_seconds=int(_number(place, row, "generate_seconds")),
                co2_kg=_number(place, row, "co2_kg"),
            )
        )
    return rows


def published_number(resources_folder: str | Path, key: str) -> float:
    """Return a number that the running text of a paper states (``published/statements.csv``), the first of that key.

    Raises:
        DataError: The file is missing or malformed, or states no such number.
    """
    path = Path(resources_folder) / "published" / "statements.csv"
    for place, row in read_rows(path, ("key", "value")):
        if row["key"] == key:
            return _number(place, row, "value")
    raise DataError(f"{path}: {key!r} is not stated; restore it from the repository")


def study_name(experiment: str) -> str:
    """Return the name by which the study's table 2 calls what any of its tables names."""
    return _TABLE2_NAMES.get(experiment, experiment)


def load_stated_verdicts(resources_folder: str | Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Read what the papers say of the claims.

    Returns:
        (claim, ``xrec`` or ``study``) -> ``claimed``, ``validated`` or ``rejected``, and where it is printed.

    Raises:
        DataError: The file is missing or malformed, or has another verdict.
    """
    path = Path(resources_folder) / "published" / "study_verdicts.csv"
    found = {}
    for place, row in read_rows(path, ("claim", "reported_by", "verdict", "where")):
        if row["verdict"] not in _STATED:
            raise DataError(f"{place}: {row['claim']}: verdict {row['verdict']!r}; say one of {', '.join(_STATED)}")
        found[row["claim"], row["reported_by"]] = row["verdict"], row["where"]
    return found


def check_published_names(published_as: Mapping[str, str | None], rows: Sequence[PublishedScores]) -> None:
    """Check that every data set's name in the published tables occurs there.

    Args:
        published_as: Data set -> its published name, or None.
        rows: Published rows of all data sets (`load_published_table1`).

    Raises:
        DataError: A name is unknown; the message lists the known ones.
    """
    known = dict.fromkeys(row.dataset for row in rows)
    for dataset, name in published_as.items():
        if name is not None and name not in known:
            raise DataError(f"datasets.{dataset}.published_as: no published row of {name!r}; known: {', '.join(known)}")


def _read_scores(
    path: Path, reported_by: str | None = None, n_test: dict[str, int] | None = None
) -> list[PublishedScores]:
    """Read a table of scores; what it does not say itself comes from the arguments."""
    needed = ["dataset", "model"]
    needed += [] if reported_by else ["reported_by"]
    needed += ["n_test"] if n_test is None else []
    rows = []
    for place, row in read_rows(path, needed):
        if n_test is not None and row["dataset"] not in n_test:
            raise DataError(f"{place}: the number of test examples of {row['dataset']} is known from no table")
        printed = {key: text for key, text in row.items() if text and key not in _IDENTITY}
        rows.append(
            PublishedScores(
                dataset=row["dataset"],
                model=_ALIASES.get(row["model"], row["model"]),
                reported_by=reported_by or row["reported_by"],
                n_test=int(_number(place, row, "n_test")) if n_test is None else n_test[row["dataset"]],
                values={key: _number(place, row, key) for key in printed},
                printed=printed,
            )
        )
    return rows


def read_rows(path: Path, needed: Iterable[str], delimiter: str = ",") -> list[tuple[str, dict[str, str]]]:
    """Return the rows of a table of resources, each with its place for messages.

    Raises:
        DataError: The file is missing or no table, lacks a column, or has a row of another length.
    """
    with require_file(path, "restore it from the repository").open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
        try:
            for name in needed:
                if name not in (reader.fieldnames or []):
                    raise DataError(f"{path}: column {name!r} is missing; restore it from the repository")
            rows = [(f"{path}: line {reader.line_num}", row) for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a table in UTF-8 ({error}); restore it from the repository") from error
    for place, row in rows:
        if None in row or None in row.values():
            raise DataError(f"{place}: not as many cells as the header has columns; add or remove some")
    return rows


def _number(place: str, row: dict[str, str], key: str) -> float:
    try:
        return float(row[key])
    except ValueError as error:
        raise DataError(f"{place}: {key} is {row[key]!r}, not a number; correct it") from error
