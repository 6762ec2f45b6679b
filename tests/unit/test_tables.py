"""Tables 1 and 2: layout, marks among comparable numbers only, and three files that agree."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from xrec_repro.errors import DataError
from xrec_repro.kinds import kind_of
from xrec_repro.metrics.columns import known_columns
from xrec_repro.paper.tables import DEFAULT_COLUMNS, make_table1, make_table2

ROBERTA = "FacebookAI/roberta-large|rev:722cf37b1afa9454edce342e7895e588b6ff1d59"
BERT = f"bertscore|model:{ROBERTA}|layer:17|idf:no|rescale:roberta-large|v:0.3.13"  # as published
USR = "usr|tokens:whitespace|v:1"
NAMES = ("table1.csv", "table1.md", "table1.tex")


def cell(mean: float, std: float | None, signature: str, n: int = 3000, missing: int = 0) -> dict:
    return {"mean": mean, "std": std, "n": n, "signature": signature, "missing": missing, "counts": {}}


def entry(f1: float, unique: float = 1.0, std: float = 0.1, **changes) -> dict:
    summary = {"bertscore_f1": cell(f1, std, BERT), "usr": cell(unique, None, USR)}
    base = {"dataset": "amazon", "dataset_label": "Amazon", "experiment": "xrec", "experiment_label": "XRec (ours)"}
    return {**base, "seed": 1, "summary": summary, "kind": "measured", **changes}


def make(
    tmp_path: Path,
    root: Path,
    entries: list[dict],
    published: dict | None = None,
    notes=(),
    table=make_table1,
    **options,
) -> tuple:
    files = [tmp_path / name for name in NAMES]
    table(entries, published or {}, root / "resources", *files, notes, **options)
    with files[0].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return rows, files[1].read_text(encoding="utf-8"), files[2].read_text(encoding="utf-8")


def md_rows(markdown: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in markdown.split("\n") if line[:1] == "|"]


def by_source(rows: list[dict], source: str) -> list[dict]:
    return [row for row in rows if row["source"] == source]


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


def test_the_range_of_a_metric_stands_under_its_data_set(tmp_path, root):
    counts = {"faithfulness_f1_chance": 0.1, "faithfulness_f1_reference": 0.875, "named": 7}
    known = {"faithfulness_f1": cell(0.3, 0.1, "faithfulness|v:1") | {"counts": counts, "missing": 1}}
    first = entry(0.5)
    entries = [first | {"summary": first["summary"] | known, "seed": seed} for seed in (1, 2)]
    rows, markdown, tex = make(tmp_path, root, [*entries, entry(0.4, dataset="b", dataset_label="B")])
    bound = [row for row in rows if row["kind"] == "bound"]
    assert [(row["dataset"], row["model"], row["n"]) for row in bound] == [
        ("Amazon", "Chance", "3001"), ("Amazon", "Reference explanations", "3001"),
    ]  # fmt: skip
    assert [float(row["faithfulness_f1"]) for row in bound] == [0.1, 0.875]
    assert {(row["bertscore_f1"], row["faithfulness_f1_rank"], row["seeds"]) for row in bound} == {("", "", "")}
    assert ["Chance", "true reasons", "3001", "–", "–", "0.1000"] in [cells[:6] for cells in md_rows(markdown)]
    assert "dealt to the examples at random" in markdown and "0.8750" in tex
    assert "at random" not in make(tmp_path, root, [entry(0.5)])[1]


def test_what_is_exploratory_is_said(tmp_path, root):
    for primary, named in ((["bertscore_f1"], "BERT F1"), (["llamascore"], "none of those shown"), ([], "none of")):
        _, markdown, tex = make(tmp_path, root, [entry(0.5)], primary=primary)
        assert f"Primary metrics of this run: {named}" in markdown and "exploratory" in tex
    for primary in (None, ["usr", "bertscore_f1"]):
        assert "exploratory" not in make(tmp_path, root, [entry(0.5)], primary=primary)[1]
    apart = entry(0.5, summary={"llamascore": cell(0.4, 0.1, JUDGE), "usr": cell(0.9, None, USR)})
    _, markdown, _ = make(tmp_path, root, [apart], {"amazon": "Amazon-books"}, primary=["llamascore"])
    assert "Llama (this run) ↑" in markdown and "Primary metrics of this run: Llama. " in markdown


def test_rows_of_300_examples_carry_a_dagger(tmp_path, root):
    yelp = entry(0.5, dataset="yelp", dataset_label="Yelp")
    _, markdown, tex = make(tmp_path, root, [yelp], {"yelp": "Yelp"})
    marked = [cells[:3] for cells in md_rows(markdown) if cells[0].endswith("†")]
    assert marked == [["XRec†", "study", "300"], ["XRec (w/o prof.)†", "study", "300"]]
    assert "† Published for 300 test examples" in markdown
    assert tex.count("$^\\dagger$") == 2 * 2 + 1  # two rows in each of two tabulars, and the note
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
        assert "trained on the spot" in text
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
    other["summary"]["bertscore_f1"]["signature"] = "bertscore|model:minilm"
    for entries in ([entry(0.5), other], [entry(0.5), {**other, "experiment": "xrec", "seed": 2}]):
        with pytest.raises(DataError, match=r"column bertscore_f1 would mix .*roberta-large.* and .*minilm"):
            make(tmp_path, root, entries)
    assert not any((tmp_path / name).exists() for name in NAMES)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "there is nothing to print"),
        ([entry(0.5), entry(0.5)], "amazon/xrec/seed1 is given twice"),
        ([entry(0.5, kind="real")], "kind 'real'; say one of measured, scratch, demo"),
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
    rows, markdown, _ = make(tmp_path, root, entries, columns=None)
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


def test_latex_is_balanced_and_escaped(tmp_path, root):
    odd = entry(0.5, dataset_label=HARD, experiment_label=HARD)
    odd["summary"]["usr"]["signature"] = f"usr|x:{HARD}"
    _, _, tex = make(tmp_path, root, [odd], {"amazon": "Amazon-books"}, [HARD])
    bare = re.sub(r"\\[{}$&#_%]", "", tex)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert [line for line in bare.split("\n") if "%" in line] == ["\\sbox0{%", "\\end{tabular}}%"] * 2
    commands = r"{\[}|{\]}|\[htbp\]|\\ifdim\\wd0>|\$\^\\d?dagger\$"
    assert not re.search(r"[#~^|<>\[\]]", re.sub(commands, "", bare))
    begun, ended = re.findall(r"\\begin{(\w+)}", tex), re.findall(r"\\end{(\w+)}", tex)
    assert sorted(begun) == sorted(ended) == [name for name in ("minipage", "table", "tabular") for _ in range(2)]
    for part in bare.split("\\begin{table}")[1:]:
        width = len(re.search(r"\\begin{tabular}{([lr]+)}", part).group(1))
        body = part[part.index("\\toprule") : part.index("\\bottomrule")]
        lines = [line for line in body.split("\n") if line.endswith("\\\\")]
        assert len(lines) == 2 + 1 + 9 + 1
        for line in lines:
            spans = [int(span) for span in re.findall(r"\\multicolumn{(\d+)}", line)]
            assert line.count("&") + 1 + sum(spans) - len(spans) == width


def test_the_files_are_the_same_bytes_every_time(tmp_path, root):
    entries = [entry(0.5, seed=1), entry(0.51, seed=2), entry(0.4, experiment="b", experiment_label="B")]
    published = {"amazon": "Amazon-books"}
    first = make(tmp_path, root, entries, published)
    before = [(tmp_path / name).read_bytes() for name in NAMES]
    assert make(tmp_path, root, entries, published) == first
    assert [(tmp_path / name).read_bytes() for name in NAMES] == before
    assert all(b"\r" not in content for content in before)


def test_table_2_lists_the_studys_ablations_of_the_data_set(tmp_path, root):
    entries = [entry(0.5), entry(0.4, dataset="yelp", dataset_label="Yelp")]
    names = {"amazon": "Amazon-books", "yelp": "Yelp"}
    rows, markdown, _ = make(tmp_path, root, entries, names, table=make_table2)
    assert [(row["dataset"], row["source"]) for row in rows] == (
        [("Amazon", "study")] * 6 + [("Amazon", "this run"), ("Yelp", "this run")]
    )
    marked = [cells[0] for cells in md_rows(markdown) if cells[0].endswith("†")]
    assert marked == ["XRec w/o prof. & inj.†", "XRec fixed MoE†"]
    # The marks that the study prints in its table 2, for a column of means and one of standard deviations.
    column = {row["model"]: (row["bertscore_p_rank"], row["bertscore_r_std_rank"]) for row in rows[:6]}
    assert (column["XRec w/o profile"], column["XRec"]) == (("1", "2"), ("2", "4"))
    assert column["XRec w/o prof. & inj."][1] == "1"


def test_subsets_of_this_run_carry_a_dagger_with_a_note_of_their_own(tmp_path, root):
    entries = [entry(0.5, few=True), entry(0.4, experiment="b", experiment_label="B", few=False)]
    rows, markdown, _ = make(tmp_path, root, entries)
    assert [cells[0] for cells in md_rows(markdown)[3:]] == ["XRec (ours)†", "B"]
    assert [row["few"] for row in rows] == ["1", "0"]
    assert "- † In this run, only a part of the test set was explained." in markdown
    assert "Published for 300" not in markdown


def test_examples_that_could_not_be_scored_are_told(tmp_path, root):
    summary = {"bertscore_f1": cell(0.5, 0.1, BERT, 297, 3), "usr": cell(1.0, None, USR, 300)}
    entries = [entry(0, summary=summary), entry(0, seed=2, summary=summary)]
    rows, markdown, tex = make(tmp_path, root, entries)
    assert md_rows(markdown)[3][2:] == ["300", "0.5000‡", "1.0000", "0.1000‡"]
    assert "‡ Less the examples that could not be scored: XRec (ours) on Amazon, BERT F1 6 of 600." in markdown
    assert "0.5000\\rlap{$^\\ddagger$}" in tex
    assert (rows[0]["n"], rows[0]["bertscore_f1_missing"], rows[0]["usr_missing"]) == ("300", "6", "0")
    rows, markdown, _ = make(tmp_path, root, [entry(0.5)], {"amazon": "Amazon-books"})
    assert "‡" not in markdown
    assert [row["usr_missing"] for row in rows] == [""] * 9 + ["0"]


def all_metrics() -> dict:
    return {name: cell(0.5, None if name == "usr" else 0.1, f"{name}|v:1") for name in known_columns()}


def test_columns_are_chosen_in_order_and_the_csv_file_has_all(tmp_path, root):
    one = entry(0, summary=all_metrics())
    rows, markdown, tex = make(tmp_path, root, [one], columns=["rouge_l", "usr"])
    assert md_rows(markdown)[0][3:] == ["ROUGE-L ↑", "USR ↑", "ROUGE-L std ↓"]
    assert "bleurt|v:1" not in markdown
    assert "BLEURT" not in tex
    assert all(rows[0][name] == "0.5" for name in known_columns())
    _, markdown, _ = make(tmp_path, root, [one])
    assert len(md_rows(markdown)[0]) == 3 + len(DEFAULT_COLUMNS) + len(DEFAULT_COLUMNS) - 1
    assert "Faith. F1 ↑" in markdown
    assert "ROUGE" not in markdown
    _, markdown, _ = make(tmp_path, root, [one], columns=None)
    assert len(md_rows(markdown)[0]) == 3 + 2 * len(known_columns()) - 1


def test_of_a_metric_that_says_so_smaller_is_better(tmp_path, root):
    scores = {"one": 0.9, "two": 0.7, "three": 0.8}
    entries = [
        entry(0, experiment=name, summary={"mae": cell(value, 0.1, "mae|v:1"), "bleu_4": cell(value, 0.1, "bleu|v:1")})
        for name, value in scores.items()
    ]
    rows, markdown, _ = make(tmp_path, root, entries, columns=["mae", "bleu_4"])
    assert [row["mae_rank"] for row in rows] == ["3", "1", "2"]
    assert [row["bleu_4_rank"] for row in rows] == ["1", "3", "2"]
    assert md_rows(markdown)[0][3:] == ["MAE ↓", "BLEU-4 ↑", "MAE std ↓", "BLEU-4 std ↓"]
    assert "higher is better, but for those marked ↓." in markdown
    assert "**0.7000**" in markdown


def test_a_run_without_the_default_metrics_prints_those_it_has(tmp_path, root):
    only = entry(0, summary={"bleu_4": cell(0.2, 0.1, "bleu|v:1")})
    _, markdown, _ = make(tmp_path, root, [only])
    assert md_rows(markdown)[0][3:] == ["BLEU-4 ↑", "BLEU-4 std ↓"]


def test_wide_tables_are_split_and_keep_their_number(tmp_path, root):
    _, _, tex = make(tmp_path, root, [entry(0, summary=all_metrics())], columns=None)
    widths = [len(form) - 3 for form in re.findall(r"\\begin{tabular}{([lr]+)}", tex)]
    assert widths == [11, 11, 11, 10]
    assert tex.count("\\addtocounter{table}{-1}") == 3
    assert len(set(re.findall(r"\\label{(.+)}", tex))) == 4


def test_a_demo_is_a_matter_of_what_a_run_uses(tmp_path, root):
    assert kind_of("glassbox", "scratch") == kind_of("glassbox", "hub") == "demo"
    assert (kind_of("table", "scratch"), kind_of("release", "scratch")) == ("scratch", "scratch")
    assert kind_of("table", "hub") == kind_of("release", "local") == "measured"
    for kind, source in (
        ("demo", "this run (demo)"),
        ("scratch", "this run (scratch model)"),
        ("measured", "this run"),
    ):
        mine = entry(0.4, kind=kind, published_model="XRec w/o profile")
        rows, markdown, _ = make(tmp_path, root, [mine], {"amazon": "Amazon-books"}, show_difference=True)
        assert rows[-1]["source"] == source
        assert ("trained on the spot" in markdown) == (kind != "measured") == (rows[-1]["usr_difference"] == "")


def test_differences_are_those_from_the_studys_row(tmp_path, root):
    study = {"published_model": "XRec w/o profile", "experiment_label": "Mine"}
    one = entry(0.4, summary={"bertscore_f1": cell(0.4, 0.1, BERT), "gptscore": cell(70.0, 9.0, "gpt|v:1")}, **study)
    names = {"amazon": "Amazon-books"}
    rows, markdown, _ = make(tmp_path, root, [one], names, show_difference=True)
    assert float(rows[-1]["bertscore_f1_difference"]) == pytest.approx(0.4 - 0.3913)
    assert float(rows[-1]["bertscore_f1_std_difference"]) == pytest.approx(0.1 - 0.0837)
    assert rows[-1]["gptscore_difference"] == ""  # of the study's, only LlamaScore is published
    table = md_rows(markdown)
    line = dict(zip(table[0], table[-1], strict=True))
    assert (line["Model"], line["BERT F1 ↑"], line["BERT F1 std ↓"], line["GPT ↑"]) == (
        "measured − study",
        "+0.0087",
        "+0.0163",
        "",
    )
    _, markdown, _ = make(tmp_path, root, [one], names)
    assert "measured −" not in markdown


NAMED = "bertscore|model:roberta-large@sha256:0123456789ab|rev:-|layer:17|idf:no|rescale:roberta-large"
PORT = f"bleurt|model:lucadiliello/bleurt-tiny-512|rev:{'a' * 40}|max_length:512|dtype:float32"
JUDGE = "llamascore|model:smollm@sha256:0123456789ab|rev:-|mode:expected|dtype:float32"


@pytest.mark.parametrize(
    ("metric", "signature", "heading", "why"),
    [
        ("bertscore_f1", NAMED, "BERT F1", "another model, roberta-large@sha256:0123456789ab, than the published Face"),
        ("bertscore_f1", BERT.replace("layer:17", "layer:6"), "BERT F1", "layer 6, published 17"),
        ("bertscore_f1", BERT.replace("722cf37", "0000000"), "BERT F1", "at 0000000, than the published FacebookAI"),
        ("bleurt", PORT, "BLEURT", "which commit of lucadiliello/bleurt-tiny-512 the published model is, is not known"),
        ("llamascore", JUDGE, "Llama", "another model, smollm@sha256:0123456789ab, than the published meta-llama/Llam"),
    ],
)
def test_what_was_scored_otherwise_stands_in_a_column_of_its_own(tmp_path, root, metric, signature, heading, why):
    mine = entry(0.4, summary={metric: cell(0.4, 0.1, signature)}, published_model="XRec w/o profile")
    rows, markdown, tex = make(tmp_path, root, [mine], {"amazon": "Amazon-books"}, show_difference=True)
    table = md_rows(markdown)
    own, shared = table[0].index(f"{heading} (this run) ↑"), table[0].index(f"{heading} ↑")
    assert own == shared + 1 and f"{heading} (this run) std ↓" in table[0]
    assert f"{heading} (this run)" in tex
    assert table[-1][shared] == "–" and float(table[-1][own]) == 0.4
    assert {cells[own] for cells in table[2:-1]} <= {"–", ""}
    note = next(line for line in markdown.splitlines() if line.startswith("- Columns (this run) do not compare"))
    assert why in note and "measured −" not in markdown
    assert why in rows[-1][f"{metric}_apart"] and rows[-1][f"{metric}_difference"] == ""
    assert rows[0][f"{metric}_apart"] == ""


def test_a_data_set_that_no_paper_has_is_not_shown_on_a_published_scale(tmp_path, root):
    mine = entry(0.4, summary={"llamascore": cell(0.4, 0.1, JUDGE)}, dataset="other", dataset_label="Other")
    for options in ({"all_published": True}, {"published": {"amazon": "Amazon-books", "other": None}}):
        entries = [mine] if "all_published" in options else [mine, {**mine, "dataset": "amazon", "dataset_label": "A"}]
        heads = md_rows(make(tmp_path, root, entries, **options)[1])[0]
        assert {"Llama ↑", "Llama (this run) ↑"} <= set(heads)
    assert "Llama (this run) ↑" not in md_rows(make(tmp_path, root, [mine])[1])[0]  # nothing to be confused with


def test_a_folder_counts_as_the_published_model_by_a_digest_that_is_listed(tmp_path, root):
    shutil.copytree(root / "resources", tmp_path / "resources")
    models = tmp_path / "resources/models.tsv"
    lines = models.read_text().splitlines()
    digest = "0123456789ab" + "c" * 52
    models.write_text("\n".join(x + digest * x.startswith("FacebookAI") for x in lines) + "\n")
    signature = NAMED.replace("roberta-large@", "whatever@")
    mine = entry(0.4, summary={"bertscore_f1": cell(0.4, 0.1, signature)}, published_model="XRec w/o profile")
    rows, markdown, _ = make(tmp_path, tmp_path, [mine], {"amazon": "Amazon-books"}, show_difference=True)
    assert "(this run)" not in "".join(md_rows(markdown)[0])
    assert float(rows[-1]["bertscore_f1_difference"]) == pytest.approx(0.4 - 0.3913)


def test_scores_of_whole_sets_compare_at_equal_n_alone(tmp_path, root):
    def mine(n: int, **changes) -> dict:
        summary = {"usr": cell(0.9, None, USR, n), "bertscore_f1": cell(0.4, 0.1, BERT, n)}
        return entry(0.4, summary=summary, published_model="XRec w/o profile", **changes)

    rows, markdown, _ = make(tmp_path, root, [mine(12)], {"amazon": "Amazon-books"}, show_difference=True)
    assert (rows[-1]["usr_difference"], rows[-1]["usr_apart"]) == ("", "N 12 against 3,000")
    assert rows[-1]["bertscore_f1_difference"] != ""
    assert "USR: N 12 against 3,000" in markdown and "USR (this run) ↑" in md_rows(markdown)[0]
    rows, _, _ = make(tmp_path, root, [mine(3000)], {"amazon": "Amazon-books"}, show_difference=True)
    assert float(rows[-1]["usr_difference"]) == pytest.approx(-0.1)
    rows, _, _ = make(tmp_path, root, [mine(12), mine(3000, experiment="b", experiment_label="B")])
    assert [row["usr_rank"] for row in rows] == ["", ""] and {row["bertscore_f1_rank"] for row in rows} == {"1"}


def test_a_score_that_compares_with_one_paper_alone_says_so(tmp_path, root):
    signature = "bartscore|model:facebook/bart-large-cnn|rev:37f520fa929c961707657b28798b30c003dd100b|weights:-"
    signature += "|direction:pred_to_ref|max_length:1024|dtype:float32"
    mine = entry(0.4, summary={"bartscore": cell(-3.0, 0.4, signature)}, published_model="XRec w/o profile")
    rows, markdown, _ = make(tmp_path, root, [mine], {"amazon": "Amazon-books"}, show_difference=True)
    assert float(rows[-1]["bartscore_difference"]) == pytest.approx(-3.0 + 3.0855)
    assert "ones: BART and the XRec paper: weights -, published bart_score.pth" in markdown.replace("\\_", "_")


@pytest.mark.parametrize(
    "changes",
    [
        {"published_model": None},
        {"published_model": "XRec w/o injection"},  # not in the study's table 1
        {"published_model": "XRec", "kind": "demo"},
    ],
)
def test_rows_without_a_counterpart_show_no_difference(tmp_path, root, changes):
    rows, markdown, tex = make(
        tmp_path, root, [entry(0.4, **changes)], {"amazon": "Amazon-books"}, show_difference=True
    )
    assert rows[-1]["bertscore_f1_difference"] == ""
    assert "measured −" not in markdown + tex


def test_a_model_that_the_study_does_not_have_is_refused(tmp_path, root):
    message = r"experiments\.xrec\.published_model: no paper has 'XRec2'; known: .*XRec w/o embed\., XRec w/o inj"
    with pytest.raises(DataError, match=message):
        make(tmp_path, root, [entry(0.4, published_model="XRec2")])


def test_the_demo_is_ranked_apart_from_measured_rows(tmp_path, root):
    kinds = [("a", 0.9, "demo"), ("b", 0.8, "measured"), ("c", 0.7, "measured")]
    entries = [entry(v, experiment=e, experiment_label=e, kind=kind) for e, v, kind in kinds]
    rows, _, _ = make(tmp_path, root, entries)
    assert [row["bertscore_f1_rank"] for row in rows] == ["", "1", "2"]


def test_published_data_sets_that_the_run_lacks_come_first_on_demand(tmp_path, root):
    demo = entry(0.5, dataset="glassbox", dataset_label="Glassbox", kind="demo")
    rows, _, _ = make(tmp_path, root, [demo], {"glassbox": None}, all_published=True)
    assert list(dict.fromkeys(row["dataset"] for row in rows)) == ["Amazon-books", "Yelp", "Google-reviews", "Glassbox"]
    assert [row["kind"] for row in rows] == ["published"] * 27 + ["demo"]
    rows, _, _ = make(tmp_path, root, [entry(0.5)], {"amazon": "Yelp"}, all_published=True)
    assert list(dict.fromkeys(row["dataset"] for row in rows)) == ["Amazon-books", "Google-reviews", "Amazon"]


def test_a_subset_prints_both_counts_and_a_dagger(tmp_path, root):
    cells = {"usr": cell(1.0, None, USR, n=99)}
    rows, markdown, tex = make(tmp_path, root, [entry(0.5, few=True, test_examples=994, summary=cells)])
    assert md_rows(markdown)[3][:3] == ["XRec (ours)†", "this run", "99 of 994"]
    assert (rows[0]["n"], rows[0]["test_examples"], rows[0]["few"]) == ("99", "994", "1")
    assert "only a part of the test set was explained" in markdown
    assert "99 of 994" in tex
