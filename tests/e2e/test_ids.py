"""The baselines that explain from ids, in the small world: from training to the verdict on claim 1."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import run
from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.io import read_json, read_table

TINY = "tests/tiny.yaml"
NAMES = ("att2seq", "nrt", "peter", "peter_plus")
OVERLAY = {
    "run": {"experiments": [f"glassbox/{name}" for name in ("xrec", *NAMES)]},
    "experiments": {name: {"per_dataset": {"glassbox": {"epochs": 2}}} for name in NAMES},
    "metrics": {"use": ["usr", "faithfulness", "rmse"]},
    "paper": {"tables": {"table1": ["xrec", *NAMES]}},
    "claims": {"min_examples": 1, "rules": {"claim1": {"metrics": ["faithfulness_f1"]}}},
}


@pytest.fixture(scope="module")
def baselines(root, finished, tmp_path_factory) -> Path:
    """The tiny run gone on with them."""
    folder = tmp_path_factory.mktemp("ids")
    for name in ("results", ".snakemake"):  # with what Snakemake remembers of the parameters
        shutil.copytree(finished / name, folder / name)
    (folder / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY))
    run(root, folder, overlays=[root / TINY, folder / "overlay.yaml"])
    return folder / "results/tiny"


@pytest.mark.parametrize("name", NAMES)
def test_each_explains_and_says_what_it_has_not_seen(baselines, name):
    place = baselines / f"glassbox/{name}/seed1"
    rows = read_table(place / "generation/explanations.parquet", EXPLANATIONS).to_pylist()
    assert len(rows) > 50 and all(row["prediction"] for row in rows)
    assert all((row["rating"] is None) == (name == "att2seq") for row in rows)
    told = read_json(place / "generation/provenance.json")["result"]
    assert told["unseen_user"] > 0 and {*told["unseen"]} < {row["example_id"] for row in rows}
    trained = read_json(place / "method/provenance.json")["result"]
    assert trained["epochs"] == 2 and trained["val_loss"] > 0 and trained["ratings"] is (name != "att2seq")
    assert trained.get("given") == ("item_profile" if name == "peter_plus" else None)


def test_table_1_and_claim_1_are_of_this_run(baselines):
    rows = pd.read_csv(baselines / "paper/tables/table1.csv")
    measured = set(rows.loc[rows["source"].str.startswith("this run"), "model"])
    assert measured == {"XRec", "Att2Seq", "NRT", "PETER", "PETER+"}
    claims = read_json(baselines / "paper/claims.json")["claims"]
    claim = next(one for one in claims if one["claim"] == "claim1")
    tested = [one for one in claim["comparisons"] if (one["source"], one["basis"]) == ("run", "paired test")]
    assert {one["other"] for one in tested} == {"Att2Seq", "NRT", "PETER"}
    told = claim["verdicts"]["run"]
    assert told["verdict"] != "not testable" and told["gaps"]["Glassbox: no published row of PEPLER"] == 1
