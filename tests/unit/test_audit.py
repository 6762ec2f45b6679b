import csv
import json
import pickle
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from xrec_repro.audit.facts import ScoreRow
from xrec_repro.audit.marks import derive_marks
from xrec_repro.audit.report import VERDICTS, audit_json, audit_markdown, audit_text, run_audit, write_audit
from xrec_repro.audit.runs import explain_emissions, implied_texts
from xrec_repro.audit.tables import f1_above_mean, read_baselines
from xrec_repro.errors import ConfigError, DataError

RELEASE_CHECKS = ("sizes", "core", "usr", "leakage", "references", "order", "lengths", "zero-shot")


def by_id(findings):
    found = {finding.id: finding for finding in findings}
    assert len(found) == len(findings), "ids are not unique"
    return found


@pytest.fixture(scope="module")
def full(root, shared):
    """All findings, with the released data."""
    return run_audit(root / "resources", shared / "data/xrec")


@pytest.fixture(scope="module")
def without_data(root):
    return run_audit(root / "resources")


@pytest.fixture
def copy(root, tmp_path):
    """A copy of the resources that a test may damage."""
    return shutil.copytree(root / "resources", tmp_path / "resources")


def edit(resources, name, changes, where):
    """Change cells of the rows of a published file that match; exactly one must."""
    path = resources / "published" / f"{name}.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    matching = [row for row in rows if all(row[key] == value for key, value in where.items())]
    assert len(matching) == 1, matching
    matching[0].update(changes)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# --- The numbers of the real material ---------------------------------------------------------------------


def test_emissions(without_data):
    found = by_id(without_data)
    total = found["emissions-total"]
    assert (total.verdict, total.printed) == ("differs", "35.84 kg (study section 4.4)")
    assert total.computed.startswith("24.54 kg")
    assert sum(row["equation 1 kg"] for row in total.details) == pytest.approx(24.54, abs=0.005)
    first = total.details[0]
    assert (first["dataset"], first["experiment"], first["printed kg"]) == ("Amazon-books", "XRec", 6.74)
    hours = (9 + 54 / 60 + 58 / 3600) + (8 + 19 / 60 + 41 / 3600)
    assert first["equation 1 kg"] == pytest.approx(0.22 * 1.2 * 0.91 * hours)
    assert first["factor"] == pytest.approx(6.74 / 4.38, abs=0.002)
    assert found["emissions-sum"].computed == "35.82 kg"
    assert found["emissions-sum"].verdict == "agrees"


def test_emission_cells_are_mostly_twice_the_power_of_the_gpu(without_data):
    found = by_id(without_data)
    closest = {row["experiment"]: row["closest"] for row in found["emissions-total"].details}
    assert closest["XRec w/o embeddings"] == "once the GPU's power"
    rounds = [row for row in found["emissions-total"].details if row["match"] == "rounds to it"]
    assert len(rounds) == 8
    assert {row["closest"] for row in rounds} == {"twice the GPU's power"}
    assert "none of them: 2" in found["emissions-cells"].computed


@pytest.mark.parametrize(
    ("id", "verdict", "computed"),
    [
        ("sizes.amazon", "agrees", "15,349 users / 15,247 items / 360,839 interactions"),
        ("sizes.yelp", "differs", "15,962 users / 14,085 items / 393,680 interactions"),
        ("core.yelp", "differs", "at least 10 edges a user and 10 an item"),
        ("usr.amazon", "agrees", "1.0000 (3,000 of 3,000)"),
        ("usr.yelp", "agrees", "1.0000 (3,000 of 3,000)"),
        ("leakage.amazon", "differs", "2,376 of 3,000 (79.2%)"),
        ("leakage.yelp", "differs", "2,434 of 3,000 (81.1%)"),
        ("references.amazon", "agrees", "0 of 3,000 are missing from it"),
        ("references.yelp", "differs", "1,562 of 3,000 are missing from it"),
        ("zero-shot.yelp", "differs", "0 users, 0 of 3,000 test texts"),
    ],
)
def test_released_data(full, id, verdict, computed):
    finding = by_id(full)[id]
    assert (finding.verdict, finding.computed) == (verdict, computed)


