"""Raw files as records: JSON lines, and tables in csv, tsv or Parquet; nothing is in memory whole."""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.data.text import encodable
from xrec_repro.errors import DataError

BATCH_ROWS = 8192
MAX_LINE_BYTES = 16 * 2**20  # a file without line ends must not be read into memory whole
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",\t;|"
_SHOWN_COLUMNS, _SHOWN_WIDTH = 20, 40

Record = dict[str, Any]


class MalformedLineError(ValueError):
    """A raw line that cannot be used; the message says why."""


class Line(NamedTuple):
    """One record of a raw file, or why there is none.

    Attributes:
        number: Of the line, or of a Parquet file's row, from 1.
        size: About how many bytes its texts take.
        record: By key or column.
    """

    number: int
    size: int
    record: Record | MalformedLineError


def json_records(path: Path) -> Iterator[Line]:
    """Yield the JSON objects of a file, one a line, plain or gzip.

    Raises:
        DataError: The file is a damaged gzip.
    """
    with _open_raw(path) as stream:
        for number, line in _lines(stream, path):
            if line and not line.isspace():
                yield Line(number, len(line), _decode(line))


def table_records(path: Path, required: Mapping[str, str | None], optional: Mapping[str, str | None]) -> Iterator[Line]:
    """Yield the rows of a table by column: csv (comma, tab, semicolon or bar; plain or gzip) or Parquet.

    A cell that holds nothing is None. A csv record that cannot be read counts once for every line it takes.

    Args:
        path: The file; its first bytes and its header tell what it is.
        required: What is needed -> the column that holds it.
        optional: What may be there, likewise; one under its own name may be absent, and None stands for no column.

    Raises:
        DataError: A column is missing or is there twice, or the file is damaged.
    """
    with path.open("rb") as stream:
        is_parquet = stream.read(len(_PARQUET)) == _PARQUET
    return (_parquet_records if is_parquet else _csv_records)(path, required, optional)


# --- JSON lines -----------------------------------------------------------------------------------------


@contextmanager
def _open_raw(path: Path) -> Iterator[BinaryIO]:
    """Open a raw file, unpacking it when its first bytes say gzip, whatever its name says."""
    with path.open("rb") as stream:
        packed = stream.read(len(_GZIP)) == _GZIP
        stream.seek(0)
        if packed:
            with gzip.open(stream) as unpacked:
                yield unpacked
        else:
            yield stream


def _lines(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines and their numbers from 1; an overlong line is cut just over the limit."""
    number = 0
    try:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_LINE_BYTES + 1)
            yield number, line.removeprefix(_BOM) if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: the gzip stream is damaged or ends early after line {number} ({error}); how much is "
            f"missing is not known, so read.max_malformed cannot allow it: download the file again"
        ) from error


def _decode(line: bytes) -> Record | MalformedLineError:
    if len(line) > MAX_LINE_BYTES:
        return MalformedLineError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return MalformedLineError(f"not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return MalformedLineError(f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError):
        return MalformedLineError("not JSON: a number or nesting beyond all measure")
    if not isinstance(record, dict):
        return MalformedLineError(f"not a JSON object but {type(record).__name__}")
    return record


# --- Tables ---------------------------------------------------------------------------------------------


def _csv_records(path: Path, required: Mapping[str, str | None], optional: Mapping[str, str | None]) -> Iterator[Line]:
    with _open_raw(path) as stream:
        # Bytes that are no UTF-8 become half surrogate pairs, which spoil their row alone.
        lines = ((number, line.decode("utf-8", "surrogateescape")) for number, line in _lines(stream, path))
        before, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
        delimiter, header = _header(first, required)
        _check_columns(path, header, required, optional)
        reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
        while True:
            start = before + reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                why = MalformedLineError(f"not csv: {error}")
                yield from (Line(number, 0, why) for number in range(start, before + reader.line_num + 1))
                continue
            if row:
                yield Line(start, sum(map(len, row)), _named(row, header))


def _header(line: str, required: Mapping[str, str | None]) -> tuple[str, list[str]]:
    """Return the delimiter that finds most of the columns that are needed, and the columns."""
    found = {}
    for delimiter in _DELIMITERS:
        try:
            found[delimiter] = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            found[delimiter] = []
    best = max(
        found, key=lambda delimiter: (len(set(required.values()) & set(found[delimiter])), len(found[delimiter]))
    )
    return best, found[best]


def _named(row: list[str], header: list[str]) -> Record | MalformedLineError:
    if len(row) != len(header):
        return MalformedLineError(f"{len(row)} fields under {len(header)} columns")
    if any(encodable(cell) != cell for cell in row):
        return MalformedLineError("not UTF-8")
    return {name: cell if cell.strip() else None for name, cell in zip(header, row, strict=True)}


def _parquet_records(
    path: Path, required: Mapping[str, str | None], optional: Mapping[str, str | None]
) -> Iterator[Line]:
    try:
        with pq.ParquetFile(path) as file:
            header = file.schema_arrow.names
            _check_columns(path, header, required, optional)
            names = [name for name in dict.fromkeys([*required.values(), *optional.values()]) if name in header]
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                for record in batch.to_pylist():
                    number += 1
                    yield Line(number, sum(len(cell) for cell in record.values() if isinstance(cell, str)), record)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]}); write it again") from error


def _check_columns(
    path: Path, header: list[str], required: Mapping[str, str | None], optional: Mapping[str, str | None]
) -> None:
    # An optional column with a name of its own was asked for.
    asked = {key: name for key, name in optional.items() if name not in (None, key)}
    for key, name in {**required, **asked}.items():
        if name not in header:
            found = ", ".join(repr(name[:_SHOWN_WIDTH]) for name in header[:_SHOWN_COLUMNS])
            raise DataError(
                f"{path}: no column {name!r} (found: {found or 'none'}); name it in datasets.<name>.columns.{key}, or "
                "write the file as UTF-8 with a header"
            )
    counts = Counter(header)
    for name in (*required.values(), *optional.values()):
        if name is not None and counts[name] > 1:
            raise DataError(f"{path}: column {name!r} is there {counts[name]} times; keep one")
