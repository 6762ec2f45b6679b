"""Tables and their numbers as text: CSV, Markdown, and LaTeX that compiles with booktabs and graphicx alone."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from xrec_repro.io import write_text
from xrec_repro.markdown import LEFT, RIGHT, markdown_table

_TEX_SPECIAL = {character: f"\\{character}" for character in "{}$&#_%"}
_TEX_SPECIAL |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_TEX_SPECIAL |= {"|": "\\textbar{}", "<": "\\textless{}", ">": "\\textgreater{}"}
_TEX_SPECIAL |= {
    "†": "$^\\dagger$",
    "‡": "$^\\ddagger$",
    "§": "\\textsuperscript{\\S}",
    "–": "--",
    "−": "$-$",
    "≥": "$\\ge$",
    "₂": "\\textsubscript{2}",
}
_TEX_SPECIAL |= {"↑": "$\\uparrow$", "↓": "$\\downarrow$"}
_TEX_SPECIAL |= {"[": "{[}", "]": "{]}"}  # after a line break, a bare [ would open its optional argument
_MARKDOWN_RANKS = {1: "**{}**", 2: "<u>{}</u>"}
_TEX_RANKS = {1: "\\textbf{{{}}}", 2: "\\underline{{{}}}"}
# The tabular is set into a box first: only one that is too wide is scaled down.
_TEX = """\\begin{{table}}[htbp]{continued}
\\centering
\\caption{{{caption}}}
\\label{{tab:{label}}}
\\smallskip
\\scriptsize
\\renewcommand{{\\arraystretch}}{{1.1}}
\\setlength{{\\tabcolsep}}{{3pt}}
\\sbox0{{%
\\begin{{tabular}}{{{form}}}
\\toprule
{heads} \\\\
{body}
\\bottomrule
\\end{{tabular}}}}%
\\ifdim\\wd0>\\linewidth\\resizebox{{\\linewidth}}{{!}}{{\\usebox0}}\\else\\usebox0\\fi
{notes}\\end{{table}}
"""
_TEX_NOTES = """
\\medskip
\\begin{{minipage}}{{\\linewidth}}
\\raggedright
{notes}
\\end{{minipage}}
"""


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: Its plain text; a renderer escapes it.
        rank: 1 is best (bold), 2 second best (underlined), others are not marked.
    """

    text: str
    rank: int = 0


@dataclass(frozen=True)
class Head:
    """The heading of a column.

    Attributes:
        text: As in Markdown, where it stands alone.
        group: Heading above it and its neighbours in LaTeX; the columns without one name the row.
        short: As in LaTeX under `group`; as `text` by default.
        part: Which of the LaTeX tabulars it is in; the columns without a group are in each.
        number: Whether it holds numbers, which are set flush right.
    """

    text: str
    group: str = ""
    short: str = ""
    part: int = 0
    number: bool = True


@dataclass(frozen=True)
class Line:
    """A row of cells.

    Attributes:
        cells: One a heading.
        block: Name of the block of rows that it belongs to; printed where it changes. None stands below all blocks.
    """

    cells: Sequence[Cell]
    block: str | None


@dataclass(frozen=True)
class Sheet:
    """A table for people.

    Attributes:
        label: LaTeX label, less ``tab:``.
        caption: Of the whole.
        parts: A sentence to add to the caption for each LaTeX part.
        heads: The columns; those without a group come first.
        lines: The rows.
        notes: Sentences to print under the table.
        signatures: What the numbers were computed with -> the headings of their columns.
    """

    label: str
    caption: str
    parts: Sequence[str]
    heads: Sequence[Head]
    lines: Sequence[Line]
    notes: Sequence[str]
    signatures: Mapping[str, str] = field(default_factory=dict)


def write_sheet(
    sheet: Sheet, records: Sequence[Mapping[str, Any]], out_csv: str | Path, out_md: str | Path, out_tex: str | Path
) -> None:
    """Write a table in its three forms, atomically each.

    Args:
        sheet: What Markdown and LaTeX print.
        records: What the CSV file holds, in full precision: the same keys in every record; None is an empty cell.
        out_csv: Where the CSV file goes.
        out_md: Where the Markdown file goes.
        out_tex: Where the LaTeX file goes; whoever inputs it needs the packages booktabs and graphicx.
    """
    write_text(out_csv, _csv(records))
    write_text(out_md, markdown(sheet))
    write_text(out_tex, latex(sheet))


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def markdown(sheet: Sheet) -> str:
    """Return a table as Markdown: one line a row, blocks in italics, notes and signatures as a list."""
    rows = []
    for opens, line in _opened(sheet.lines):
        rows += [[f"*{_md(line.block)}*", *[""] * (len(sheet.heads) - 1)]] if opens and line.block else []
        rows.append(_marked(line.cells, _md, _MARKDOWN_RANKS))
    rules = [RIGHT if head.number else LEFT for head in sheet.heads]
    table = markdown_table([_md(head.text) for head in sheet.heads], rows, rules)
    lines = [_md(" ".join([sheet.caption, *sheet.parts])), "", *table, ""]
    lines += [f"- {_md(note)}" for note in sheet.notes]
    lines += [f"- Signature of {_md(heads)} in this run: `{code}`" for code, heads in sheet.signatures.items()]
    return "\n".join(lines) + "\n"


