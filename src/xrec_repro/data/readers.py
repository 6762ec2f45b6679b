"""Raw reviews and item descriptions of three public collections, read line by line into two Parquet tables.

Formats (one JSON object a line, plain or gzip):

- ``amazon``: Amazon reviews 2018 (nijianmo.github.io/amazon), reviews and ``meta_*`` files.
- ``yelp``: Yelp Open Dataset, ``…_review.json`` and ``…_business.json``.
- ``google``: Google Local 2021 (UCSD), ``review-*.json`` and ``meta-*.json``.

Memory does not grow with the reviews; of the items only the ids are remembered, to drop repeated ones.
"""

import gzip
import html
import json
import logging
import math
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.contracts import INTERACTIONS, ITEMS
from xrec_repro.data.times import UNITS, judge_unit, to_seconds
from xrec_repro.errors import DataError
from xrec_repro.io import atomic_path, require_file
from xrec_repro.progress import track

log = logging.getLogger("xrec_repro")

BATCH_ROWS = 8192
BATCH_BYTES = 32 * 2**20  # of raw lines: a batch of very long reviews is written earlier
MAX_LINE_BYTES = 16 * 2**20  # a file without line ends must not be read into memory whole
SHOWN_LINES = 20
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_JUDGED_LINES = 10_000  # of a file of reviews, for the unit of its times

Row = tuple[Any, ...]
Record = dict[str, Any]
FileReport = dict[str, Any]


class MalformedLineError(ValueError):
    """A raw line that cannot be used; the message says why."""


class RawFormat(NamedTuple):
    """How one collection writes reviews and items: functions from a JSON object to a row of the contract.

    Attributes:
        review: Takes `per_second` beside the object if there is a `time`.
        item: Takes the object.
        time: Key of a review's time where that is a number since 1970.
        per_second: How many of its units are a second, as the collection was published.
    """

    review: Callable[..., Row]
    item: Callable[[Record], Row]
    time: str | None = None
    per_second: int = 1


def read_raw(
    source: str,
    reviews: str | Path,
    items: str | Path,
    out_interactions: str | Path,
    out_items: str | Path,
    max_malformed: float,
) -> dict[str, FileReport]:
    """Read one collection into an INTERACTIONS and an ITEMS table, both or neither.

    Args:
        source: ``amazon``, ``yelp`` or ``google``.
        reviews: JSON lines of reviews, plain or gzip (told apart by their first bytes).
        items: JSON lines of items; of lines with the same id the first is kept.
        out_interactions: Parquet to write, in the order of the file.
        out_items: Parquet to write, in the order of the file.
        max_malformed: Largest accepted share of lines of either file that cannot be read.

    Returns:
        Per file: ``lines`` (not counting blank ones), ``kept``, ``duplicates``, ``malformed`` and
        ``malformed_lines``, the first of them as ``{"line": number from 1, "why": text}``.

    Raises:
        DataError: A file is missing, is a damaged gzip, has too many malformed lines, or no usable line.
    """
    if source not in FORMATS:
        raise DataError(f"datasets.*.source: {source!r} has no reader; use one of {', '.join(FORMATS)}")
    form = FORMATS[source]
    reviews, items = require_file(reviews), require_file(items)
    with atomic_path(out_interactions) as interactions_part, atomic_path(out_items) as items_part:
        review = partial(form.review, per_second=_unit_of_times(reviews, form)) if form.time else form.review
        return {
            str(reviews): _convert(reviews, review, INTERACTIONS, interactions_part, max_malformed),
            str(items): _convert(items, form.item, ITEMS, items_part, max_malformed, unique=True),
        }


# --- The engine -----------------------------------------------------------------------------------------


