"""Table 1: layout, marks among comparable numbers only, and three files that agree."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xrec_repro.errors import DataError
from xrec_repro.paper.published import load_published_table1, load_published_table2, load_published_table3
from xrec_repro.paper.tables import make_table1

BERT, USR = "bertscore|model:minilm|layer:6|v:0.3.13", "usr|tokens:whitespace|v:1"
NAMES = ("table1.csv", "table1.md", "table1.tex")


def cell(mean: float, std: float | None, signature: str, n: int = 3000) -> dict:
    return {"mean": mean, "std": std, "n": n, "signature": signature}


def entry(f1: float, unique: float = 1.0, std: float = 0.1, **changes) -> dict:
    summary = {"bertscore_f1": cell(f1, std, BERT), "usr": cell(unique, None, USR)}
    base = {"dataset": "amazon", "dataset_label": "Amazon", "experiment": "xrec", "experiment_label": "XRec (ours)"}
    return {**base, "seed": 1, "summary": summary, "kind": "measured", **changes}


def make(tmp_path: Path, root: Path, entries: list[dict], published: dict | None = None, notes=()) -> tuple:
    files = [tmp_path / name for name in NAMES]
    make_table1(entries, published or {}, root / "resources", *files, notes)
    with files[0].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return rows, files[1].read_text(encoding="utf-8"), files[2].read_text(encoding="utf-8")


def md_rows(markdown: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in markdown.split("\n") if line[:1] == "|"]


def by_source(rows: list[dict], source: str) -> list[dict]:
    return [row for row in rows if row["source"] == source]


def test_published_table1_has_every_row_once(root):
    rows = load_published_table1(root / "resources")
    keys = [(row.dataset, row.model, row.reported_by) for row in rows]
    assert len(keys) == len(set(keys)) == 27
    assert [row.reported_by for row in rows] == ["xrec"] * 21 + ["study"] * 6
    few = {(row.dataset, row.model) for row in rows if row.n_test == 300}
    assert few == {(d, m) for d in ("Yelp", "Google-reviews") for m in ("XRec", "XRec (w/o prof.)")}
    first = rows[0]
    assert (first.model, first.values["bleurt_std"], first.printed["bleurt_std"]) == ("Att2Seq", 0.299, "0.299")
    assert "llamascore" not in first.values


def test_published_tables_2_and_3_are_typed(root):
    rows = load_published_table2(root / "resources")
    assert [row.n_test for row in rows] == [3000, 3000, 3000, 300, 3000, 300]
    runs = load_published_table3(root / "resources")
    untrained = [run for run in runs if run.train_seconds is None]
    assert [run.experiment for run in untrained] == ["XRec w/o embeddings"]
    assert untrained[0].train_gpu is None
    assert sum(run.co2_kg for run in runs) == pytest.approx(35.82, abs=0.03)
    assert sum(run.train_early_stopped for run in runs) == 7


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("xrec_table1.csv", "77.65", "77.66", r"study_table1\.csv: Amazon-books/PETER differs from xrec_table1\.csv"),
        ("xrec_table1.csv", "77.65", "many", r"xrec_table1\.csv: line 4: gptscore is 'many', not a number"),
        ("xrec_table1.csv", "dataset,", "data,", "column 'dataset' is missing"),
        ("study_table1.csv", "12.56,,0.1691", "12.56,0.1691", r"line 2: not as many cells"),
    ],
)
def test_published_files_that_are_wrong_are_named(root, tmp_path, name, old, new, message):
    shutil.copytree(root / "resources" / "published", tmp_path / "published")
    file = tmp_path / "published" / name
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_published_table1(tmp_path)


def test_only_columns_with_a_value_are_printed(tmp_path, root):
    rows, markdown, _ = make(tmp_path, root, [entry(0.5)])
    assert md_rows(markdown)[0] == ["Model", "Source", "N", "BERT F1 ↑", "USR ↑", "BERT F1 std ↓"]
    assert "gptscore" not in rows[0]
    assert [cells[:3] for cells in md_rows(markdown)[3:]] == [["XRec (ours)", "this run", "3000"]]


def test_published_rows_stand_in_the_block_of_their_data_set(tmp_path, root):
    entries = [entry(0.5), entry(0.4, dataset="other", dataset_label="Other")]
    rows, markdown, _ = make(tmp_path, root, entries, {"amazon": "Amazon-books", "other": None})
    assert [row["source"] for row in rows] == ["XRec paper"] * 7 + ["study"] * 2 + ["this run"] * 2
    assert [row["dataset"] for row in rows] == ["Amazon"] * 10 + ["Other"]
    table = md_rows(markdown)
    assert [cells[0] for cells in table if set(cells[1:]) == {""}] == ["*Amazon*", "*Other*"]
    assert len(table[0]) == 3 + 8 + 7
    assert table[3][3:5] == ["76.08", "–"]


def test_rows_of_300_examples_carry_a_dagger(tmp_path, root):
    yelp = entry(0.5, dataset="yelp", dataset_label="Yelp")
    _, markdown, tex = make(tmp_path, root, [yelp], {"yelp": "Yelp"})
    marked = [cells[:3] for cells in md_rows(markdown) if cells[0].endswith("†")]
    assert marked == [["XRec†", "study", "300"], ["XRec (w/o prof.)†", "study", "300"]]
    assert "† Published for 300 test examples" in markdown
    assert tex.count("\\dag{}") == 3
    _, markdown, _ = make(tmp_path, root, [entry(0.5)], {"amazon": "Amazon-books"})
    assert "†" not in markdown


def test_marks_follow_the_direction_and_ties_share_one(tmp_path, root):
    values = [(0.51231, 1.0, 0.3), (0.51234, 1.0, 0.1), (0.4, 0.9, 0.2)]
    entries = [entry(f, u, s, experiment=f"e{i}", experiment_label=f"E{i}") for i, (f, u, s) in enumerate(values)]
    rows, markdown, tex = make(tmp_path, root, entries)
    assert [cells[3:] for cells in md_rows(markdown)[3:]] == [
        ["**0.5123**", "**1.0000**", "0.3000"],
        ["**0.5123**", "**1.0000**", "**0.1000**"],
        ["0.4000", "0.9000", "<u>0.2000</u>"],
    ]
    assert [row["bertscore_f1_rank"] for row in rows] == ["1", "1", "3"]
    assert [row["bertscore_f1_std_rank"] for row in rows] == ["3", "1", "2"]
    assert "\\underline{0.2000}" in tex
    assert [float(row["bertscore_f1"]) for row in rows] == [0.51231, 0.51234, 0.4]


def test_a_row_alone_is_not_the_best(tmp_path, root):
    rows, markdown, _ = make(tmp_path, root, [entry(0.5)])
    assert rows[0]["bertscore_f1_rank"] == ""
    assert md_rows(markdown)[3][3] == "0.5000"


def test_each_source_is_ranked_by_itself(tmp_path, root):
    entries = [entry(0.99), entry(0.98, experiment="b", experiment_label="B")]
    alone, _, _ = make(tmp_path, root, entries)
    rows, _, _ = make(tmp_path, root, entries, {"amazon": "Amazon-books"})
    for source, best in (("XRec paper", "0.4122"), ("study", "0.3982"), ("this run", "0.99")):
        group = by_source(rows, source)
        assert [row["bertscore_f1"] for row in group if row["bertscore_f1_rank"] == "1"] == [best]
    ranks = [[row["bertscore_f1_rank"] for row in by_source(part, "this run")] for part in (alone, rows)]
    assert ranks[0] == ranks[1] == ["1", "2"]


def test_marks_of_the_papers_rows_are_those_of_the_paper(tmp_path, root):
    """In the study's table, GPT scores and their std have marks of XRec's rows only."""
    _, markdown, _ = make(tmp_path, root, [entry(0.5)], {"amazon": "Amazon-books"})
    table = {cells[0]: cells for cells in md_rows(markdown) if cells[1] == "XRec paper"}
    column = md_rows(markdown)[0].index("GPT ↑")
    assert (table["XRec"][column], table["XRec (w/o prof.)"][column]) == ("**82.57**", "<u>81.77</u>")
    assert table["PEPLER"][column] == "78.77"
    column = md_rows(markdown)[0].index("GPT std ↓")
    assert [table[name][column] for name in ("XRec", "XRec (w/o prof.)", "PEPLER")] == ["**9.60**", "**9.60**", "11.38"]


def test_data_sets_are_ranked_apart(tmp_path, root):
    pairs = [("amazon", "a", 0.2), ("amazon", "b", 0.1), ("yelp", "a", 0.9), ("yelp", "b", 0.8)]
    entries = [entry(v, dataset=d, dataset_label=d, experiment=e, experiment_label=e) for d, e, v in pairs]
    rows, _, _ = make(tmp_path, root, entries)
    assert [row["bertscore_f1_rank"] for row in rows] == ["1", "2", "1", "2"]


def test_demo_rows_are_called_so_and_warned_about(tmp_path, root):
    rows, markdown, tex = make(tmp_path, root, [entry(0.99, kind="demo")], {"amazon": "Amazon-books"})
    assert rows[-1]["source"] == "this run (demo)"
    assert rows[-1]["bertscore_f1_rank"] == ""
    for text in (markdown, tex):
        assert "models trained on the spot" in text
    _, markdown, _ = make(tmp_path, root, [entry(0.99)], {"amazon": "Amazon-books"})
    assert "trained on the spot" not in markdown


def test_seeds_are_averaged_and_their_spread_is_kept(tmp_path, root):
    entries = [entry(f1, seed=seed) for seed, f1 in enumerate((0.4, 0.5, 0.9))]
    rows, markdown, _ = make(tmp_path, root, entries)
    assert len(rows) == 1
    assert (rows[0]["seeds"], rows[0]["source"]) == ("3", "this run, 3 seeds")
    assert float(rows[0]["bertscore_f1"]) == pytest.approx(0.6)
    assert float(rows[0]["bertscore_f1_seed_sd"]) == pytest.approx(0.07**0.5)
    assert "means over the seeds" in markdown


def test_mixed_signatures_are_refused(tmp_path, root):
    other = entry(0.4, experiment="b", experiment_label="B")
    other["summary"]["bertscore_f1"]["signature"] = "bertscore|model:roberta-large"
    for entries in ([entry(0.5), other], [entry(0.5), {**other, "experiment": "xrec", "seed": 2}]):
        with pytest.raises(DataError, match=r"column bertscore_f1 would mix .*minilm.* and .*roberta-large"):
            make(tmp_path, root, entries)
    assert not any((tmp_path / name).exists() for name in NAMES)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "there is nothing to print"),
        ([entry(0.5), entry(0.5)], "amazon/xrec/seed1 is given twice"),
        ([entry(0.5, kind="real")], "kind 'real'; say demo or measured"),
        ([entry(0.5), entry(0.5, seed=2, summary={"usr": cell(1.0, None, USR)})], "not those of the other seeds"),
        ([entry(float("nan"))], "bertscore_f1 is not a finite number"),
        ([entry(0.5, summary={"usr": {"mean": 1.0}})], "usr needs mean, std, n and signature"),
        ([entry(0.5), entry(0.5, dataset="b")], r"datasets\.b\.label: 'Amazon' names another data set too"),
    ],
)
def test_entries_that_cannot_be_printed_are_refused(tmp_path, root, entries, message):
    with pytest.raises(DataError, match=message):
        make(tmp_path, root, entries)


def test_unknown_published_name_lists_the_known_ones(tmp_path, root):
    with pytest.raises(DataError, match=r"datasets\.amazon\.published_as: .*'Amazon'; known: Amazon-books, Yelp"):
        make(tmp_path, root, [entry(0.5)], {"amazon": "Amazon"})


def test_a_metric_that_the_table_does_not_know_is_printed_without_marks(tmp_path, root):
    entries = [
        entry(0.5, experiment=e, experiment_label=e, summary={"odd_one": cell(v, 0.1, "odd|v:1")})
        for e, v in (("a", 1.0), ("b", 2.0))
    ]
    rows, markdown, _ = make(tmp_path, root, entries)
    assert md_rows(markdown)[0][3:] == ["odd\\_one", "odd\\_one std"]
    assert [row["odd_one_rank"] for row in rows] == ["", ""]
    assert [cells[3] for cells in md_rows(markdown)[3:]] == ["1.0000", "2.0000"]


def test_signatures_and_notes_stand_under_the_table(tmp_path, root):
    rows, markdown, tex = make(tmp_path, root, [entry(0.5)], notes=["Scored in a test."])
    assert f"- Signature of BERT F1 in this run: `{BERT}`" in markdown
    assert f"- Signature of USR in this run: `{USR}`" in markdown
    assert "- Scored in a test." in markdown
    plain = tex.replace("\\textbar{}\\allowbreak ", "|")
    assert BERT in plain
    assert "Scored in a test." in tex
    assert (rows[0]["bertscore_f1_signature"], rows[0]["usr_signature"]) == (BERT, USR)


HARD = r"50% of {A} & B_1 #2 $x$ ~ ^ \x | <y> [z]"


def tex_without_escapes(tex: str) -> str:
    return re.sub(r"\\[{}$&#_%]", "", tex)


def test_latex_is_balanced_and_escaped(tmp_path, root):
    odd = entry(0.5, dataset_label=HARD, experiment_label=HARD)
    odd["summary"]["usr"]["signature"] = f"usr|x:{HARD}"
    _, _, tex = make(tmp_path, root, [odd], {"amazon": "Amazon-books"}, [HARD])
    bare = tex_without_escapes(tex)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    unbracketed = re.sub(r"{\[}|{\]}|\[htbp\]|\[\\linewidth\]", "", bare)
    assert not re.search(r"[#~^|<>\[\]]", unbracketed)
    assert [line for line in bare.split("\n") if "%" in line] == ["\\makebox[\\linewidth]{%"]
    begun, ended = re.findall(r"\\begin{(\w+)}", tex), re.findall(r"\\end{(\w+)}", tex)
    assert sorted(begun) == sorted(ended) == ["minipage", "table", "tabular"]
    width = len(re.search(r"\\begin{tabular}{([lr]+)}", tex).group(1))
    body = bare[bare.index("\\toprule") : bare.index("\\bottomrule")]
    lines = [line for line in body.split("\n") if line.endswith("\\\\")]
    assert len(lines) == 2 + 1 + 9 + 1
    for line in lines:
        spans = [int(span) for span in re.findall(r"\\multicolumn{(\d+)}", line)]
        assert line.count("&") + 1 + sum(spans) - len(spans) == width


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path, root):
    odd = entry(0.5, dataset_label=HARD, experiment_label=HARD)
    make(tmp_path, root, [odd], {"amazon": "Amazon-books"}, [HARD])
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table1.tex}\\end{document}"
    (tmp_path / "main.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout[-2000:]


def test_the_files_are_the_same_bytes_every_time(tmp_path, root):
    entries = [entry(0.5, seed=1), entry(0.51, seed=2), entry(0.4, experiment="b", experiment_label="B")]
    published = {"amazon": "Amazon-books"}
    first = make(tmp_path, root, entries, published)
    before = [(tmp_path / name).read_bytes() for name in NAMES]
    assert make(tmp_path, root, entries, published) == first
    assert [(tmp_path / name).read_bytes() for name in NAMES] == before
    assert all(b"\r" not in content for content in before)
