"""The LaTeX files compile, need no more than booktabs and graphicx, and fit their page."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xrec_repro.metrics.columns import known_columns
from xrec_repro.paper.costs import make_table3
from xrec_repro.paper.render import Cell, Head, Line, Sheet, latex, markdown
from xrec_repro.paper.tables import DEFAULT_COLUMNS, make_table1, make_table2

HARD = r"50% of {A} & B_1 #2 $x$ ~ ^ \x | <y> [z] † ‡ – − ≥ ₂ ↑ ↓"
PUBLISHED = {"amazon": "Amazon-books", "yelp": "Yelp", "google": "Google-reviews"}
EMISSIONS = {"carbon_intensity": 0.22, "pue": 1.2}
needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def cell(metric: str) -> dict:
    signature = f"{metric}|model:{'x' * 12}@{'0' * 12}|prompt:{'1' * 16}|odd:{HARD}"
    return {"mean": -0.5, "std": 0.1, "n": 2990, "missing": 10, "signature": signature}


def entries(label: str = "XRec w/o prof. & inj.") -> list[dict]:
    attempt = {
        "outcome": "done",
        "device": HARD,
        "seconds": 4e4,
        "slurm_seconds": 4e4,
        "energy_kwh": 9.5,
        "power_kw": 1,
        "share": 0.5,
    }
    attempt |= {"kg_co2": 12.5, "reason": HARD}
    done = [attempt | {"outcome": "failed"}, attempt]  # so that the table has all its columns
    common = {"seed": 1, "kind": "measured", "few": True, "n_test": 3000, "published_model": "XRec"}
    common |= {"summary": {metric: cell(metric) for metric in known_columns()}, "train": done, "generate": done}
    common["stopped_early"] = True
    pairs = [(dataset, name) for dataset in PUBLISHED for name in ("a", "b")]
    return [
        common | {"dataset": d, "dataset_label": f"{d} {HARD}", "experiment": e, "experiment_label": f"{label} {e}"}
        for d, e in pairs
    ]


def compile_table(folder: Path, tex: Path) -> str:
    """Return the log of a document that inputs the table."""
    document = (
        "\\documentclass{article}\\usepackage{booktabs,graphicx}"
        f"\\begin{{document}}Text.\\input{{{tex.name}}}\\end{{document}}"
    )
    (folder / "main.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    for _ in range(2):  # the second run knows the labels
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, result.stdout[-2000:]
    return (folder / "main.log").read_text(errors="replace")


def write(folder: Path, root: Path, number: int, rows: list[dict], **options) -> Path:
    files = [folder / f"table{number}.{ending}" for ending in ("csv", "md", "tex")]
    if number == 3:
        make_table3(rows, PUBLISHED, root / "resources", EMISSIONS, *files, [HARD])
    else:
        table = {1: make_table1, 2: make_table2}[number]
        table(rows, PUBLISHED, root / "resources", *files, [HARD], **options)
    return files[2]


@needs_latex
@pytest.mark.parametrize("number", [1, 2, 3])
def test_tables_compile_and_fit(tmp_path, root, number):
    options = {} if number == 3 else {"columns": list(DEFAULT_COLUMNS)[:8]}
    log = compile_table(tmp_path, write(tmp_path, root, number, entries(), **options))
    assert "Output written on main.pdf" in log
    assert "Float too large" not in log
    assert not re.findall(r"Overfull \\hbox \((\d+)", log)
    assert "Missing character" not in log
    assert "multiply defined" not in log


@needs_latex
def test_odd_labels_and_all_columns_compile(tmp_path, root):
    rows = entries(HARD)[:1]
    log = compile_table(tmp_path, write(tmp_path, root, 2, rows, columns=None, show_difference=True))
    assert "Output written on main.pdf" in log
    assert "Missing character" not in log


def sheet(**changes) -> Sheet:
    heads = [Head("Name", number=False), Head("A ↑", "G", "A"), Head("B", "G", "B", part=1)]
    lines = [
        Line([Cell("x"), Cell("-1.5", 1), Cell("2‡", 2)], "one"),
        Line([Cell("y"), Cell("3"), Cell("4")], "two"),
        Line([Cell("Total"), Cell("5"), Cell("6")], None),
    ]
    given = {"label": "t", "caption": "C.", "parts": ["First.", "Second."], "heads": heads, "lines": lines}
    return Sheet(**given | {"notes": ["Note."], "signatures": {"a|b": "A"}} | changes)


def test_markdown_has_all_columns_at_once():
    assert markdown(sheet()).split("\n") == [
        "C. First. Second.",
        "",
        "| Name | A ↑ | B |",
        "| --- | ---: | ---: |",
        "| *one* |  |  |",
        "| x | **-1.5** | <u>2‡</u> |",
        "| *two* |  |  |",
        "| y | 3 | 4 |",
        "| Total | 5 | 6 |",
        "",
        "- Note.",
        "- Signature of A in this run: `a|b`",
        "",
    ]


def test_latex_has_one_float_a_part_with_the_columns_that_name_the_row_in_each():
    first, second = latex(sheet()).split("\\end{table}")[:2]
    assert "\\textbf{$-$1.5}" in first
    assert "\\underline{2\\rlap{$^\\ddagger$}}" in second
    assert "\\caption{C. First.}" in first
    assert "\\addtocounter{table}{-1}" in second
    assert "\\caption{C. (Continued.) Second.}" in second
    assert "Note." in first
    assert "Note." not in second
    assert "Signature of A" in second
    for part, cells in ((first, ("$-$1.5", "3", "5")), (second, ("2", "4", "6"))):
        assert part.count("\\midrule") == 3
        for name, cell_ in zip("xy", cells, strict=False):
            assert re.search(rf"^{name} & .*{re.escape(cell_)}", part, re.MULTILINE)
    assert first.index("\\textit{two}") < first.index("\\midrule\nTotal & 5")


def test_a_table_of_one_part_without_notes_has_neither_second_float_nor_minipage():
    heads = [Head("Name", number=False), Head("A", "G"), Head("B", "G")]
    tex = latex(sheet(parts=["First."], heads=heads, notes=[], signatures={}))
    assert tex.count("\\begin{table}") == 1
    assert "minipage" not in tex
    assert "\\multicolumn{2}{c}{G}" in tex
    assert "\\cmidrule(lr){2-3}" in tex
