"""Raw reviews and item descriptions of public collections and of tables, read line by line into two Parquet tables.

Formats (JSON lines are one object a line, plain or gzip):

- ``amazon``: Amazon reviews 2018 (nijianmo.github.io/amazon), reviews and ``meta_*`` files.
- ``amazon2023``: Amazon reviews 2023 (amazon-reviews-2023.github.io), likewise.
- ``yelp``: Yelp Open Dataset, ``…_review.json`` and ``…_business.json``.
- ``google``: Google Local 2021 (UCSD), ``review-*.json`` and ``meta-*.json``.
- ``table``: csv, tsv or Parquet with any names of columns; items may stand in the table of reviews.

Every text becomes plain text (`xrec_repro.data.text`): titles and all else of items on one line, reviews with their
lines. Memory does not grow with the reviews; of the items only the ids are remembered, to drop repeated ones, and all
of those that stand in a table of reviews.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.contracts import INTERACTIONS, ITEMS
from xrec_repro.data.formats import SOURCES, Plain, RawFormat, Row, raw_format
from xrec_repro.data.raw_files import BATCH_ROWS, Line, MalformedLineError, Record
from xrec_repro.data.times import UNITS, judge_unit
from xrec_repro.errors import DataError
from xrec_repro.io import atomic_path, require_file
from xrec_repro.progress import track

log = logging.getLogger("xrec_repro")

BATCH_BYTES = 32 * 2**20  # of raw lines: a batch of very long reviews is written earlier
SHOWN_LINES = 20
_JUDGED_LINES = 10_000  # of a file of reviews, for the unit of its times
# Under its own name each, and all but the first four may be absent.
OWN_COLUMNS = {
    name: name for name in ("user", "item", "rating", "text", "time", "title", "description", "categories", "city")
}

_COUNTS = ("lines", "kept", "cleaned", "translated", "duplicates", "malformed")

FileReport = dict[str, Any]
Files = str | Path | Sequence[str | Path]


def read_raw(
    source: str,
    reviews: Files,
    items: Files,
    out_interactions: str | Path,
    out_items: str | Path,
    max_malformed: float,
    translated: str = "translation",
    columns: Mapping[str, str | None] = OWN_COLUMNS,
) -> dict[str, FileReport]:
    """Read one collection into an INTERACTIONS and an ITEMS table, both or neither.

    Args:
        source: One of `xrec_repro.data.formats.SOURCES`.
        reviews: File or files of reviews, read in this order (told apart from gzip by their first bytes).
        items: Likewise of items; of lines with the same id the first is kept. None of them: the items of a table of
            reviews, each with the first title, description, … that is not empty.
        out_interactions: Parquet to write, in the order of the files.
        out_items: Parquet to write, in the order of the files.
        max_malformed: Largest accepted share of lines of any file that cannot be read.
        translated: Which part of a review that Google translated is kept: ``translation`` or ``original``.
        columns: Of a table: what it holds -> the name of its column, None where there is none.

    Returns:
        Per file: ``lines`` (not counting blank ones), ``kept``, ``cleaned`` (those of them whose texts held markup,
        entities, or characters that cannot be seen or written), ``translated`` (those that came with a translation),
        ``duplicates``, ``malformed`` and ``malformed_lines``, the first of them as ``{"line": number from 1, "why":
        text}``. Of the items of a table of reviews ``kept`` alone.

    Raises:
        DataError: A file is missing, is damaged, lacks a column, has too many malformed lines, or no usable line.
    """
    if source not in SOURCES:
        raise DataError(f"datasets.*.source: {source!r} has no reader; use one of {', '.join(SOURCES)}")
    form = raw_format(source, columns)
    reviews, items = _files(reviews), _files(items)
    within = _ItemsWithin(form) if form.items_in_reviews and not items else None
    with atomic_path(out_interactions) as interactions_part, atomic_path(out_items) as items_part:
        parsers = ((path, form.reviews, _review_parser(path, form, within)) for path in reviews)
        found = _convert(parsers, INTERACTIONS, interactions_part, max_malformed, translated)
        if within:
            return found | {"items in the reviews": {"kept": within.write(items_part)}}
        parsers = ((path, form.items, form.item) for path in items)
        return found | _convert(parsers, ITEMS, items_part, max_malformed, unique=True)


def _files(given: Files) -> list[Path]:
    return [require_file(path) for path in ([given] if isinstance(given, str | Path) else given)]


class _ItemsWithin:
    """The items that a table of reviews tells of, in order of appearance."""

    def __init__(self, form: RawFormat) -> None:
        self._form = form
        self._known: dict[str, list[str | None]] = {}

    def note(self, item: str, record: Record, plain: Plain) -> None:
        """Take of a record what is not known of its item yet."""
        known = self._known.setdefault(item, [None] * (len(ITEMS) - 1))
        if None in known:
            told = self._form.item(record, plain)[1:]
            self._known[item] = [old if old is not None else new for old, new in zip(known, told, strict=True)]

    def write(self, out: Path) -> int:
        """Write the items under the contract; return how many there are."""
        with pq.ParquetWriter(out, ITEMS, compression="zstd") as writer:
            rows = ((item, *known) for item, known in self._known.items())
            return sum(iter(lambda: _write_batch(writer, list(islice(rows, BATCH_ROWS)), ITEMS), 0))


def _review_parser(path: Path, form: RawFormat, within: _ItemsWithin | None) -> Callable[[Record, Plain], Row]:
    """Return how a review of a file becomes a row."""
    review = partial(form.review, per_second=_unit_of_times(path, form)) if form.time else form.review
    if within is None:
        return review

    def both(record: Record, plain: Plain) -> Row:
        row = review(record, plain)
        within.note(row[1], record, plain)
        return row

    return both


def _unit_of_times(path: Path, form: RawFormat) -> int:
    """Return how many units of a file's times are a second, judged by its first lines."""

    def times() -> Iterator[float]:
        for line in islice(form.reviews(path), _JUDGED_LINES):
            with suppress(MalformedLineError):
                yield form.number(_usable(line), form.time)

    found = judge_unit(times(), form.per_second)
    if found != form.per_second:
        log.warning("%s: %r is in %s, not in %s; read so", path, form.time, UNITS[found], UNITS[form.per_second])
    return found


