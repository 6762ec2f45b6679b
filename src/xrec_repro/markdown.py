"""Markdown tables, and where they stand in a page."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from xrec_repro.errors import DataError
from xrec_repro.io import require_file, write_text

LEFT, RIGHT = "---", "---:"


def markdown_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], rules: Sequence[str] | None = None
) -> list[str]:
    """Return the lines of a table.

    Args:
        heads: Headings, as Markdown: whoever has plain text escapes it first.
        rows: Cells, likewise, as many a row as there are headings.
        rules: What stands under each heading and sets its column, `LEFT` for all by default.
    """
    return [f"| {' | '.join(cells)} |" for cells in (heads, rules or [LEFT] * len(heads), *rows)]


def fill(page: Path, name: str, text: str) -> None:
    """Put a text between the markers ``<!-- name -->`` and ``<!-- /name -->`` of a page.

    Raises:
        DataError: The page does not have both markers, in order.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, _, rest = require_file(page).read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise DataError(f"{page}: needs a line {start.strip()} and a line {end.strip()} after it")
    write_text(page, f"{before}{start}\n{text}\n{end}{after}")
