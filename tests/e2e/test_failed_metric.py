"""A run in which metrics fail: all else is made, the run ends with an error, and the next one scores them anew."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.chat_server import ChatServer, Fault
from tests.dag.edits import due_rules
from xrec_repro.config import merge
from xrec_repro.io import read_json
from xrec_repro.scores import read_scores

EXPERIMENTS = ["glassbox/xrec", "glassbox/no_profile"]
FAITH = [f"faithfulness_{part}" for part in ("p", "r", "f1")]
AWAY = "http://127.0.0.1:9/v1"  # nobody listens there


def overlay(url: str, **metrics) -> dict:
    chosen = {"use": ["gptscore", "bertscore", "usr", "faithfulness"]} | metrics
    server = {"base_url": url, "revision": "served", "request_attempts": 1, "concurrency": 1, "cache": None}
    return {"run": {"experiments": EXPERIMENTS}, "metrics": chosen | {"gptscore": server}}


def snakemake(folder: Path, config: dict, *options: str) -> tuple[int, str]:
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(config))
    binaries = Path(sys.executable).parent
    command = [str(binaries / "snakemake"), "--directory", str(folder), "--cores", "2", "--configfile", str(path)]
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, *options, "--", "all"], cwd=folder, capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory) -> Path:
    return shutil.copytree(finished, tmp_path_factory.mktemp("failed") / "run")


@pytest.fixture(scope="module")
def tiny(root) -> dict:
    return yaml.safe_load((root / "tests/tiny.yaml").read_text())


def test_metrics_that_fail_leave_their_reason_and_are_scored_when_the_cause_is_mended(folder, tiny):
    results = folder / "results/tiny"
    config = merge(tiny, overlay(AWAY, bertscore={"layer": 99}))
    before = {path: path.stat().st_mtime_ns for path in results.glob("paper/*.md")}
    code, printed = snakemake(folder, config)
    assert code != 0
    assert "gptscore has no scores of glassbox/xrec/seed1, glassbox/no_profile/seed1" in printed
    assert "bertscore has no scores" in printed
    assert "Error in rule check_metrics" in printed and printed.count("Error in rule") == 1
    assert not (results / "paper/metrics.provenance.json").exists()
    made = [*results.glob("paper/*.md"), *results.glob("paper/*/*.*"), results / "paper/browse.html"]
    assert all(path.stat().st_mtime_ns > max(before.values()) for path in made)
    table = pd.read_csv(results / "paper/tables/table2.csv").query("kind == 'demo'")
    assert table["usr"].notna().all() and table[["gptscore", "bertscore_f1"]].isna().all(axis=None)
    assert table["gptscore_failed"].str.contains("127.0.0.1:9").all()
    text = (results / "paper/tables/table2.md").read_text()
    assert "| GPT ↑ |" in text and "–§" in text and "§ No scores by bertscore of XRec on Glassbox" in text
    summary = read_json(results / "glassbox/xrec/seed1/metrics/summary.json")
    assert list(summary) == ["gptscore", "bertscore", "usr", *FAITH] and "failed" in summary["gptscore"]
    assert list(read_scores(results / "glassbox/xrec/seed1/metrics/scores.parquet")) == ["usr", *FAITH]

    code, printed = snakemake(folder, config, "--dry-run")
    assert code == 0
    due = {"score_gptscore", "score_by_models", "score_explanations", "check_metrics"}
    assert due <= due_rules(printed)

    with ChatServer([Fault("content", text="70")] * 1000) as server:  # the address alone makes nothing due
        code, printed = snakemake(folder, merge(tiny, overlay(server.url)))
    assert code == 0, printed
    table = pd.read_csv(results / "paper/tables/table2.csv").query("kind == 'demo'")
    assert table["gptscore"].tolist() == [70.0, 70.0] and table["bertscore_f1"].notna().all()
    assert "§" not in (results / "paper/tables/table2.md").read_text()
    assert "Nothing to be done" in snakemake(folder, merge(tiny, overlay(AWAY)))[1]