def _usable(line: Line) -> Record:
    if isinstance(line.record, MalformedLineError):
        raise line.record
    return line.record


# --- The engine -----------------------------------------------------------------------------------------


def _convert(
    files: Iterable[tuple[Path, Callable[[Path], Iterator[Line]], Callable[[Record, Plain], Row]]],
    schema: pa.Schema,
    out: Path,
    max_malformed: float,
    translated: str = "translation",
    unique: bool = False,
) -> dict[str, FileReport]:
    """Stream raw files, each with how it is read and parsed, into one Parquet file and report on their lines."""
    reports: dict[str, FileReport] = {}
    seen: set[str] | None = set() if unique else None
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        rows: list[Row] = []
        size = 0
        for path, records, parse in files:
            report = reports[str(path)] = dict.fromkeys(_COUNTS, 0) | {"malformed_lines": []}
            for line in track(records(path), f"read {path.name}"):
                row = _parse(line, parse, report, translated, seen)
                if row is None:
                    continue
                rows.append(row)
                size += line.size
                if len(rows) >= BATCH_ROWS or size >= BATCH_BYTES:
                    _write_batch(writer, rows, schema)
                    rows, size = [], 0
            _judge(path, report, max_malformed)
        _write_batch(writer, rows, schema)
    return reports


def _parse(
    line: Line,
    parse: Callable[[Record, Plain], Row],
    report: FileReport,
    translated: str,
    seen: set[str] | None,
) -> Row | None:
    """Count a line and return its row, or None where it gives none."""
    report["lines"] += 1
    plain = Plain(translated)
    try:
        row = parse(_usable(line), plain)
    except MalformedLineError as error:
        _note_malformed(report, line.number, str(error))
        return None
    if seen is not None:
        if row[0] in seen:
            report["duplicates"] += 1
            return None
        seen.add(row[0])
    report["kept"] += 1
    report["cleaned"] += plain.cleaned
    report["translated"] += plain.translated
    return row


def _write_batch(writer: pq.ParquetWriter, rows: list[Row], schema: pa.Schema) -> int:
    if rows:
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return len(rows)


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
    if not report["kept"] and not report["duplicates"]:
        raise DataError(f"{path}: no usable line; check that the path is right and matches the data set's source")
    log.info(
        "%s: kept %d of %d lines, %d of them cleaned of markup, entities and the like",
        *(path, report["kept"], report["lines"], report["cleaned"]),
    )
