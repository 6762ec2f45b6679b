"""A recommender from outside the package, as the page says: planned by the workflow, trained by the library."""

import os
import re
import sys

import numpy as np
import pytest
import torch
import yaml

from tests.dag.test_docs import ROOT, blocks
from tests.dag.test_dry_runs import dry_run, jobs
from xrec_repro.contracts import GRAPH
from xrec_repro.embedding_file import load_embeddings
from xrec_repro.errors import DataError
from xrec_repro.io import read_json, write_table
from xrec_repro.recommenders.base import Run
from xrec_repro.recommenders.train import train_recommender

PAGE = dict(blocks(ROOT / "docs/add-a-recommender.md"))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The page's folder, with its module and its overlay."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "svd.py").write_text(PAGE["python"])
    (folder / "svd.yaml").write_text(PAGE["yaml"])
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("svd", None)


def test_the_page_s_module_is_short():
    assert len(PAGE["python"].splitlines()) < 60


def test_the_workflow_plans_it(data, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{data}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = dry_run(ROOT, data.parent, "--cores", "2", "--configfile", str(data / "svd.yaml"), "--", "all")
    assert jobs(done)["train_recommender"] == 2 * 3, "of three seeds"
    inputs = re.findall(r"^rule train_method:\n    input: (.*)\n    output: (.*)$", done.stdout, flags=re.MULTILINE)
    named = {made.split("/")[3]: "shared/recommender/svd/seed" in read for read, made in inputs}
    assert named == {"xrec": False, "xrec_svd": True}


def test_the_library_trains_it(data, tmp_path):
    matrix = np.random.default_rng(0).random((30, 20)) < 0.3
    matrix[:, 0] = matrix[0, :] = True
    rows = [{"user": int(u), "item": int(i), "split": "train"} for u, i in np.argwhere(matrix)]
    rows += [{"user": 0, "item": i, "split": split} for i, split in ((1, "val"), (2, "test"))]
    write_table(tmp_path / "graph.parquet", rows, GRAPH)
    entry = yaml.safe_load(PAGE["yaml"])["recommenders"]["svd"]
    outputs = tmp_path / "embeddings.safetensors", tmp_path / "metrics.json"
    train_recommender(tmp_path / "graph.parquet", entry, Run(name="svd", seed=1), *outputs)
    users, items = load_embeddings(outputs[0])
    left, values, right = np.linalg.svd(matrix.astype(float))
    best = (left[:, :16] * values[:16]) @ right[:16]
    torch.testing.assert_close((users @ items.T).double(), torch.from_numpy(best), atol=1e-4, rtol=0)
    metrics = read_json(outputs[1])
    assert sorted(metrics["singular_values"], reverse=True) == pytest.approx(values[:16])
    assert metrics["test"]["ranking"]["protocol"] == "leave_one_out"
    with pytest.raises(DataError, match=r"recommenders\.svd\.dim is 20; it must be below 20"):
        train_recommender(tmp_path / "graph.parquet", entry | {"dim": 20}, Run(name="svd", seed=1), *outputs)