def _convert(
    raw: Path,
    parse: Callable[[Record], Row],
    schema: pa.Schema,
    out: Path,
    max_malformed: float,
    unique: bool = False,
) -> FileReport:
    """Stream one raw file into one Parquet file and report on its lines."""
    report: FileReport = {"lines": 0, "kept": 0, "duplicates": 0, "malformed": 0, "malformed_lines": []}
    seen: set[str] = set()
    with pq.ParquetWriter(out, schema, compression="zstd") as writer, _open_raw(raw) as stream:
        rows: list[Row] = []
        size = 0
        for number, line in track(_numbered_lines(stream, raw), f"read {raw.name}"):
            report["lines"] += 1
            try:
                row = parse(_decode(line))
            except MalformedLineError as error:
                _note_malformed(report, number, str(error))
                continue
            if unique:
                if row[0] in seen:
                    report["duplicates"] += 1
                    continue
                seen.add(row[0])
            rows.append(row)
            size += len(line)
            if len(rows) >= BATCH_ROWS or size >= BATCH_BYTES:
                report["kept"] += _write_batch(writer, rows, schema)
                rows, size = [], 0
        report["kept"] += _write_batch(writer, rows, schema)
    _judge(raw, report, max_malformed)
    return report


def _write_batch(writer: pq.ParquetWriter, rows: list[Row], schema: pa.Schema) -> int:
    if rows:
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return len(rows)


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


