"""Raw reviews and item descriptions of three public collections, read line by line into two Parquet tables.

Formats (one JSON object a line, plain or gzip):

- ``amazon``: Amazon reviews 2018 (nijianmo.github.io/amazon), reviews and ``meta_*`` files.
- ``yelp``: Yelp Open Dataset, ``…_review.json`` and ``…_business.json``.
- ``google``: Google Local 2021 (UCSD), ``review-*.json`` and ``meta-*.json``.

Every text becomes plain text (`xrec_repro.data.text`): titles and all else of items on one line, reviews with their
lines. Memory does not grow with the reviews; of the items only the ids are remembered, to drop repeated ones.
"""

import gzip
import json
import logging
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.contracts import INTERACTIONS, ITEMS
from xrec_repro.data.text import encodable, one_line, tidy_lines, without_markup
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


class Plain:
    """Makes the texts of a line plain, and knows whether one of them had to be cleaned.

    Attributes:
        cleaned: Whether a text so far held markup, an entity, or a character that cannot be seen or written.
    """

    def __init__(self) -> None:
        self.cleaned = False

    def line(self, text: str | None) -> str | None:
        """Return plain text on one line, None if there is none."""
        return one_line(self._clean(text)) or None

    def lines(self, text: str | None) -> str | None:
        """Return plain text with its lines, None if there is none."""
        return tidy_lines(self._clean(text)) or None

    def _clean(self, text: str | None) -> str:
        plain = without_markup(text or "")
        self.cleaned |= plain != (text or "")
        return plain


class RawFormat(NamedTuple):
    """How one collection writes reviews and items: functions from a JSON object to a row of the contract.

    Attributes:
        review: Takes `per_second` beside the object and how its text is made plain, if there is a `time`.
        item: Takes the object and how its text is made plain.
        time: Key of a review's time where that is a number since 1970.
        per_second: How many of its units are a second, as the collection was published.
    """

    review: Callable[..., Row]
    item: Callable[[Record, Plain], Row]
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
        Per file: ``lines`` (not counting blank ones), ``kept``, ``cleaned`` (those of them whose texts held markup,
        entities, or characters that cannot be seen or written), ``duplicates``, ``malformed`` and
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
    parse: Callable[[Record, Plain], Row],
    schema: pa.Schema,
    out: Path,
    max_malformed: float,
    unique: bool = False,
) -> FileReport:
    """Stream one raw file into one Parquet file and report on its lines."""
    report: FileReport = {"lines": 0, "kept": 0, "cleaned": 0, "duplicates": 0, "malformed": 0, "malformed_lines": []}
    seen: set[str] = set()
    with pq.ParquetWriter(out, schema, compression="zstd") as writer, _open_raw(raw) as stream:
        rows: list[Row] = []
        size = 0
        for number, line in track(_numbered_lines(stream, raw), f"read {raw.name}"):
            report["lines"] += 1
            plain = Plain()
            try:
                row = parse(_decode(line), plain)
            except MalformedLineError as error:
                _note_malformed(report, number, str(error))
                continue
            if unique:
                if row[0] in seen:
                    report["duplicates"] += 1
                    continue
                seen.add(row[0])
            report["cleaned"] += plain.cleaned
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
    log.info(
        "%s: kept %d of %d lines, %d of them cleaned of markup, entities and the like",
        *(path, report["kept"], report["lines"], report["cleaned"]),
    )


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
    return value


def _identifier(record: Record, key: str) -> str:
    value = _string(_required(record, key), key)
    if not value or value.isspace():
        raise MalformedLineError(f"{key!r} is empty")
    # In a text U+FFFD can stand for it; ids would no longer differ.
    if encodable(value) != value:
        raise MalformedLineError(f"{key!r} holds half a surrogate pair")
    return value


def _text(record: Record, key: str) -> str | None:
    return _string(record.get(key), key)


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


def _joined(names: Iterable[str | None]) -> str | None:
    return ", ".join(filter(None, names)) or None


# --- Formats --------------------------------------------------------------------------------------------


def _amazon_review(record: Record, plain: Plain, per_second: int) -> Row:
    return (
        _identifier(record, "reviewerID"),
        _identifier(record, "asin"),
        _number(record, "overall"),
        _seconds(record, "unixReviewTime", per_second),
        plain.lines(_text(record, "reviewText")),  # absent where a customer gave stars only
    )


def _amazon_item(record: Record, plain: Plain) -> Row:
    title = plain.line(_text(record, "title"))
    if title and "getTime" in title:
        # Some titles are a page script that the crawler took; the collection's notes drop them by this word.
        title = None
    description = " ".join(filter(None, map(plain.line, _strings(record, "description")))) or None
    categories = _joined(map(plain.line, _strings(record, "category")))
    return _identifier(record, "asin"), title, description, categories, None


def _yelp_review(record: Record, plain: Plain) -> Row:
    return (
        _identifier(record, "user_id"),
        _identifier(record, "business_id"),
        _number(record, "stars"),
        _iso_seconds(record, "date"),
        plain.lines(_text(record, "text")),
    )


def _yelp_item(record: Record, plain: Plain) -> Row:
    # One comma-separated string in the present edition, a list in early ones.
    entries = filter(None, map(plain.line, _strings(record, "categories")))
    categories = _joined(name.strip() for entry in entries for name in entry.split(","))
    name, city = plain.line(_text(record, "name")), plain.line(_text(record, "city"))
    return _identifier(record, "business_id"), name, None, categories, city


def _google_review(record: Record, plain: Plain, per_second: int) -> Row:
    return (
        _identifier(record, "user_id"),
        _identifier(record, "gmap_id"),
        _number(record, "rating"),
        _seconds(record, "time", per_second),
        plain.lines(_text(record, "text")),
    )


# "Corner Pharmacy, 12 N Second St, Cochran, GA 31014": names may hold commas, so it is read from the end.
_US_ADDRESS = re.compile(
    r",\s*(?P<city>[^,\d\s][^,]*?)\s*,\s*[A-Z]{2}(?:\s+\d{5}(?:-\d{4})?)?(?:,\s*(?:USA|United States))?\s*$"
)


def _google_item(record: Record, plain: Plain) -> Row:
    address = _US_ADDRESS.search(plain.line(_text(record, "address")) or "")
    return (
        _identifier(record, "gmap_id"),
        plain.line(_text(record, "name")),
        plain.line(_text(record, "description")),
        _joined(map(plain.line, _strings(record, "category"))),
        address["city"] if address else None,
    )


FORMATS = {
    "amazon": RawFormat(_amazon_review, _amazon_item, "unixReviewTime"),
    "yelp": RawFormat(_yelp_review, _yelp_item),
    "google": RawFormat(_google_review, _google_item, "time", 1000),
}