def test_released_texts_are_shuffled_and_longer_than_stated(full):
    found = by_id(full)
    for name, mean_words in (("amazon", (51, 46)), ("yelp", (41, 37))):
        assert re.match(r"[12] of 3,000 in place", found[f"order.{name}"].computed)
        own, other = map(float, re.findall(r"0\.\d+", found[f"order.{name}"].computed))
        assert own > other
        assert tuple(round(row["mean"]) for row in found[f"lengths.{name}"].details) == mean_words
        assert found[f"lengths.{name}"].verdict == "differs"


def test_google_is_not_checked_as_its_data_are_not_at_hand(full, shared):
    assert not (shared / "data/xrec/google").exists()
    for check in RELEASE_CHECKS:
        finding = by_id(full)[f"{check}.google"]
        assert finding.verdict == "not checked"
        assert "no folder google" in finding.comment


def test_marks_that_disagree_with_the_numbers(without_data):
    found = by_id(without_data)
    assert found["marks-study-table1"].verdict == "agrees"
    assert {(row["model"], row["column"], row["printed"]) for row in found["marks-study-table2"].details} == {
        ("XRec w/o profile", "bartscore", "none"),
        ("XRec w/o profile", "bleurt", "none"),
    }
    undeserved = {
        (row["dataset"], row["model"], row["column"])
        for row in found["marks-xrec-table1"].details
        if row["printed"] != "none"
    }
    assert undeserved == {
        ("Yelp", "Ours (w/o profile)", "bartscore"),
        ("Google-reviews", "PETER", "bartscore"),
        ("Google-reviews", "Ours", "bartscore_std"),
    }


def test_subset_marks_against_gpus_and_possible_counts(without_data):
    found = by_id(without_data)
    contradicting = {
        (row["dataset"], row["experiment"], row["GPU"], row["N marked"])
        for row in found["subset-marks"].details
        if row["as the caption says"] == "no"
    }
    assert contradicting == {
        ("Amazon-books", "XRec w/o embeddings", "MIG", 3000),
        ("Amazon-books", "XRec w/o profile & w/o injection", "H100", 300),
        ("Google-reviews", "XRec", "H100", 300),
    }
    # 0.9993 is 2,998 of 3,000, and no count out of 300.
    assert {row["model"] for row in found["usr-grid"].details} == {"XRec w/o injection", "XRec w/o embed."}


@pytest.mark.parametrize(
    ("id", "verdict", "computed"),
    [
        ("reprints", "agrees", "0 cells differ"),
        ("repeats", "agrees", "0 cells differ"),
        ("baselines", "differs", "5; left out: PETER+"),
        ("experiment-count", "differs", "10"),
        ("judge-gap", "differs", "14.71 to 21.37; 1 of 6 outside"),
        ("llamascore-drop", "differs", "9.28 points"),
        ("outperforms", "differs", "better in 33 of 39 cells"),
        ("claim-peter-precision", "agrees", "2 of 2 comparisons hold"),
        ("claim-injection", "differs", "7 of 8 comparisons hold"),
        ("claim-fixed-moe", "differs", "2 of 6 comparisons hold"),
        ("claim-profiles", "differs", "1 of 4 comparisons hold"),
        ("contradiction-judge-model", "differs", "2 different answers"),
        ("separated-columns", "differs", "separated in every data set: bartscore"),
    ],
)
def test_printed_statements(without_data, id, verdict, computed):
    finding = by_id(without_data)[id]
    assert (finding.verdict, finding.computed) == (verdict, computed)


def test_usr_claim_names_the_rows_that_are_below_one(without_data):
    finding = by_id(without_data)["usr-claim"]
    assert finding.verdict == "differs"
    assert re.findall(r"0\.\d{4}", finding.computed) == ["0.9993", "0.9997"]


def test_published_bertscores_are_rescaled(without_data):
    finding = by_id(without_data)["bertscore-rescaled"]
    assert finding.verdict == "agrees"
    assert "19 of 31 rows break it as printed" in finding.computed
    assert finding.computed.endswith("undone 0")


# --- The reckoning behind it ------------------------------------------------------------------------------


def score_row(model, dataset="D", reported_by="xrec", **cells):
    return ScoreRow("t", dataset, model, reported_by, 3000, cells)


