"""Does the collaborative signal reach the text? Minutes of training: run with `make test-slow`."""

import json

import pytest
import yaml

from tests.e2e.test_tiny import run
from xrec_repro.io import read_json

SEEDS = (1, 2, 3)


@pytest.mark.slow
def test_real_embeddings_beat_shuffled_ones_on_held_out_loss(root, tmp_path):
    """The demo's world and settings; validation loss of the explanations, by pairs of the same seed."""
    overlay = tmp_path / "overlay.yaml"
    shuffled = {"label": "XRec, shuffled embeddings", "overrides": {"embeddings": "shuffled"}}
    config = {
        "run": {"name": "signal", "seeds": list(SEEDS), "experiments": ["glassbox/xrec", "glassbox/shuffled"]},
        "experiments": {"shuffled": shuffled},
    }
    overlay.write_text(yaml.safe_dump(config))
    folder = "results/signal/glassbox"
    targets = [f"{folder}/{e}/seed{s}/adapter/adapter.json" for e in ("xrec", "shuffled") for s in SEEDS]
    run(root, tmp_path, *targets, overlays=[overlay])
    losses = {
        experiment: [
            read_json(tmp_path / folder / experiment / f"seed{seed}/adapter/provenance.json")["result"][
                "validation_loss"
            ]
            for seed in SEEDS
        ]
        for experiment in ("xrec", "shuffled")
    }
    print(json.dumps(losses))
    assert all(real < control for real, control in zip(losses["xrec"], losses["shuffled"], strict=True))
