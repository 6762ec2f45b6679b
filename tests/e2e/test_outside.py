"""What is added from outside the package, by the pages that say how: no file of the project is touched."""

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import run
from tests.dag.test_docs import blocks
from xrec_repro.cli import main
from xrec_repro.contracts import EXAMPLES, EXPLANATIONS
from xrec_repro.io import read_json, read_table

TINY = "tests/tiny.yaml"


@pytest.fixture(scope="module")
def outside(root, finished, tmp_path_factory) -> Path:
    """A folder with the page's module and entries, and the tiny run gone on with them."""
    folder = tmp_path_factory.mktemp("outside")
    for name in ("results", ".snakemake"):  # with what Snakemake remembers of the parameters
        shutil.copytree(finished / name, folder / name)
    page = list(blocks(root / "docs/add-a-method.md"))
    (folder / "nearest.py").write_text(next(text for language, text in page if language == "python"))
    first, second = (yaml.safe_load(text) for language, text in page if language == "yaml")
    second["methods"]["theirs"]["file"] = str(folder / "theirs.jsonl")
    explained = read_table(folder / "results/tiny/glassbox/xrec/seed1/generation/explanations.parquet", EXPLANATIONS)
    rows = pd.DataFrame(explained.to_pylist())[["example_id", "reference"]].rename(columns={"reference": "prediction"})
    rows.to_json(folder / "theirs.jsonl", orient="records", lines=True)
    listed = yaml.safe_load((root / TINY).read_text())["run"]["experiments"]
    added = [f"glassbox/{name}" for name in ("nearest", "nearest_user", "theirs")]
    first["run"]["experiments"] = [*listed, *added]
    for name, content in (("first", first), ("second", second)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    run(root, folder, overlays=[root / TINY, folder / "first.yaml", folder / "second.yaml"])
    return folder / "results/tiny"


def test_its_texts_are_those_of_the_page(outside):
    place = outside / "glassbox"
    for name in ("nearest", "nearest_user"):
        rows = read_table(place / name / "seed1/generation/explanations.parquet", EXPLANATIONS).to_pylist()
        kept = read_json(place / name / "seed1/method/method.json")["rows"]
        by = {name_of: text for item, user, text in reversed(kept) for name_of in [user if "user" in name else item]}
        found = [row["user_id" if "user" in name else "item_id"] for row in rows]
        assert sum(key in by for key in found) > 3
        assert all(row["prediction"] == by[key] for row, key in zip(rows, found, strict=True) if key in by)
    assert read_json(place / "nearest_user/seed1/method/provenance.json")["settings"]["method"]["prefer"] == "user"


@pytest.mark.parametrize("label", ["Nearest explanation", "Nearest explanation of the user", "Another system"])
def test_it_stands_in_tables_statistics_and_the_page(outside, label):
    tables = ("tables/table2.md",) if label == "Another system" else ("tables/table1.md", "tables/table2.md")
    for file in (*tables, "statistics/statistics.md", "browse.html", "examples.md"):
        assert label in (outside / "paper" / file).read_text(encoding="utf-8"), file


def test_a_claim_about_it_is_judged(outside):
    judged = (outside / "paper/claims.md").read_text(encoding="utf-8")
    assert "Better than copies" in judged and "Nearest explanation" in judged


def test_explain_leaves_out_what_has_texts_of_the_test_split_alone(outside, monkeypatch, capsys):
    monkeypatch.chdir(outside.parents[1])
    monkeypatch.setattr("sys.path", sys.path[:])
    rows = read_table(outside / "glassbox/shared/examples/examples.parquet", EXAMPLES).to_pylist()
    asked = next(row for row in rows if row["split"] == "train")
    place = ["--results", str(outside.parent), "--run", "tiny", "--dataset", "glassbox"]
    assert main(["explain", *place, "--user", asked["user_id"], "--item", asked["item_id"]]) == 0
    printed = capsys.readouterr().out
    assert "explanation (nearest, seed1; generated now)" in printed
    assert "explanation (xrec, seed1; generated now)" in printed
    assert "theirs" not in printed


def test_the_references_as_predictions_are_as_good_as_can_be(outside):
    summary = read_json(outside / "glassbox/theirs/seed1/metrics/summary.json")
    assert summary["bertscore_f1"]["mean"] == pytest.approx(1, abs=1e-4)
    assert not (outside / "glassbox/theirs/seed1/method").exists()
