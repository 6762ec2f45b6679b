"""The whole workflow on a tiny world, as a user runs it."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import load_script, run
from tests.dag.test_dry_runs import dry_run, jobs
from xrec_repro.cli import main
from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.io import read_json

FIGURES = ("figure2", "figure2_zoomed", "figure3", "figure4", "embeddings")
EXPERIMENTS = ("xrec", "no_profile", "no_embeddings", "fixed_moe")
SAME_BYTES = (
    *(f"paper/tables/table{number}.{ending}" for number in (1, 2) for ending in ("csv", "md", "tex")),
    *(f"paper/figures/{stem}.{ending}" for stem in FIGURES for ending in ("pdf", "png")),
    "paper/statistics/statistics.json",
    "paper/claims.md",
    "paper/questions.md",
    "paper/examples.md",
    "paper/browse.html",
    "scorers/bart/model/model.safetensors",
    "scorers/bleurt/model/model.safetensors",
    "scorers/judge/model/model.safetensors",
    "glassbox/xrec/seed1/method/weights.safetensors",
    "glassbox/xrec/seed1/method/training.parquet",
    "glassbox/xrec/seed1/generation/explanations.parquet",
    "glassbox/no_profile/seed1/generation/explanations.parquet",
    "glassbox/shared/recommender/lightgcn/seed1/embeddings.safetensors",
    "glassbox/shared/llm/model/model.safetensors",
)


@pytest.fixture
def results(finished) -> Path:
    return finished / "results/tiny"


def test_costs_are_of_every_job_behind_the_scores(finished, results):
    lines = read_json(results / "paper/costs/jobs.json")
    after = [*results.glob("paper/**/*"), *results.glob("audit/*")]
    written = {path: read_json(path) for path in set(results.rglob("*provenance.json")).difference(after)}
    assert {finished / line["provenance"] for line in lines} == set(written)
    for line in lines:
        assert line["charged_seconds"] == written[finished / line["provenance"]]["times"]["seconds"]
        assert (line["outcome"], line["slurm_seconds"]) == ("done", None)
    assert not list(results.rglob("*.attempts.json"))
    rules = pd.read_csv(results / "paper/costs/rules.csv").set_index("rule")
    assert rules.loc["train_method", "jobs"] == 3
    assert (results / "paper/figures/costs.png").stat().st_size > 10_000
    three = pd.read_csv(results / "paper/tables/table3.csv").query("kind == 'demo'")
    tuned = [read_json(path)["times"]["seconds"] for path in results.glob("glassbox/*/seed1/method/provenance.json")]
    assert three["train_seconds"].sum() == pytest.approx(sum(tuned))
    (kw,) = {line["power_kw"] for line in lines}
    charged = sum((three[f"{phase}_seconds"] * three[f"{phase}_share"]).fillna(0) for phase in ("train", "generate"))
    assert three["kg_co2"].tolist() == pytest.approx((0.22 * 1.2 * kw * charged / 3600).tolist())


def test_what_ran_side_by_side_is_charged_the_machine_once(finished, results):
    """By the clock: each job had one core; what all jobs are charged is at most the time in which any of them ran."""
    lines = read_json(results / "paper/costs/jobs.json")
    there = os.cpu_count()
    for line in lines:
        assert read_json(finished / line["provenance"])["machine"]["cores"] == {"had": 1, "there": there}
        assert line["share"] == pytest.approx(1 / there) or there == 1
    busy, until = 0.0, 0.0
    for start, end in sorted((line["start"], line["end"]) for line in lines):
        busy, until = busy + max(0.0, end - max(start, until)), max(until, end)
    kwh = sum(line["kg_co2"] for line in lines) / (0.22 * 1.2)
    assert kwh <= lines[0]["power_kw"] * busy / 3600 * (1 + 1e-5)
    assert sum(line["charged_seconds"] for line in lines) > busy, "some did run side by side"


def test_tables_have_a_row_an_experiment(results):
    one, two, three = (pd.read_csv(results / f"paper/tables/table{number}.csv") for number in (1, 2, 3))
    demo = one[one["kind"] == "demo"]
    assert demo["model"].tolist() == ["XRec", "XRec w/o profile"]
    demo = two[two["kind"] == "demo"]
    assert demo["model"].tolist() == ["XRec", "XRec w/o profile", "XRec w/o embed.", "XRec fixed MoE"]
    assert demo[["llamascore", "bertscore_f1", "bartscore", "bleurt", "usr", "faithfulness_f1"]].notna().all(axis=None)
    assert (three["kind"] == "demo").sum() == 4
    text = (results / "paper/tables/table1.md").read_text()
    assert "bertscore|model:minilm@sha256:" in text
    assert "trained on the spot" in text


def test_figures_claims_examples_and_audit_are_there(results):
    for stem in FIGURES:
        assert (results / f"paper/figures/{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert (results / f"paper/figures/{stem}.pdf").read_bytes().startswith(b"%PDF")
    claims = read_json(results / "paper/claims.json")["claims"]
    assert [one["claim"] for one in claims] == ["claim1", "claim2", "claim3", "claim4"]
    assert claims[3]["verdicts"]["run"]
    assert claims[1]["verdicts"]["run"]["verdict"] == "not testable"  # of so few texts, hardly one repeats
    assert len(read_json(results / "paper/examples.json")["broken"]) == 4
    assert "24.54" in (results / "audit/audit.md").read_text()
    assert "<!doctype html>" in (results / "paper/browse.html").read_text()[:100].lower()


def test_explanations_keep_their_contract(results):
    for experiment in EXPERIMENTS:
        table = pq.read_table(results / f"glassbox/{experiment}/seed1/generation/explanations.parquet")
        assert table.schema.equals(EXPLANATIONS)
        texts = pq.read_table(results / "glassbox/shared/split/texts.parquet")["split"].to_pylist()
        assert table.num_rows == texts.count("test") > 20
        assert set(table["finish_reason"].to_pylist()) <= {"bracket", "eos", "length"}


def test_every_job_left_its_provenance(results, root, tmp_path):
    records = list(results.rglob("*provenance.json"))
    rules = [read_json(path)["rule"] for path in records]
    assert rules.count("train_method") == 3
    assert rules.count("score_by_models") == rules.count("generate_explanations") == 4
    planned = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", str(root / "tests/tiny.yaml")))
    assert Counter(rules) == {name: count for name, count in planned.items() if name != "all"}
    tuned = read_json(results / "glassbox/xrec/seed1/method/provenance.json")
    assert tuned["result"]["language_model_unchanged"] is True
    assert tuned["settings"]["prompt"]["profiles"] is True
    assert set(tuned["inputs"]) == {"examples", "llm", "embeddings"}
    assert all(entry["sha256"] for entry in tuned["inputs"].values())
    bare = read_json(results / "glassbox/no_profile/seed1/method/provenance.json")
    assert bare["settings"]["prompt"]["profiles"] is False


def test_no_checkpoint_or_partial_file_is_left(results):
    assert not [p for p in results.rglob("*") if "checkpoint" in p.name or "partial" in p.name or p.suffix == ".tmp"]


def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in run(finished, finished)


@pytest.mark.parametrize(
    ("change", "reruns", "keeps"),
    [
        (
            {"experiments": {"no_profile": {"overrides": {"generation": {"max_new_tokens": 9}}}}},
            dict.fromkeys(("generate_explanations", "score_by_models", "score_explanations", "make_table1"), 1),
            {"train_method", "train_recommender", "pretrain_lm", "generate_profiles", "plot_figure3"},
        ),
        (
            {"recommenders": {"lightgcn": {"epochs": 1}}},
            {"train_recommender": 1, "train_method": 2},
            {"pretrain_lm", "generate_profiles", "filter_kcore"},
        ),
        ({"metrics": {"bertscore": {"idf": True}}}, {"score_by_models": 4}, {"generate_explanations"}),
        (
            {"statistics": {"alpha": 0.01}},
            {"judge_claims": 1, "write_statistics": 1, "write_questions": 1},
            {"score_by_models", "make_table1"},
        ),
        ({"defaults": {"profiles": {"references": "extractive"}}}, {"generate_references": 1}, {"generate_profiles"}),
        (
            {"compute": {"threads": 2}},
            {"train_recommender": 1, "pretrain_lm": 1, "train_bart": 1, "train_method": 3},
            {"make_glassbox", "split_interactions", "generate_profiles", "generate_references"},
        ),
        (
            {"compute": {"device": "cpu"}},
            {"train_recommender": 1, "train_method": 3, "score_by_models": 4},
            {"generate_profiles", "pretrain_lm", "train_bart", "train_bleurt", "train_judge"},
        ),
    ],
    ids=["generation of one experiment", "recommender", "one metric", "statistics", "references", "threads", "device"],
)
def test_an_edit_reruns_what_depends_on_it(root, finished, tmp_path, change, reruns, keeps):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(change))
    tiny = str(root / "tests/tiny.yaml")
    found = jobs(dry_run(finished, finished, "--cores", "2", "--configfile", tiny, str(overlay)))
    assert {name: found.get(name) for name in reruns} == reruns
    assert not keeps & set(found)


def test_another_folder_gives_the_same_bytes(root, results, tmp_path):
    run(root, tmp_path)
    for name in SAME_BYTES:
        assert (results / name).read_bytes() == (tmp_path / "results/tiny" / name).read_bytes(), name


def test_shards_give_the_same_bytes(finished, tmp_path):
    folder, overlay = tmp_path / "run", tmp_path / "overlay.yaml"
    shutil.copytree(finished, folder)
    root = folder
    overlay.write_text(yaml.safe_dump({"scatter": {"generation": 3, "judging": 2}}))
    overlays, own = [root / "tests/tiny.yaml", overlay], "results/tiny/glassbox/xrec/seed1"
    target = f"{own}/metrics/llamascore/summary.json"
    run(root, folder, target, overlays=overlays)
    for name in ("generation/explanations.parquet", "metrics/llamascore/scores.parquet"):
        assert (folder / own / name).read_bytes() == (finished / own / name).read_bytes(), name
    assert (folder / target).read_bytes() == (finished / target).read_bytes()
    made = read_json(folder / own / "generation/provenance.json")
    parts = [read_json(folder / part) for part in made["result"]["parts"]]
    assert [part["rule"] for part in parts] == ["generate_shard"] * 3
    assert sum(part["result"]["explanations"] for part in parts) == made["result"]["explanations"]
    whole = read_json(finished / own / "generation/provenance.json")
    assert made["settings"] == whole["settings"]
    assert set(whole["inputs"]) < set(made["inputs"])
    # Another count makes them anew, unless times of files alone decide.
    tiny = ["--cores", "2", "--configfile", str(root / "tests/tiny.yaml")]
    assert jobs(dry_run(root, folder, *tiny, "--", target))["generate_explanations"] == 1
    assert "Nothing to be done" in dry_run(root, folder, *tiny, "--rerun-triggers", "mtime", "--", target).stdout


def test_losses_of_a_run_are_those_of_its_models(root, finished, results, tmp_path, monkeypatch):
    (tmp_path / "glassbox").symlink_to(results / "glassbox")
    monkeypatch.chdir(finished)
    found = load_script(root / "docs/real_run.py").measured_losses(tmp_path)
    losses = {(one["experiment"], one["vectors"], one["profiles"]): one["losses"] for one in found}
    assert set(losses) == {
        *(("no_embeddings", "none", shown) for shown in (True, False)),
        *(("xrec", kind, True) for kind in ("own", "others")),
        *(("no_profile", kind, False) for kind in ("own", "others")),
        ("fixed_moe", "own", True),
    }
    texts = pq.read_table(results / "glassbox/xrec/seed1/generation/explanations.parquet").num_rows
    assert np.isfinite(np.array(list(losses.values()))).all() and {len(one) for one in losses.values()} == {texts}
    assert len({tuple(one) for one in losses.values()}) == len(losses)


def test_explain_prints_texts_profiles_and_true_reasons(finished, results, capsys, monkeypatch):
    monkeypatch.chdir(finished)
    row = pq.read_table(results / "glassbox/xrec/seed1/generation/explanations.parquet").to_pylist()[0]
    options = ["explain", "--run", "tiny", "--dataset", "glassbox", "--device", "cpu"]
    assert main([*options, "--user", row["user_id"], "--item", row["item_id"]]) == 0
    printed = capsys.readouterr().out
    assert f"explanation (xrec, seed1; from the run's test split): {row['prediction']}" in printed
    assert f"reference: {row['reference']}" in printed
    assert "user profile: " in printed
    assert "true reasons: " in printed and "of them named by the reference: " in printed
    seen = pq.read_table(results / "glassbox/xrec/seed1/generation/explanations.parquet")["user_id"].to_pylist()
    other = next(user for user in seen if user != row["user_id"])
    assert main([*options, "--user", other, "--item", row["item_id"]]) == 0
    assert "explanation (no_profile, seed1; generated now): " in capsys.readouterr().out
    assert main([*options, "--user", "nobody", "--item", row["item_id"]]) == 1
    assert "user 'nobody' is not in the k-core" in capsys.readouterr().err


def test_explain_finds_the_models_from_any_folder(finished, results, capsys, monkeypatch, tmp_path):
    pairs = pq.read_table(results / "glassbox/shared/split/texts.parquet").to_pylist()
    pair = next(pair for pair in pairs if pair["split"] == "train")
    options = ["explain", "--dataset", "glassbox", "--user", pair["user_id"], "--item", pair["item_id"]]
    monkeypatch.chdir(finished)
    assert main([*options, "--run", "tiny", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("; generated now): ") == 4
    monkeypatch.chdir(tmp_path)
    assert main([*options, "--run", "tiny", "--device", "cpu", "--results", str(finished / "results")]) == 0
    assert capsys.readouterr().out == printed
    shutil.copytree(results, tmp_path / "kept/renamed")
    assert main([*options, "--run", "renamed", "--device", "cpu", "--results", "kept"]) == 0
    assert capsys.readouterr().out == printed
    shutil.rmtree(tmp_path / "kept/renamed/glassbox/shared/llm/model")
    assert main([*options, "--run", "renamed", "--device", "cpu", "--results", "kept"]) == 1
    assert "shared/llm/model: the run's explanations were made with it and it is gone" in capsys.readouterr().err