def test_marks_of_a_small_table():
    rows = [
        score_row("a", usr="1.0", bleurt="-0.2", bleurt_std="0.3"),
        score_row("b", usr="1.0", bleurt="-0.1", bleurt_std="0.2"),
        score_row("c", usr="0.9", bleurt_std="0.30"),
        score_row("a", "E", usr="0.1"),
    ]
    assert derive_marks(rows) == {
        ("D", "a", "xrec", "usr"): "bold",
        ("D", "b", "xrec", "usr"): "bold",  # two best, so that 0.9 is third
        ("D", "b", "xrec", "bleurt"): "bold",
        ("D", "a", "xrec", "bleurt"): "underline",
        ("D", "b", "xrec", "bleurt_std"): "bold",
        ("D", "a", "xrec", "bleurt_std"): "underline",
        ("D", "c", "xrec", "bleurt_std"): "underline",
        ("E", "a", "xrec", "usr"): "bold",
    }


@pytest.mark.parametrize("size", [17, 50, 1000, 1003])
def test_implied_texts_invert_the_published_split(size):
    train, rest = train_test_split(range(size), test_size=0.2, random_state=42)
    val, _ = train_test_split(rest, test_size=0.5, random_state=42)
    found = implied_texts(len(train), len(val), 0.8)
    assert size in found
    for other in found:
        others, rest = train_test_split(range(other), test_size=0.2, random_state=42)
        assert (len(others), len(rest) // 2) == (len(train), len(val))
    assert implied_texts(100, 40, 0.8) == []


@pytest.mark.parametrize(("kg", "name", "rest"), [(1.05, "equation 1", 0.05), (1.21, "twice the GPU's power", 0.01)])
def test_emissions_are_explained_by_the_closest_hypothesis(kg, name, rest):
    found = explain_emissions({"kg_printed": kg, "kg_equation1": 1.0, "kg_gpu_only": 0.6})
    assert found == (name, pytest.approx(rest))


def bert_row(precision, recall, f1):
    names = ("bertscore_p", "bertscore_r", "bertscore_f1")
    return score_row("m", **{name: f"{np.mean(x):.4f}" for name, x in zip(names, (precision, recall, f1), strict=True)})


def test_f1_never_exceeds_the_mean_of_precision_and_recall():
    rng = np.random.default_rng(0)
    baseline = read_baselines()["roberta-large", "17"]
    assert baseline == pytest.approx((0.83150584, 0.8314941, 0.83122575))
    for _ in range(200):
        precision, recall = rng.uniform(0.7, 1, (2, 40))
        f1 = 2 * precision * recall / (precision + recall)
        assert f1_above_mean(bert_row(precision, recall, f1)) <= 0
        scaled = [(x - b) / (1 - b) for x, b in zip((precision, recall, f1), baseline, strict=True)]
        assert f1_above_mean(bert_row(*scaled), baseline) <= 0
    same = np.full(40, 0.9)
    scaled = [(same - b) / (1 - b) for b in baseline]
    assert f1_above_mean(bert_row(*scaled)) > 0  # rescaled columns that are taken for raw ones


# --- Planted errors ---------------------------------------------------------------------------------------

AMAZON_XREC = {"dataset": "Amazon-books", "model": "XRec"}


@pytest.mark.parametrize(
    ("id", "table", "changes", "where", "expected"),
    [
        ("repeats", "study_table2", {"bleurt": "-0.1243"}, AMAZON_XREC, "1 cells differ"),
        (
            "reprints",
            "xrec_table1",
            {"usr": "0.7758"},
            {"dataset": "Amazon-books", "model": "Att2Seq"},
            "1 cells differ",
        ),
        ("usr-grid", "study_table2", {"usr": "0.9995"}, AMAZON_XREC, "1 rows are impossible"),
        ("judge-std", "study_table2", {"llamascore_std": "48"}, {"model": "XRec fixed MoE"}, "0 are impossible"),
        ("judge-std", "study_table2", {"llamascore_std": "50"}, {"model": "XRec fixed MoE"}, "1 are impossible"),
        ("bertscore-rescaled", "study_table2", {"bertscore_f1": "0.3"}, {"model": "XRec fixed MoE"}, "undone 1"),
        ("experiment-count", "statements", {"value": "10"}, {"key": "reproduction_experiments"}, "10"),
        (
            "marks-study-table1",
            "marks",
            {"mark": "bold"},
            {
                "table": "study_table1",
                "dataset": "Yelp",
                "model": "XRec",
                "reported_by": "xrec",
                "column": "bleurt",
            },
            "1 cells differ",
        ),
        (
            "text-split",
            "datasets",
            {"val_texts": "11979"},
            {"dataset": "Amazon-books", "reported_by": "study"},
            "2 of 3",
        ),
        (
            "early-stopping",
            "study_table3",
            {"train_seconds": "3600"},
            {"dataset": "Yelp", "experiment": "XRec"},
            "Yelp XRec 13% to 16%",
        ),
        ("emissions-total", "statements", {"value": "24.5"}, {"key": "emissions_total_kg"}, "24.54 kg"),
    ],
)
def test_planted_errors_are_found(copy, id, table, changes, where, expected):
    before = by_id(run_audit(copy))[id]
    edit(copy, table, changes, where)
    after = by_id(run_audit(copy))[id]
    assert expected in after.computed
    assert after.sha256 != before.sha256
    healed = id in ("experiment-count", "emissions-total") or expected == "0 are impossible"
    assert after.verdict == ("agrees" if healed else "differs")


def test_settings_replace_the_studys_constants(root):
    found = by_id(run_audit(root / "resources", settings={"carbon_intensity": 0.44, "pue": 1.2}))
    assert found["emissions-total"].details[0]["equation 1 kg"] == pytest.approx(0.44 * 1.2 * 0.91 * 65679 / 3600)


# --- Released data ----------------------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path):
    """Tiny data in the layout of Yelp's, and the folder that holds them."""
    folder = tmp_path / "data" / "yelp"
    folder.mkdir(parents=True)
    for short, edges in (("trn", [(0, 0), (0, 1), (1, 1)]), ("val", [(1, 0)]), ("tst", [(2, 0)])):
        pd.DataFrame(edges, columns=["user", "item"]).to_csv(folder / f"total_{short}.csv", index=False)
    texts = [(0, 0, "good food"), (1, 1, "fine wine"), (2, 0, "word " * 51), (1, 0, "fine wine")]
    rows = [
        {"uid": u, "iid": i, "title": "t", "user_summary": "u", "item_summary": "i", "explanation": text}
        for u, i, text in texts
    ]
    (folder / "tst.pkl").write_bytes(pickle.dumps(rows))
    references = ["good food", "fine wine", "fine wine", "fine wine"]
    (folder / "tst_ref.pkl").write_bytes(pickle.dumps(references))
    predictions = ["good food", "fine  wine", "fine wine", "word " * 60]
    (folder / "tst_pred.pkl").write_bytes(pickle.dumps(predictions))
    return folder


def test_a_tiny_release(root, release):
    found = by_id(run_audit(root / "resources", release.parent))
    computed = {check: found[f"{check}.yelp"].computed for check in RELEASE_CHECKS}
    assert computed["sizes"] == "3 users / 2 items / 5 interactions"
    assert computed["core"] == "at least 1 edges a user and 2 an item"
    assert computed["usr"] == "0.7500 (3 of 4)"
    assert computed["leakage"] == "2 of 4 (50.0%)"  # (0, 0) and (1, 1)
    assert computed["references"] == "1 of 4 are missing from it"  # three "fine wine" against two
    assert computed["order"] == "3 of 4 in place; words in common 0.750, with the next 0.500"
    assert computed["lengths"] == "predictions: 1 longer, mean 16.5; references: 0 longer, mean 2.0"
    assert computed["zero-shot"] == "1 users, 1 of 4 test texts"
    assert found["zero-shot.yelp"].verdict == "agrees"
    assert found["usr.yelp"].verdict == "differs"
    assert found["sizes.amazon"].verdict == "not checked"


@pytest.mark.parametrize(
    ("damage", "checks", "why"),
    [
        ("tst_pred.pkl", {"usr", "references", "order", "lengths"}, "has no tst_pred.pkl"),
        ("total_val.csv", set(RELEASE_CHECKS), "total_val.csv: no such file"),
        ("tst.pkl", set(RELEASE_CHECKS), "no texts"),
    ],
)
def test_a_damaged_release_is_not_checked_and_the_rest_is_printed(root, release, damage, checks, why):
    (release / damage).unlink()
    found = by_id(run_audit(root / "resources", release.parent))
    assert {check for check in RELEASE_CHECKS if found[f"{check}.yelp"].verdict == "not checked"} == checks
    assert all(why in found[f"{check}.yelp"].comment for check in checks)
    assert found["emissions-total"].verdict == "differs"


def test_lists_of_different_length_are_not_compared(root, release):
    (release / "tst_pred.pkl").write_bytes(pickle.dumps(["one"]))
    finding = by_id(run_audit(root / "resources", release.parent))["order.yelp"]
    assert finding.comment == "Not checked: yelp: tst_pred.pkl has 1 texts and tst_ref.pkl 4."


def test_without_data_the_rest_is_the_same(full, without_data):
    assert [finding.id for finding in full] == [finding.id for finding in without_data]
    for one, other in zip(full, without_data, strict=True):
        if one.id.partition(".")[0] in RELEASE_CHECKS:
            assert other.verdict == "not checked"
            assert "not at hand" in other.comment
        else:
            assert one == other


# --- Output -----------------------------------------------------------------------------------------------


def test_files_are_whole_and_the_same_every_time(root, tmp_path):
    paths = [tmp_path / run / name for run in "ab" for name in ("audit.json", "audit.md")]
    findings = write_audit(root / "resources", None, *paths[:2])
    write_audit(root / "resources", None, *paths[2:])
    assert [path.read_bytes() for path in paths[:2]] == [path.read_bytes() for path in paths[2:]]
    written = json.loads(paths[0].read_text())
    assert written == json.loads(json.dumps(audit_json(findings)))
    assert sum(written["verdicts"].values()) == len(findings) == len(written["findings"])
    assert paths[1].read_text() == audit_markdown(findings)


def test_every_finding_is_in_both_outputs(without_data):
    page, text = audit_markdown(without_data), audit_text(without_data)
    for finding in without_data:
        assert finding.verdict in VERDICTS
        assert f"\n## {finding.id}\n" in page
        assert f"[{finding.verdict}] {finding.id}: " in text
        assert all(name in page and digest in page for name, digest in finding.sha256.items())
    columns = [line.count("|") for line in page.splitlines() if line.startswith("| [")]
    assert columns == [5] * len(without_data)


def test_the_page_in_the_docs_has_not_drifted(root, full):
    assert (root / "docs/audit.md").read_text() == audit_markdown(full), (
        "docs/audit.md is not what the audit finds; run `xrec-repro audit --write docs/audit.md`"
    )


# --- Bad input --------------------------------------------------------------------------------------------


def damage_header(path):
    path.write_text(path.read_text().replace("mark\n", "sign\n", 1))


def drop_cell(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].rpartition(",")[0], *lines[3:]]))


