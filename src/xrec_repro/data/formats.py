"""What one record of a collection says: a row of the contract, each text made plain."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from xrec_repro.data.raw_files import Line, MalformedLineError, Record, json_records, table_records
from xrec_repro.data.text import encodable, in_one_language, one_line, tidy_lines, without_markup
from xrec_repro.data.times import to_seconds

Row = tuple[Any, ...]


class Plain:
    """Makes the texts of a line plain, and knows what had to be done.

    Args:
        translated: Which part of a text that Google translated stays: ``translation`` or ``original``.

    Attributes:
        cleaned: Whether a text so far held markup, an entity, or a character that cannot be seen or written.
        translated: Whether a text so far came with its translation.
    """

    def __init__(self, translated: str = "translation") -> None:
        self.cleaned = self.translated = False
        self._kept = translated

    def line(self, text: str | None) -> str | None:
        """Return plain text on one line, None if there is none."""
        return one_line(self._clean(text)) or None

    def lines(self, text: str | None) -> str | None:
        """Return plain text with its lines and in one language, None if there is none."""
        plain = self._clean(text)
        chosen = in_one_language(plain, self._kept)
        self.translated |= chosen != plain
        return tidy_lines(chosen) or None

    def _clean(self, text: str | None) -> str:
        plain = without_markup(text or "")
        self.cleaned |= plain != (text or "")
        return plain


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


class RawFormat(NamedTuple):
    """How one collection writes reviews and items: functions from a record to a row of the contract.

    Attributes:
        review: Takes `per_second` beside the record and how its text is made plain, if there is a `time`.
        item: Takes the record and how its text is made plain.
        time: Key of a review's time where that is a number since 1970.
        per_second: How many of its units are a second, as the collection was published.
        number: Reads a number of a record; raises `MalformedLineError` where there is none.
        reviews: Reads a file of reviews record by record.
        items: Reads a file of items record by record.
        items_in_reviews: Whether a record of a review tells of its item, too.
    """

    review: Callable[..., Row]
    item: Callable[[Record, Plain], Row]
    time: str | None = None
    per_second: int = 1
    number: Callable[[Record, str], float] = _number
    reviews: Callable[[Path], Iterator[Line]] = json_records
    items: Callable[[Path], Iterator[Line]] = json_records
    items_in_reviews: bool = False


def _amazon_review(record: Record, plain: Plain, per_second: int) -> Row:
    _refuse_edition(record, "parent_asin", "2023", "amazon2023")
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


def _refuse_edition(record: Record, key: str, edition: str, source: str) -> None:
    if key in record:
        raise MalformedLineError(f"{key!r} is a key of the edition of {edition}, which is read by source: {source}")


def _amazon2023_review(record: Record, plain: Plain, per_second: int) -> Row:
    _refuse_edition(record, "reviewerID", "2018", "amazon")
    return (
        _identifier(record, "user_id"),
        _identifier(record, "parent_asin" if record.get("parent_asin") else "asin"),
        _number(record, "rating"),
        _seconds(record, "timestamp", per_second),
        plain.lines(_text(record, "text")),
    )


def _amazon2023_item(record: Record, plain: Plain) -> Row:
    # Of most books the shop's own words are the features, and the description what others wrote.
    texts = (*_strings(record, "description"), *_strings(record, "features"))
    categories = _strings(record, "categories") or _strings(record, "main_category")
    return (
        _identifier(record, "parent_asin"),
        plain.line(_text(record, "title")),
        " ".join(filter(None, map(plain.line, texts))) or None,
        _joined(map(plain.line, categories)),
        None,
    )


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


_FORMATS = {
    "amazon": RawFormat(_amazon_review, _amazon_item, "unixReviewTime"),
    "amazon2023": RawFormat(_amazon2023_review, _amazon2023_item, "timestamp", 1000),
    "yelp": RawFormat(_yelp_review, _yelp_item),
    "google": RawFormat(_google_review, _google_item, "time", 1000),
}
SOURCES = (*_FORMATS, "table")


def raw_format(source: str, columns: Mapping[str, str | None]) -> RawFormat:
    """Return how a source writes reviews and items.

    Args:
        source: One of `SOURCES`.
        columns: Of a table, the columns of user, item, rating, text, time, title, description, categories and city.
    """
    return _FORMATS[source] if source in _FORMATS else _table_format(columns)


# --- Tables ---------------------------------------------------------------------------------------------


_COMPACT_DATE = re.compile(r"(?:19|20)\d{6}")  # in no unit is that a time of a review


def _table_format(columns: Mapping[str, str | None]) -> RawFormat:
    def some(*keys: str) -> dict[str, str | None]:
        return {key: columns.get(key) for key in keys}

    of_item = some("title", "description", "categories", "city")
    return RawFormat(
        partial(_table_review, columns=columns),
        partial(_table_item, columns=columns),
        columns.get("time"),
        number=_cell_number,
        reviews=partial(
            table_records, required=some("user", "item", "rating", "text"), optional=some("time") | of_item
        ),
        items=partial(table_records, required=some("item"), optional=of_item),
        items_in_reviews=True,
    )


def _table_review(record: Record, plain: Plain, columns: Mapping[str, str | None], per_second: int = 1) -> Row:
    return (
        _cell_identifier(record, columns["user"]),
        _cell_identifier(record, columns["item"]),
        _cell_number(record, columns["rating"]),
        _cell_time(record, columns["time"], per_second),
        plain.lines(_text(record, columns["text"])),
    )


def _table_item(record: Record, plain: Plain, columns: Mapping[str, str | None]) -> Row:
    fields = (columns[key] for key in ("title", "description", "categories", "city"))
    return _cell_identifier(record, columns["item"]), *(plain.line(_text(record, name)) for name in fields)


def _cell_identifier(record: Record, column: str) -> str:
    value = record[column]
    if isinstance(value, float) and value.is_integer():  # as pandas writes integers of which some are absent
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _identifier({column: value}, column)


def _cell_number(record: Record, column: str) -> float:
    value = record.get(column)
    if value is None:
        raise MalformedLineError(f"{column!r} is empty")
    if isinstance(value, str | Decimal):
        try:
            value = float(value)
        except ValueError:
            raise MalformedLineError(f"{column!r} is no number: {value[:40]!r}") from None
    return _number({column: value}, column)


def _cell_time(record: Record, column: str | None, per_second: int) -> int | None:
    """Return seconds since 1970 of a number, or of a date; without a time zone it is that of UTC."""
    value = record.get(column)
    if value is None:
        return None
    if isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, str) and (_COMPACT_DATE.fullmatch(value) or not _is_number(value)):
        return _iso_seconds(record, column)
    return _seconds({column: _cell_number(record, column)}, column, per_second)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