def text_table(
    caption: str,
    words: Sequence[str],
    numbers: Sequence[str],
    lines: Iterable[tuple[str, Sequence[str]]],
    notes: Sequence[str] = (),
    signatures: Mapping[str, str] | None = None,
) -> str:
    """Return a Markdown table.

    Args:
        caption: Stands above it.
        words: Headings of the first columns, which hold text.
        numbers: Headings of the others, set flush right.
        lines: Block (or "") and cells of each row.
        notes: Sentences under it.
        signatures: What numbers were computed with -> their metrics.
    """
    heads = [*(Head(text, number=False) for text in words), *map(Head, numbers)]
    rows = [Line([Cell(text) for text in cells], block) for block, cells in lines]
    sheet = Sheet(
        label="", caption=caption, parts=(), heads=heads, lines=rows, notes=notes, signatures=signatures or {}
    )
    return markdown(sheet).lstrip("\n")


def number(value: float | None) -> str:
    """Return a score for people: four decimals, two from 10 on; a dash for None, and never −0."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:z.4f}"


def span(low: float | None, high: float | None) -> str:
    """Return an interval for people."""
    return "–" if low is None else f"{number(low)} to {number(high)}"


def p_value(p: float | None) -> str:
    """Return a p-value for people."""
    if p is None:
        return "–"
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def latex(sheet: Sheet) -> str:
    """Return a table as LaTeX: one float a part, all of the same number, notes under the first, signatures the last.

    A float cannot be longer than a page; what stands under the table is shared out so that a long one fits.
    """
    notes: list[list[str]] = [[] for _ in sheet.parts]
    notes[0] += map(_tex, sheet.notes)
    for signature, heads in sheet.signatures.items():
        code = _tex(signature).replace("\\textbar{}", "\\textbar{}\\allowbreak ")
        notes[-1].append(f"Signature of {_tex(heads)} in this run: \\texttt{{{code}}}")
    return "\n".join(_latex_part(sheet, part, under) for part, under in enumerate(notes))


def _latex_part(sheet: Sheet, part: int, notes: Sequence[str]) -> str:
    chosen = [i for i, head in enumerate(sheet.heads) if not head.group or head.part == part]
    heads = [sheet.heads[i] for i in chosen]
    body = []
    for opens, line in _opened(sheet.lines):
        body += ["\\midrule"] if opens else []
        if opens and line.block:
            body.append(f"\\multicolumn{{{len(heads)}}}{{l}}{{\\textit{{{_tex(line.block)}}}}} \\\\")
        body.append(" & ".join(_marked([line.cells[i] for i in chosen], _tex, _TEX_RANKS)) + " \\\\")
    return _TEX.format(
        continued="\n\\addtocounter{table}{-1}" if part else "",
        caption=_tex(f"{sheet.caption} {'(Continued.) ' if part else ''}{sheet.parts[part]}"),
        label=sheet.label + (f"-{part + 1}" if part else ""),
        form="".join("r" if head.number else "l" for head in heads),
        heads=_latex_heads(heads),
        body="\n".join(body),
        notes=_TEX_NOTES.format(notes="\n\n".join(notes)) if notes else "",
    )


def _latex_heads(heads: Sequence[Head]) -> str:
    spans, rules, column = [], "", 1
    for group, members in groupby(heads, key=lambda head: head.group):
        width = len(list(members))
        spans += [f"\\multicolumn{{{width}}}{{c}}{{{_tex(group)}}}"] if group else [""] * width
        rules += f"\\cmidrule(lr){{{column}-{column + width - 1}}}" if group else ""
        column += width
    return (
        " & ".join(spans).lstrip() + f" \\\\\n{rules}\n" + " & ".join(_tex(head.short or head.text) for head in heads)
    )


def _opened(lines: Iterable[Line]) -> Iterator[tuple[bool, Line]]:
    """Yield each line with whether it opens a block."""
    block: str | None = ""
    for line in lines:
        yield line.block != block, line
        block = line.block


def _marked(cells: Iterable[Cell], escape: Callable[[str], str], ranks: Mapping[int, str]) -> list[str]:
    return [ranks.get(cell.rank, "{}").format(escape(cell.text)) for cell in cells]


def _md(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(text.split()))


def _tex(text: str) -> str:
    """Escape a text; the hyphen before a number is a minus, and a mark after one hangs, so that digits align."""
    escaped = "".join(_TEX_SPECIAL.get(character, character) for character in " ".join(text.split()))
    return re.sub(r"(?<=\d)(\$\^\\\w+\$)$", r"\\rlap{\1}", re.sub(r"^-(?=\d)", "$-$", escaped))