def drop_statement(path):
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("baselines,")))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("marks", damage_header, r"marks\.csv: column 'mark' is missing; restore it"),
        ("marks", drop_cell, r"marks\.csv: line 3: not as many cells as the header"),
        ("statements", lambda path: path.unlink(), r"statements\.csv: no such file; restore it"),
        ("statements", drop_statement, r"statements\.csv: no statement 'baselines'"),
    ],
)
def test_damaged_resources_are_named(copy, name, damage, message):
    damage(copy / "published" / f"{name}.csv")
    with pytest.raises(DataError, match=message) as caught:
        run_audit(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "changes", "where", "message"),
    [
        ("statements", {"value": "four"}, {"key": "baselines"}, r"baselines: value is 'four', not a number"),
        ("study_table2", {"usr": "1,0"}, AMAZON_XREC, r"study_table2\.csv: line 2: usr is '1,0', not a number"),
        ("study_table2", {"bleurt": ""}, AMAZON_XREC, None),
        (
            "study_table2",
            {"model": "XRec w/o glue"},
            {"model": "XRec w/o embed."},
            r"study_table3\.csv: no row Amazon-books/XRec w/o glue",
        ),
        (
            "xrec_table1",
            {"model": "Theirs"},
            {"dataset": "Amazon-books", "model": "Ours"},
            r"xrec_table1\.csv: no row Amazon-books/Ours of 'xrec'",
        ),
    ],
)
def test_damaged_tables_are_named(copy, table, changes, where, message):
    edit(copy, table, changes, where)
    if message is None:  # what is not printed is not compared
        assert by_id(run_audit(copy))["repeats"].printed == "2 rows with 25 cells in both tables"
        return
    with pytest.raises(DataError, match=message) as caught:
        run_audit(copy)
    assert "\n" not in str(caught.value)


def test_a_missing_constant_is_named(root):
    with pytest.raises(ConfigError, match="audit: pue is missing from the settings"):
        run_audit(root / "resources", settings={"carbon_intensity": 0.22})
