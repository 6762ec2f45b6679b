"""Files of texts: of a system's predictions, of references."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.data.text import encodable
from xrec_repro.errors import DataError
from xrec_repro.io import require_file

_ROLES = ("prediction", "reference")
_REMEDY = "give a .txt, .jsonl, .csv, .parquet or .pkl file of texts"


def read_texts(path: str | Path, role: str | None = None) -> list[str]:
    """Read texts from a file.

    Args:
        path: ``.txt``, one text a line; ``.jsonl``, a string or an object a line; ``.csv`` with a header; ``.parquet``;
            or ``.pkl`` as released with XRec, a list of strings or a DataFrame with the column ``explanation``.
        role: ``prediction`` or ``reference``: which key or column to read where a row has several. It may
            also be called ``text``. None takes the first that is there, predictions before references.

    Raises:
        DataError: The file is missing or empty, has no such column or has it twice, or a row is not a text.

    Half a surrogate pair, which JSON and pickles may hold, becomes U+FFFD.
    """
    texts = _read(path, (role, "text") if role else (*_ROLES, "text"))
    if not texts:
        raise DataError(f"{path}: there is no text in it; {_REMEDY}")
    for row, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise DataError(f"{path}: row {row} is {type(text).__name__}, not a text; write an empty string instead")
    return [encodable(text) for text in texts]


def read_ids(path: str | Path) -> list[str] | None:
    """Read the column or key ``example_id`` beside the texts of a file; None where it has none.

    Raises:
        DataError: The file is unusable, or some rows have an id and others have none.
    """
    if Path(path).suffix == ".txt":
        return None
    try:
        ids = _read(path, ("example_id",))
    except _NoColumnError:
        if Path(path).suffix == ".jsonl":
            _refuse_ids_of_some(Path(path))
        return None
    wrong = next((row for row, one in enumerate(ids, start=1) if not isinstance(one, str)), None)
    if wrong:
        raise DataError(f"{path}: row {wrong} has no example_id that is a text; give every row one, or none")
    return ids


def _refuse_ids_of_some(path: Path) -> None:
    rows = {place: "example_id" in _keys(row) for place, row in _json_rows(path)}
    if any(rows.values()):
        lacking = next(place for place, has in rows.items() if not has)
        raise DataError(f"{lacking} has no example_id, and others have; give every row one, or none")


def _read(path: str | Path, names: Sequence[str]) -> list[Any]:
    path = require_file(path, _REMEDY)
    if path.suffix not in _READERS:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; {_REMEDY}")
    return _READERS[path.suffix](path, names)


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it with iconv") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _read_txt(path: Path, names: Sequence[str]) -> list[Any]:
    return _read_lines(path)


def _read_jsonl(path: Path, names: Sequence[str]) -> list[Any]:
    texts = []
    for place, row in _json_rows(path):
        if isinstance(row, _Pairs):
            row = dict(row)[_pick(place, names, _keys(row))]
        elif "text" not in names:
            raise _NoColumnError(f"{place} has no keys")
        texts.append(dict(row) if isinstance(row, _Pairs) else row)
    return texts


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place of each row, for errors, and its value: of an object `_Pairs`."""
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}: line {number}"
        try:
            yield place, json.loads(line, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as error:
            why = "is not JSON" if isinstance(error, ValueError) else "is nested too deeply"
            raise DataError(f"{place} {why}; write one value a line") from error


def _keys(row: Any) -> list[str]:
    return [key for key, _ in row] if isinstance(row, _Pairs) else []


def _read_csv(path: Path, names: Sequence[str]) -> list[Any]:
    rows = csv.reader(io.StringIO("\n".join(_read_lines(path))), strict=True)
    try:
        header = next(rows, [])
        place = header.index(_pick(str(path), names, header))
        texts = []
        for row in rows:
            if len(row) != len(header):
                raise DataError(f"{path}: line {rows.line_num} has {len(row)} fields, the header {len(header)}")
            texts.append(row[place])
        return texts
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: {error}; quote texts that hold commas or quotes") from error


class _NoColumnError(DataError):
    """A file has none of the columns that were asked for."""


class _Pairs(list):
    """The keys and values of a JSON object, repeated keys included."""


def _read_parquet(path: Path, names: Sequence[str]) -> list[Any]:
    try:
        file = pq.ParquetFile(path)
        column = _pick(str(path), names, file.schema_arrow.names)
        found = file.read(columns=[column])[column]
        kind = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise DataError(f"{path}: column {column!r} is {found.type}, not text; write it as strings")
        return found.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file; write it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: column {column!r} holds a text that is not UTF-8; write it again") from error


def _read_pickle(path: Path, names: Sequence[str]) -> list[Any]:
    import pandas as pd

    from xrec_repro.safe_pickle import load_pickle

    value = load_pickle(path)
    if isinstance(value, list) and "text" in names:
        return value
    if isinstance(value, list):
        raise _NoColumnError(f"{path}: a list has no columns")
    if not isinstance(value, pd.DataFrame):
        raise DataError(f"{path}: holds {type(value).__name__}; a list of texts or a DataFrame is needed")
    also = ("explanation",) if "text" in names else ()
    return value[_pick(str(path), (*names, *also), list(value.columns))].tolist()


def _pick(place: str, names: Sequence[str], present: Sequence[str]) -> str:
    for name in names:
        if name in present:
            if present.count(name) > 1:
                raise DataError(f"{place}: {name} is there {present.count(name)} times; keep the one with the texts")
            return name
    found = ", ".join(map(str, present)) or "none"
    raise _NoColumnError(
        f"{place}: has none of {', '.join(names)} (found: {found}); rename the one that holds the texts"
    )


_READERS = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".pkl": _read_pickle,
}
