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


def filled(text: str, name: str, content: str, page: Path | str = "the page") -> str:
    """Return a page's text with other content between its markers ``<!-- name -->`` and ``<!-- /name -->``.

    Args:
        text: Of the page.
        name: Of the markers.
        content: What stands between them.
        page: For the error.

    Raises:
        DataError: The page does not have both markers, in order.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise DataError(f"{page}: needs a line {start.strip()} and a line {end.strip()} after it")
    return f"{before}{start}\n{content}\n{end}{after}"


def fill(page: Path, name: str, content: str) -> None:
    """Write a page with other content between two of its markers (`filled`)."""
    write_text(page, filled(require_file(page).read_text(encoding="utf-8"), name, content, page))
