"""Does the collaborative signal reach the text, in every seed and under every kernel? Run with `make test-slow`."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import permutation_test

from tests.conftest import run
from xrec_repro.io import read_json

SEEDS = (1, 2, 3)
SCORED = ("xrec", "fixed_moe", "no_embeddings")
# Environment and threads: other kernels, of torch and of MKL, round otherwise, which training amplifies.
KERNELS = {
    "scalar": ({"ATEN_CPU_CAPABILITY": "default"}, 1),
    "avx2": ({"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}, 1),
    "sse4_2": ({"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, 1),
    "two threads": ({}, 2),
}
PLACE = "results/signal/glassbox"


def _overlay(folder, seeds, threads=1):
    config = {
        "run": {
            "name": "signal",
            "seeds": seeds,
            "experiments": [f"glassbox/{name}" for name in (*SCORED, "shuffled")],
        },
        "metrics": {"use": ["faithfulness"]},
        "compute": {"threads": threads},
    }
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _scored(seeds):
    return [f"{PLACE}/{name}/seed{seed}/metrics/scores.parquet" for name in SCORED for seed in seeds]


def _f1(place, name, seed):
    file = place / name / f"seed{seed}/metrics/scores.parquet"
    return pq.read_table(file)["faithfulness_f1"].to_numpy()


@pytest.fixture(scope="module")
def results(root, tmp_path_factory):
    """The demo's world and settings, three seeds: adapters of all, explanations and their faithfulness of three."""
    folder = tmp_path_factory.mktemp("signal")
    tuned = [f"{PLACE}/shuffled/seed{seed}/method/method.json" for seed in SEEDS]
    run(root, folder, *tuned, *_scored(SEEDS), overlays=[_overlay(folder, list(SEEDS))])
    return folder / PLACE


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
    """Faithfulness F1 in every seed; paired sign flips of each, one-sided."""
    for seed in SEEDS:
        ours, theirs = (_f1(results, name, seed) for name in ("xrec", control))
        flips = {"permutation_type": "samples", "alternative": "greater", "n_resamples": 9999, "rng": 0}
        test = permutation_test((ours - theirs,), lambda x: x.mean(), **flips)
        print(json.dumps({"seed": seed, "xrec": ours.mean(), control: theirs.mean(), "n": len(ours), "p": test.pvalue}))
        assert test.pvalue < 0.001


@pytest.mark.slow
def test_other_kernels_give_the_same_order(root, results, tmp_path_factory, monkeypatch):
    """Recommender, tuning and generation on one language model; all that stands before them is copied."""
    for kernel, (environment, threads) in KERNELS.items():
        folder = tmp_path_factory.mktemp("kernel")
        shutil.copytree(results / "shared", folder / PLACE / "shared", ignore=shutil.ignore_patterns("recommender"))
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            run(root, folder, *_scored([1]), overlays=[_overlay(folder, [1], threads)])
        means = {name: _f1(folder / PLACE, name, 1).mean() for name in SCORED}
        print(json.dumps({"kernels": kernel, **means}))
        assert means["xrec"] > max(means["no_embeddings"], means["fixed_moe"])
