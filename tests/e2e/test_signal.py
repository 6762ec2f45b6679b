"""Does the collaborative signal reach the text, in every seed and under every kernel? Run with `make test-slow`.

The runs are those of `python docs/kernels.py`, in results/kernels of this checkout: what is finished stays.
"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import permutation_test, sem

from tests.conftest import load_script, run
from xrec_repro.examples import load_examples
from xrec_repro.explainer.tuning import held_out_losses
from xrec_repro.io import read_json
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import load_fitted, make_method

pytestmark = pytest.mark.slow
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def kernels(root):
    """The command docs/kernels.py as a module."""
    return load_script(root / "docs/kernels.py")


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


def validation_losses(experiment, seed) -> np.ndarray:
    """Compute the loss of each validation text with the adapters of an experiment's training."""
    record = read_json(experiment / f"seed{seed}/method/provenance.json")
    work, settings = experiment.parents[3], record["settings"]
    inputs = {name: work / entry["path"] for name, entry in record["inputs"].items()}
    told = Run(seed=seed, device="cpu", domain=settings["domain"], sections=settings, inputs=inputs)
    method = make_method(settings["method"], "write", told)
    method.load(load_fitted(experiment / f"seed{seed}/method"))
    examples = [one for one in load_examples(inputs["examples"], settings["profiles_shown"]) if one.split == "val"]
    found = np.array(held_out_losses(method.explainer, examples, settings["tuning"]["batch_size"]))
    assert found.mean() == pytest.approx(record["result"]["validation_loss"], abs=1e-4), (
        "not the adapters that were saved"
    )
    return found


def test_real_embeddings_beat_shuffled_ones_on_held_out_loss(root, kernels, native):
    """By at least five standard errors of the mean difference, in every seed."""
    work = native.parents[2]
    overlay = work / "shuffled.yaml"
    overlay.write_text(yaml.safe_dump({"run": {"experiments": {"add": ["glassbox/shuffled"]}}}))
    targets = [f"results/demo/glassbox/shuffled/seed{seed}/method/method.json" for seed in SEEDS]
    run(root, work, *targets, overlays=[root / "config/kernels.yaml", work / "threads.yaml", overlay])
    for seed in SEEDS:
        gain = validation_losses(native / "shuffled", seed) - validation_losses(native / "xrec", seed)
        print(
            json.dumps({"seed": seed, "n": len(gain), "gain": gain.mean(), "standard errors": gain.mean() / sem(gain)})
        )
        assert gain.mean() > 5 * sem(gain)


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
