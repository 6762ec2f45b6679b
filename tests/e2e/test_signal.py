"""Does the collaborative signal reach the text, in every seed and under every kernel? Run with `make test-slow`.

The runs are those of `python docs/kernels.py`, in results/kernels of this checkout: what is finished stays.
"""

import importlib.util
import json

import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import permutation_test

from tests.conftest import run
from xrec_repro.io import read_json

pytestmark = pytest.mark.slow
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def kernels(root):
    """The command docs/kernels.py as a module."""
    spec = importlib.util.spec_from_file_location("kernels", root / "docs/kernels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(kernels):
    """What each run measured and concluded."""
    found = kernels.runs()
    print(kernels.table(found))
    return {one["kernels"]: one for one in found}


@pytest.fixture(scope="module")
def native(kernels, rows):
    """The data set's folder of the run with the kernels as they are installed."""
    return kernels.place(kernels.NATIVE) / "glassbox"


def test_real_embeddings_beat_shuffled_ones_on_held_out_loss(root, rows, kernels, native):
    """Validation loss of the explanations, by pairs of the same seed."""
    folder = kernels.FOLDER / "shuffled.yaml"
    folder.write_text(yaml.safe_dump({"run": {"experiments": {"add": ["glassbox/shuffled"]}}}))
    files = [native / f"shuffled/seed{seed}/method/provenance.json" for seed in SEEDS]
    overlays = [root / "config/kernels.yaml", native.parents[2] / "threads.yaml", folder]
    targets = [str(file.relative_to(native.parents[2])) for file in files]
    run(root, native.parents[2], *targets, overlays=overlays)
    shuffled = [read_json(file)["result"]["validation_loss"] for file in files]
    real = rows[kernels.NATIVE]["loss"]
    print(json.dumps({"real": real, "shuffled": shuffled}))
    assert len(real) == len(SEEDS) and all(one < other for one, other in zip(real, shuffled, strict=True))


@pytest.mark.parametrize("control", ["no_embeddings", "fixed_moe"])
def test_xrec_names_more_true_reasons_than_without_collaborative_embeddings(native, control):
    """Faithfulness F1 in every seed; paired sign flips of each, one-sided."""
    for seed in SEEDS:
        files = [native / name / f"seed{seed}/metrics/scores.parquet" for name in ("xrec", control)]
        ours, theirs = (pq.read_table(file)["faithfulness_f1"].to_numpy() for file in files)
        flips = {"permutation_type": "samples", "alternative": "greater", "n_resamples": 9999, "rng": 0}
        test = permutation_test((ours - theirs,), lambda x: x.mean(), **flips)
        print(json.dumps({"seed": seed, "xrec": ours.mean(), control: theirs.mean(), "n": len(ours), "p": test.pvalue}))
        assert test.pvalue < 0.001


def test_other_kernels_train_other_weights_and_come_to_the_same_conclusions(rows, kernels):
    assert len({one["weights"] for one in rows.values()}) == len(rows) >= 3
    for one in rows.values():
        assert len(one["xrec"]) == len(SEEDS)
        for ours, *others in zip(one["xrec"], one["no_embeddings"], one["fixed_moe"], strict=True):
            assert ours >= 0.4 and ours > 2 * max(others), one
        assert [one[claim] for claim in kernels.CLAIMS] == [rows[kernels.NATIVE][claim] for claim in kernels.CLAIMS]
