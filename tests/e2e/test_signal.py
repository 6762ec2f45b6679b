"""Does the collaborative signal reach the text? Ten minutes of training: run with `make test-slow`."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import permutation_test

from tests.e2e.test_tiny import run
from xrec_repro.io import read_json

SEEDS = (1, 2, 3)
EXPERIMENTS = ("xrec", "shuffled", "fixed_moe", "no_embeddings")


@pytest.fixture(scope="module")
def results(root, tmp_path_factory):
    """The demo's world and settings, three seeds: adapters of all, explanations and their faithfulness of three."""
    folder = tmp_path_factory.mktemp("signal")
    config = {
        "run": {"name": "signal", "seeds": list(SEEDS), "experiments": [f"glassbox/{name}" for name in EXPERIMENTS]},
        "metrics": {"use": ["faithfulness"]},
        "experiments": {
            "shuffled": {
                "label": "XRec, shuffled embeddings",
                "published_model": None,
                "overrides": {"embeddings": {"as": "shuffled"}},
            }
        },
    }
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(config))
    place = "results/signal/glassbox"
    targets = [f"{place}/shuffled/seed{seed}/method/method.json" for seed in SEEDS]
    scored = [name for name in EXPERIMENTS if name != "shuffled"]
    targets += [f"{place}/{name}/seed{seed}/metrics/scores.parquet" for name in scored for seed in SEEDS]
    run(root, folder, *targets, overlays=[overlay])
    return folder / place


@pytest.mark.slow
def test_real_embeddings_beat_shuffled_ones_on_held_out_loss(results):
    """Validation loss of the explanations, by pairs of the same seed."""
    losses = {
        name: [
            read_json(results / name / f"seed{seed}/method/provenance.json")["result"]["validation_loss"]
            for seed in SEEDS
        ]
        for name in ("xrec", "shuffled")
    }
    print(json.dumps(losses))
    assert all(real < control for real, control in zip(losses["xrec"], losses["shuffled"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("control", ["no_embeddings", "fixed_moe"])
def test_xrec_names_more_true_reasons_than_without_collaborative_embeddings(results, control):
    """Faithfulness F1 of each example, averaged over the seeds; paired sign flips, one-sided."""
    scores = {}
    for name in ("xrec", control):
        files = [pq.read_table(results / name / f"seed{s}/metrics/scores.parquet") for s in SEEDS]
        assert len({tuple(file["example_id"].to_pylist()) for file in files}) == 1
        scores[name] = sum(file["faithfulness_f1"].to_numpy() for file in files) / len(SEEDS)
    difference = scores["xrec"] - scores[control]
    test = permutation_test(
        (difference,), lambda x: x.mean(), permutation_type="samples", alternative="greater", n_resamples=9999, rng=0
    )
    means = {name: float(values.mean()) for name, values in scores.items()}
    print(json.dumps(means | {"n": len(difference), "p": test.pvalue}))
    assert test.pvalue < 0.01
