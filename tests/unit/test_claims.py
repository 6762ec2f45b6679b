"""Claims: published numbers judged as printed, this run's scores by tests, and nothing decided without evidence."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.paper.claims import judge_claims, verdict
from xrec_repro.published import load_stated_verdicts

STATISTICS = {
    "seed": 0, "bootstrap_samples": 199, "permutations": 999, "interval": "bca", "confidence": 0.95,
    "test": "permutation", "correction": "holm", "alpha": 0.05, "reference": "full", "primary": None,
    "clusters": "user", "runs": "both",
}  # fmt: skip
BASELINES = ["Att2Seq", "NRT", "PETER", "PEPLER"]
ALL = ["gptscore", "llamascore", "bertscore_p", "bertscore_r", "bertscore_f1", "bartscore", "bleurt", "usr"]
TWO = ["Amazon-books", "Google-reviews"]


def better(against: list[str], metrics: list[str], datasets: list[str] | None = None, **changes) -> dict:
    rule = {"name": "N", "text": "T.", "kind": "better", "system": "XRec", "against": against, "metrics": metrics}
    return rule | {"aspects": ["mean", "std"], "hold": "all", "published_datasets": datasets} | changes


def unique(at_least: float, **changes) -> dict:
    rule = {"name": "N", "text": "T.", "kind": "unique", "systems": ["XRec", "w/o profile"], "metrics": ["usr"]}
    return rule | {"at_least": at_least, "hold": "all", "published_datasets": None} | changes


ABLATED = ["gptscore", "llamascore", "bertscore_f1"]
RULES = {
    "claim1": better(BASELINES, ALL),
    "claim2": unique(0.999),
    "claim3": better(["w/o profile"], ABLATED, TWO),
    "claim4": better(["w/o injection"], ABLATED, TWO),
}
SYSTEMS = {
    "XRec": {"experiment": "full", "published": "XRec"},
    "w/o profile": {"experiment": "no_profile", "published": "XRec w/o profile"},
    "w/o injection": {"experiment": "no_injection", "published": "XRec w/o injection"},
} | {name: {"experiment": None, "published": name} for name in BASELINES}
ROBERTA = "model:FacebookAI/roberta-large|rev:722cf37b1afa9454edce342e7895e588b6ff1d59"
BERT = f"bertscore|{ROBERTA}|layer:17|idf:no|rescale:roberta-large"
SIGNATURES = {"bertscore_p": BERT.replace(":17", ":6"), "bertscore_f1": BERT, "usr": "usr|tokens:whitespace"}


def row(folder: Path, experiment: str, columns: dict, seed: int = 1, **changes) -> dict:
    path = folder / changes.get("dataset", "books") / f"{experiment}{seed}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(next(iter(columns.values())))
    pd.DataFrame({"example_id": [f"e{i:03}" for i in range(n)], **columns}).to_parquet(path, index=False)
    cells = {name: {"std": None if name == "usr" else 0.1, "signature": SIGNATURES.get(name, name)} for name in columns}
    base = {"dataset": "books", "dataset_label": "Books", "published_as": None, "kind": "measured", "few": False}
    base |= {"experiment": experiment, "experiment_label": experiment, "seed": seed}
    return base | {"scores": path, "summary": cells} | changes


def judge(tmp_path: Path, root: Path, rows=(), rules=None, systems=None, least=(1, 1), **changes) -> tuple[dict, str]:
    config = {"systems": systems or SYSTEMS, "rules": rules or RULES}
    config |= dict(zip(("min_examples", "min_texts"), least, strict=True))
    out = tmp_path / "claims.json", tmp_path / "claims.md"
    judge_claims(rows, config, STATISTICS | changes, root / "resources", *out)
    record = json.loads(out[0].read_text(), parse_constant=lambda text: pytest.fail(text))
    return {one["claim"]: one for one in record["claims"]}, out[1].read_text()


def cells(claim: dict, source: str, outcome: int) -> set[tuple]:
    return {
        (one["dataset"], one["metric"] + ("_std" if one["aspect"] == "std" else ""), one["other"])
        for one in claim["comparisons"]
        if (one["source"], one["outcome"]) == (source, outcome)
    }


@pytest.mark.parametrize(
    ("outcomes", "hold", "expected"),
    [
        ([], "all", "not testable"),
        ([1, 1, 1], "all", "validated"),
        ([1, 1, 0], "all", "inconclusive"),
        ([1, 0, -1], "all", "rejected"),
        ([1, 1, -1, -1], "majority", "rejected"),  # half is no majority
        ([1, 1, 1, -1], "majority", "validated"),
        ([1, 1, 0, -1], "majority", "inconclusive"),
        ([1] * 7 + [-1] * 3, 0.7, "validated"),
        ([1] * 6 + [-1] * 4, 0.7, "rejected"),
        ([0], 0.5, "inconclusive"),
        ([1, -1], 0.5, "validated"),
    ],
)
def test_verdicts_have_three_values(outcomes, hold, expected):
    assert verdict(outcomes, hold) == expected


def test_claim_1_fails_where_the_tables_print_better_baselines(tmp_path, root):
    claim = judge(tmp_path, root)[0]["claim1"]
    original, study = claim["verdicts"]["original"], claim["verdicts"]["study"]
    assert (original["stated"], original["recomputed"], original["agrees"]) == ("claimed", "rejected", False)
    # By eye in table 1 of the XRec paper: bold or underlined numbers of baselines that beat those of "Ours".
    assert cells(claim, "xrec", -1) == {
        ("Amazon-books", "bertscore_p", "PETER"),
        ("Yelp", "bartscore_std", "Att2Seq"),
        ("Yelp", "bartscore_std", "NRT"),
        ("Yelp", "bertscore_r_std", "PEPLER"),
        ("Google-reviews", "bartscore", "PETER"),
        ("Google-reviews", "bertscore_r_std", "PEPLER"),
    }
    assert (study["stated"], study["recomputed"], study["agrees"]) == ("rejected", "rejected", True)
    # What the study's section 4.1 names as its reasons, as far as its reproduction is concerned.
    assert cells(claim, "study", -1) >= {
        ("Amazon-books", "bertscore_p", "PETER"),
        ("Amazon-books", "bertscore_f1", "PETER"),
        ("Yelp", "bertscore_r", "PEPLER"),
        ("Google-reviews", "bleurt", "PEPLER"),
    }
    assert (study["for"], study["against"], study["neither"], study["mixed_sources"]) == (119, 5, 0, 124)
    assert study["gaps"]["usr: N 300 against 3,000"] == 8  # the study's † on two data sets, four baselines each
    assert original["gaps"] == {"llamascore: no number of both": 12}


def test_claim_1_by_brute_force_over_the_csv(tmp_path, root):
    claim = judge(tmp_path, root)[0]["claim1"]
    with (root / "resources/published/xrec_table1.csv").open(newline="") as stream:
        table = {(line["dataset"], line["model"]): line for line in csv.DictReader(stream)}
    outcomes = []
    for dataset in {key[0] for key in table}:
        for model in BASELINES:
            for column, text in table[dataset, "Ours"].items():
                if column not in ("dataset", "model"):
                    difference = float(text) - float(table[dataset, model][column])
                    outcomes.append(np.sign(difference) * (-1 if column.endswith("_std") else 1))
    found = claim["verdicts"]["original"]
    assert (found["for"], found["against"], found["neither"]) == tuple(outcomes.count(sign) for sign in (1, -1, 0))
    assert len(outcomes) == 3 * 4 * 13


def test_claims_2_to_4_as_published(tmp_path, root):
    found, text = judge(tmp_path, root)
    told = {
        key: [(one["verdicts"][side]["stated"], one["verdicts"][side]["recomputed"]) for side in ("original", "study")]
        for key, one in found.items()
    }
    assert told["claim2"] == [("claimed", "validated"), ("validated", "validated")]
    assert told["claim3"] == [("claimed", "rejected"), ("rejected", "rejected")]
    assert told["claim4"] == [("claimed", "not testable"), ("validated", "validated")]
    assert cells(found["claim3"], "xrec", 0) == {("Amazon-books", "gptscore_std", "w/o profile")}  # 9.60 both
    assert cells(found["claim3"], "study", -1) == {("Google-reviews", "bertscore_f1", "w/o profile")}
    decisive = next(one for one in found["claim3"]["comparisons"] if (one["source"], one["outcome"]) == ("study", -1))
    z = (0.4097 - 0.4026) / np.hypot(0.0931, 0.1283) * np.sqrt(300)
    assert decisive["p_unpaired"] == pytest.approx(2 * stats.norm.sf(z), abs=0.002)
    assert found["claim4"]["verdicts"]["original"]["agrees"] is None
    assert found["claim4"]["verdicts"]["study"]["gaps"]["Google-reviews: no published row of w/o injection"] == 1
    assert "- claim1, XRec paper: stated as *claimed*" in text and "- claim3, XRec paper" in text
    assert "- claim2" not in text.split("## claim1")[0].split("## Where")[1]


def test_the_threshold_is_the_configurations(tmp_path, root):
    strict = judge(tmp_path, root, rules={"claim2": unique(1.0)})[0]["claim2"]["verdicts"]
    assert (strict["original"]["recomputed"], strict["original"]["against"]) == (
        "rejected",
        2,
    )  # Google: 0.9993, 0.9997
    assert strict["study"]["recomputed"] == "validated"


def test_more_than_the_study_compared_can_be_asked_for(tmp_path, root):
    systems = SYSTEMS | {"neither": {"experiment": None, "published": "XRec w/o prof. & inj."}}
    rules = {"mine": better(["neither"], ABLATED, ["Amazon-books"], system="w/o profile", hold=0.75)}
    found = judge(tmp_path, root, rules=rules, systems=systems)[0]["mine"]["verdicts"]
    # Table 2: 64.94 > 60.04, 21.86 < 24.63, 0.3913 > 0.3778, but 0.0837 > 0.0797.
    assert (found["study"]["stated"], found["study"]["agrees"]) == (None, None)
    assert (found["study"]["for"], found["study"]["against"], found["study"]["recomputed"]) == (3, 1, "validated")


def test_unpaired_p_is_welchs_on_the_scores_behind_the_numbers(tmp_path, root):
    rng = np.random.default_rng(0)
    ours = rng.normal(0.41, 0.1, 60)
    entry = row(tmp_path, "full", {"bertscore_f1": ours}, published_as="Amazon-books")
    rules = {"claim1": better(["PETER"], ["bertscore_f1"])}
    (mean, std) = (
        one for one in judge(tmp_path, root, [entry], rules)[0]["claim1"]["comparisons"] if one["source"] == "run"
    )
    assert (mean["value"], mean["other_value"], mean["basis"]) == (pytest.approx(ours.mean()), 0.4043, "direction")
    published = rng.normal(size=3000)
    published = 0.4043 + 0.1098 * (published - published.mean()) / published.std()  # PETER's mean and std
    assert mean["p_unpaired"] == pytest.approx(stats.ttest_ind(ours, published, equal_var=False).pvalue)
    assert std["p_unpaired"] is None


def system_rows(folder: Path, shift: float, noise: float, n: int = 80, **changes) -> list[dict]:
    rng = np.random.default_rng(1)
    hard = rng.normal(0.4, 0.02, n)
    full = {"bertscore_f1": hard + rng.normal(0, 0.02, n)}
    less = {"bertscore_f1": hard - shift + rng.normal(0, noise, n)}
    return [row(folder, "full", full, **changes), row(folder, "no_profile", less, **changes)]


@pytest.mark.parametrize(
    ("shift", "noise", "expected", "directions"),
    [
        (0.03, 0.08, "validated", "validated"),
        (0.001, 0.024, "inconclusive", "validated"),
        (-0.03, 0.08, "rejected", "rejected"),
    ],
)
def test_this_run_is_judged_by_tests_and_by_directions(tmp_path, root, shift, noise, expected, directions):
    found, text = judge(tmp_path, root, system_rows(tmp_path, shift, noise))
    run = found["claim3"]["verdicts"]["run"]
    assert (run["verdict"], run["by_direction"], run["tested"]) == (expected, directions, 2)
    assert run["datasets"]["Books"]["verdict"] == expected
    (mean, std) = (one for one in found["claim3"]["comparisons"] if one["source"] == "run")
    assert mean["difference"] == pytest.approx(mean["value"] - mean["other_value"])
    assert mean["low"] < mean["difference"] < mean["high"]
    small, large = sorted((mean, std), key=lambda one: one["p"])
    assert small["p_holm"] == pytest.approx(min(1, 2 * small["p"]))
    assert large["p_holm"] == pytest.approx(max(small["p_holm"], large["p"]))
    assert (mean["n"], mean["basis"], mean["aspect"], std["aspect"]) == (80, "paired test", "mean", "std")
    assert {"d_z", "superiority", "p_permutation", "p_bootstrap", "dropped"} <= set(mean)
    assert f"| {expected} | {directions} |" in text.replace(" (no test)", "")
    assert run["gaps"] == {"gptscore: not scored": 1, "llamascore: not scored": 1}


def test_holm_is_over_all_tests_of_a_claim(tmp_path, root):
    rows = system_rows(tmp_path, 0.01, 0.03) + system_rows(tmp_path, 0.01, 0.03, dataset="films", dataset_label="Films")
    claim = judge(tmp_path, root, rows)[0]["claim3"]
    tests = [one for one in claim["comparisons"] if one["source"] == "run"]
    assert [one["dataset"] for one in tests] == ["Books", "Books", "Films", "Films"]
    smallest = min(tests, key=lambda one: one["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 4 * smallest["p"]))


def test_exploratory_comparisons_are_shown_and_do_not_count(tmp_path, root):
    rows = system_rows(tmp_path, 0.03, 0.08)
    found, text = judge(tmp_path, root, rows, {"claim3": RULES["claim3"]}, primary=["llamascore"])
    run = found["claim3"]["verdicts"]["run"]
    assert (run["verdict"], run["by_direction"]) == ("not testable", "validated")
    assert (run["for"], run["tested"], run["exploratory"]) == (0, 0, 2)
    tests = [one for one in found["claim3"]["comparisons"] if one["source"] == "run"]
    assert all(one["exploratory"] and one["p"] < 0.05 and one["p_holm"] is None for one in tests)
    assert text.count("| exploratory: for |") == 2 and "exploratory and not counted 2" in text
    both = judge(tmp_path, root, rows, {"claim3": RULES["claim3"]}, primary=["bertscore_f1"])[0]["claim3"]
    assert (both["verdicts"]["run"]["verdict"], both["verdicts"]["run"]["exploratory"]) == ("validated", 0)


def test_absent_experiments_are_not_testable(tmp_path, root):
    rows = system_rows(tmp_path, 0.03, 0.08)
    found, text = judge(tmp_path, root, rows)
    assert found["claim4"]["verdicts"]["run"]["verdict"] == "not testable"
    assert found["claim4"]["verdicts"]["run"]["gaps"] == {"Books: no experiment in this run for w/o injection": 1}
    assert "- Books: no experiment in this run for w/o injection" in text
    assert found["claim1"]["verdicts"]["run"]["gaps"] == {f"Books: no published row of {name}": 1 for name in BASELINES}
    alone = judge(tmp_path, root, rows[1:])[0]["claim3"]["verdicts"]["run"]
    assert (alone["verdict"], alone["gaps"]) == ("not testable", {"Books: no experiment in this run for XRec": 1})


def run_metrics(claim: dict) -> set[str]:
    return {one["metric"] for one in claim["comparisons"] if one["source"] == "run"}


def test_published_numbers_are_compared_only_where_scored_alike(tmp_path, root):
    scores = {"bertscore_f1": np.linspace(0.3, 0.6, 3000), "bertscore_p": np.ones(3000), "usr": np.ones(3000)}
    entry = row(tmp_path, "full", scores, published_as="Amazon-books")
    claim = judge(tmp_path, root, [entry])[0]["claim1"]
    run = claim["verdicts"]["run"]
    assert run_metrics(claim) == {"bertscore_f1", "usr"}
    assert run["gaps"] == {"bertscore_p: not scored as the published numbers were: layer 6, published 17": 4}
    assert (run["mixed_sources"], run["tested"]) == (12, 0)  # f1, its std and usr, four times
    # A random model in a folder of the famous name, with the famous baseline, is another model.
    named = BERT.replace(ROBERTA, "model:roberta-large@sha256:0123456789ab|rev:-")
    entry["summary"] = entry["summary"] | {"bertscore_f1": {"std": 0.1, "signature": named}}
    found, text = judge(tmp_path, root, [entry])
    assert run_metrics(found["claim1"]) == {"usr"}
    assert "another model, roberta-large@sha256:0123456789ab, than the published FacebookAI/roberta-large" in text


def test_uniqueness_of_few_texts_says_nothing(tmp_path, root):
    entry = row(tmp_path, "full", {"usr": np.ones(12)}, published_as="Amazon-books")
    found, text = judge(tmp_path, root, [entry], least=(100, 3000))
    for claim in ("claim1", "claim2"):
        assert found[claim]["verdicts"]["run"]["verdict"] == "not testable"
        assert not run_metrics(found[claim])
    assert found["claim2"]["verdicts"]["run"]["gaps"]["usr: N 12 against 3,000"] == 1
    assert "usr falls with the number of texts, so it counts from 3,000 texts on" in text
    enough = row(tmp_path, "full", {"usr": np.ones(3000)}, published_as=None)
    assert judge(tmp_path, root, [enough], least=(100, 3000))[0]["claim2"]["verdicts"]["run"]["verdict"] == "validated"


@pytest.mark.parametrize(("published_as", "verdict"), [("Yelp", "validated"), ("Amazon-books", "not testable")])
def test_uniqueness_of_as_many_texts_as_were_published_counts(tmp_path, root, published_as, verdict):
    entry = row(tmp_path, "full", {"usr": np.ones(300)}, published_as=published_as)  # the study's † is on Yelp
    assert judge(tmp_path, root, [entry], least=(100, 3000))[0]["claim2"]["verdicts"]["run"]["verdict"] == verdict


def test_a_test_of_few_examples_decides_nothing(tmp_path, root):
    rows = system_rows(tmp_path, 0.03, 0.08, n=80)
    run = judge(tmp_path, root, rows, least=(81, 1))[0]["claim3"]["verdicts"]["run"]
    assert (run["verdict"], run["gaps"]["bertscore_f1: N 80, at least 81 needed"]) == ("not testable", 1)


def test_scores_of_two_sizes_of_sets_are_not_compared(tmp_path, root):
    rules = {"mine": better(["w/o profile"], ["usr"])}
    rows = [row(tmp_path, "full", {"usr": np.ones(20)}), row(tmp_path, "no_profile", {"usr": np.r_[0, np.ones(19)]})]
    assert judge(tmp_path, root, rows, rules)[0]["mine"]["verdicts"]["run"]["verdict"] == "validated"
    rows[1] = row(tmp_path, "no_profile", {"usr": np.r_[0, np.ones(39)]})
    run = judge(tmp_path, root, rows, rules)[0]["mine"]["verdicts"]["run"]
    assert (run["verdict"], run["gaps"]) == ("not testable", {"usr: sets of unequal N": 1})


def test_unpaired_p_counts_the_examples_that_were_scored(tmp_path, root):
    ours = np.random.default_rng(0).normal(0.41, 0.1, 60)
    rules = {"claim1": better(["PETER"], ["bertscore_f1"])}
    found = []
    for scores in (ours[:30], np.r_[ours[:30], np.full(30, np.nan)]):
        entry = row(tmp_path, "full", {"bertscore_f1": scores}, published_as="Amazon-books")
        claim = judge(tmp_path, root, [entry], rules)[0]["claim1"]
        found.append([(one["n"], one["p_unpaired"]) for one in claim["comparisons"] if one["source"] == "run"])
    assert found[0] == found[1] and found[0][0][0] == 30


def test_uniqueness_is_judged_for_every_seed(tmp_path, root):
    unique_texts, repeats = {"usr": np.ones(40)}, {"usr": np.r_[0.0, np.ones(39)]}
    rows = [row(tmp_path, "full", unique_texts, 0), row(tmp_path, "full", repeats, 2)]
    found, text = judge(tmp_path, root, rows)
    run = found["claim2"]["verdicts"]["run"]
    assert (run["verdict"], run["for"], run["against"]) == ("rejected", 1, 1)
    assert run["gaps"] == {"Books: no experiment in this run for w/o profile": 1}
    assert "| usr | XRec | threshold | for | 1.0000 | 0.9990 | – | 40 | 0 |" in text
    assert "| usr | XRec | threshold | against | 0.9750 | 0.9990 | – | 40 | 2 |" in text


def test_the_demo_is_judged_and_said_to_be_one(tmp_path, root):
    demo = system_rows(tmp_path, 0.03, 0.08, kind="demo")
    found, text = judge(tmp_path, root, demo)
    assert found["claim3"]["verdicts"]["run"]["small"] == {"Books": "demo"}
    assert "| validated (demo) |" in text and "Warning: what a generated world (demo)" in text
    found, text = judge(
        tmp_path, root, demo + system_rows(tmp_path, 0.03, 0.08, dataset="films", dataset_label="Films")
    )
    assert "| validated (partly demo) |" in text
    assert "- Books (demo: says nothing of the published models): validated" in text and "- Films: validated" in text


def test_without_correction_the_bare_p_decides(tmp_path, root):
    rows = system_rows(tmp_path, 0.006, 0.024)

    def smallest(**changes) -> dict:
        claim = judge(tmp_path, root, rows, {"claim3": RULES["claim3"]}, **changes)[0]["claim3"]
        return min((one for one in claim["comparisons"] if one["source"] == "run"), key=lambda one: one["p"])

    p = smallest()["p"]
    assert 0 < p < 0.5
    corrected, bare = smallest(alpha=p), smallest(alpha=p, correction="none")
    assert corrected["p_holm"] == bare["p_holm"] == pytest.approx(2 * p)
    assert (corrected["outcome"], bare["outcome"]) == (0, bare["direction"])
    assert bare["direction"] != 0


def test_same_input_same_bytes(tmp_path, root):
    rows = system_rows(tmp_path, 0.01, 0.03)
    judge(tmp_path, root, rows)
    before = [(tmp_path / name).read_bytes() for name in ("claims.json", "claims.md")]
    judge(tmp_path, root, rows)
    assert [(tmp_path / name).read_bytes() for name in ("claims.json", "claims.md")] == before


def test_published_data_of_no_table_are_refused(tmp_path, root):
    rule = RULES["claim3"] | {"published_datasets": ["Amazon"]}
    with pytest.raises(ConfigError, match=r"claim3\.published_datasets: no table has 'Amazon'; known: Amazon-books"):
        judge(tmp_path, root, rules={"claim3": rule})


def test_a_published_name_that_no_table_has_is_refused(tmp_path, root):
    with pytest.raises(ConfigError, match=r"claims\.systems\.NRT\.published: no table has 'NRTT'; known: Att2Seq, NRT"):
        judge(tmp_path, root, systems=SYSTEMS | {"NRT": {"experiment": None, "published": "NRTT"}})


def test_stated_verdicts_are_those_of_the_papers(root):
    stated = load_stated_verdicts(root / "resources")
    assert {key: value[0] for key, value in stated.items() if key[1] == "study"} == {
        ("claim1", "study"): "rejected",
        ("claim2", "study"): "validated",
        ("claim3", "study"): "rejected",
        ("claim4", "study"): "validated",
    }
    assert {value[0] for key, value in stated.items() if key[1] == "xrec"} == {"claimed"}
    assert all(where for _, where in stated.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claim,verdict,where\nclaim1,rejected,here\n", r"study_verdicts\.csv: column 'reported_by' is missing"),
        ("claim,reported_by,verdict,where\nclaim1,study,maybe,here\n", r"claim1: verdict 'maybe'; say one of claimed"),
    ],
)
def test_a_malformed_list_of_verdicts_is_named(tmp_path, text, message):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "study_verdicts.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_stated_verdicts(tmp_path)