def _numbered_lines(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-blank lines and their numbers from 1; an overlong line is cut just over the limit."""
    number = 0
    try:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_LINE_BYTES + 1)
            if number == 1:
                line = line.removeprefix(_BOM)
            if not line.isspace() and line:
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: the gzip stream is damaged or ends early after line {number} ({error}); how much is "
            f"missing is not known, so read.max_malformed cannot allow it: download the file again"
        ) from error


def _decode(line: bytes) -> Record:
    if len(line) > MAX_LINE_BYTES:
        raise MalformedLineError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedLineError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise MalformedLineError(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedLineError("not JSON: a number or nesting beyond all measure") from error
    if not isinstance(record, dict):
        raise MalformedLineError(f"not a JSON object but {type(record).__name__}")
    return record


def _note_malformed(report: FileReport, number: int, why: str) -> None:
    report["malformed"] += 1
    if len(report["malformed_lines"]) < SHOWN_LINES:
        report["malformed_lines"].append({"line": number, "why": why})


def _judge(path: Path, report: FileReport, max_malformed: float) -> None:
    """Log what was skipped, and stop when it is too much."""
    if report["malformed"]:
        first = report["malformed_lines"][0]
        share = report["malformed"] / report["lines"]
        found = (
            f"{path}: {report['malformed']} of {report['lines']} lines ({share:.2%}) cannot be read, "
            f"the first is line {first['line']} ({first['why']})"
        )
        if share > max_malformed:
            raise DataError(f"{found}; mend the file or raise read.max_malformed (now {max_malformed:g})")
        log.warning("%s; skipped lines: %s", found, [entry["line"] for entry in report["malformed_lines"]])
    if not report["kept"]:
        raise DataError(f"{path}: no usable line; check that the path is right and matches the data set's source")
    log.info("%s: kept %d of %d lines", path, report["kept"], report["lines"])


# --- Fields ---------------------------------------------------------------------------------------------


def _required(record: Record, key: str) -> Any:
    if key not in record:
        raise MalformedLineError(f"{key!r} is missing")
    return record[key]


def _string(value: Any, key: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise MalformedLineError(f"{key!r} is {type(value).__name__}, not text")
    # JSON escapes can spell half a surrogate pair, which no UTF-8 file can hold.
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise MalformedLineError(f"{key!r} holds half a surrogate pair")
    return value


def _identifier(record: Record, key: str) -> str:
    value = _string(_required(record, key), key)
    if not value or value.isspace():
        raise MalformedLineError(f"{key!r} is empty")
    return value


def _text(record: Record, key: str) -> str | None:
    return _string(record.get(key), key) or None


def _number(record: Record, key: str) -> float:
    value = _required(record, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedLineError(f"{key!r} is {type(value).__name__}, not a number")
    if not math.isfinite(value) or abs(value) >= 2**53:
        raise MalformedLineError(f"{key!r} is {value!r}, out of range"[:80])
    return value


def _seconds(record: Record, key: str, per_second: int) -> int:
    time = _number(record, key)
    try:
        return to_seconds(time, per_second)
    except ValueError as error:
        raise MalformedLineError(f"{key!r} is {error}") from error


def _unit_of_times(path: Path, form: RawFormat) -> int:
    """Return how many units of a file's times are a second, judged by its first lines."""

    def times() -> Iterator[float]:
        with _open_raw(path) as stream:
            for _, line in islice(_numbered_lines(stream, path), _JUDGED_LINES):
                with suppress(MalformedLineError):
                    yield _number(_decode(line), form.time)

    found = judge_unit(times(), form.per_second)
    if found != form.per_second:
        log.warning("%s: %r is in %s, not in %s; read so", path, form.time, UNITS[found], UNITS[form.per_second])
    return found


def _iso_seconds(record: Record, key: str) -> int:
    value = _identifier(record, key)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise MalformedLineError(f"{key!r} is no date: {value[:40]!r}") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _strings(record: Record, key: str) -> list[str]:
    """Return a field that is a list of strings in most lines, one string or nothing in others."""
    value = record.get(key)
    if not isinstance(value, list):
        value = [value]
    return [text for entry in value if (text := _string(entry, key))]


def _joined(names: list[str]) -> str | None:
    return ", ".join(filter(None, (" ".join(name.split()) for name in names))) or None


# --- Formats --------------------------------------------------------------------------------------------

_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|</?[a-z][^<>]*>", re.IGNORECASE | re.DOTALL)


def _plain(text: str) -> str:
    # Unescaped first: much of Amazon's markup is itself escaped (&lt;br&gt;).
    return " ".join(_MARKUP.sub(" ", html.unescape(text)).split())


def _amazon_review(record: Record, per_second: int) -> Row:
    return (
        _identifier(record, "reviewerID"),
        _identifier(record, "asin"),
        _number(record, "overall"),
        _seconds(record, "unixReviewTime", per_second),
        _text(record, "reviewText"),  # absent where a customer gave stars only
    )


def _amazon_item(record: Record) -> Row:
    title = _plain(_text(record, "title") or "")
    if "getTime" in title:
        # Some titles are a page script that the crawler took; the collection's notes drop them by this word.
        title = ""
    description = " ".join(filter(None, map(_plain, _strings(record, "description"))))
    categories = _joined([_plain(name) for name in _strings(record, "category")])
    return _identifier(record, "asin"), title or None, description or None, categories, None


def _yelp_review(record: Record) -> Row:
    return (
        _identifier(record, "user_id"),
        _identifier(record, "business_id"),
        _number(record, "stars"),
        _iso_seconds(record, "date"),
        _text(record, "text"),
    )


def _yelp_item(record: Record) -> Row:
    # One comma-separated string in the present edition, a list in early ones.
    categories = _joined([name for entry in _strings(record, "categories") for name in entry.split(",")])
    return _identifier(record, "business_id"), _text(record, "name"), None, categories, _text(record, "city")


def _google_review(record: Record, per_second: int) -> Row:
    return (
        _identifier(record, "user_id"),
        _identifier(record, "gmap_id"),
        _number(record, "rating"),
        _seconds(record, "time", per_second),
        _text(record, "text"),
    )


# "Corner Pharmacy, 12 N Second St, Cochran, GA 31014": names may hold commas, so it is read from the end.
_US_ADDRESS = re.compile(
    r",\s*(?P<city>[^,\d\s][^,]*?)\s*,\s*[A-Z]{2}(?:\s+\d{5}(?:-\d{4})?)?(?:,\s*(?:USA|United States))?\s*$"
)


def _google_item(record: Record) -> Row:
    address = _US_ADDRESS.search(_text(record, "address") or "")
    return (
        _identifier(record, "gmap_id"),
        _text(record, "name"),
        _text(record, "description"),
        _joined(_strings(record, "category")),
        address["city"] if address else None,
    )


FORMATS = {
    "amazon": RawFormat(_amazon_review, _amazon_item, "unixReviewTime"),
    "yelp": RawFormat(_yelp_review, _yelp_item),
    "google": RawFormat(_google_review, _google_item, "time", 1000),
}
