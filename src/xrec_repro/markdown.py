"""Markdown tables."""

from collections.abc import Iterable, Sequence

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
