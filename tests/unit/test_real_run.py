"""The command docs/real_run.py: its pages say what resources/measured says, and losses have intervals over users."""

import json

import numpy as np
import pytest

from tests.conftest import load_script
from xrec_repro.config import load_config
from xrec_repro.statistic_settings import Settings


@pytest.fixture(scope="module")
def real_run(root):
    """The command as a module."""
    return load_script(root / "docs/real_run.py")


def test_each_page_is_made_from_its_measured_files(real_run, root):
    measured = [run for run in real_run.PAGES if (real_run.MEASURED / run).is_dir()]
    assert "xrec-small" in measured
    for run in measured:
        name, _ = real_run.PAGES[run]
        assert (root / "docs" / name).read_text(encoding="utf-8") == real_run.page(real_run.MEASURED / run)


@pytest.fixture(scope="module")
def settings(root):
    """The default statistics."""
    return Settings.from_settings(load_config(root / "config/config.yaml")["statistics"])


def test_a_change_has_the_interval_of_its_users(real_run, settings):
    before, after = [[2.0] * 40], [[1.0 + (user % 2) for user in range(10) for _ in range(4)]]
    users = np.repeat(np.arange(10), 4)
    alone = real_run._change(after, before, np.arange(40), settings)
    found = real_run._change(after, before, users, settings)
    assert (found["n"], found["before"], found["after"], found["change"]) == (40, 2.0, 1.5, -0.5)
    assert found["high"] - found["low"] > 1.5 * (alone["high"] - alone["low"])
    assert "seeds" not in found


def test_a_change_over_seeds_has_the_interval_of_its_trainings(real_run, settings):
    before, drift = np.full((3, 40), 2.0), np.array([[-0.4], [-0.5], [-0.6]])
    after = before + drift + np.linspace(-0.01, 0.01, 40)
    found = real_run._change(after, before, np.arange(40), settings)
    assert found["seeds"] == "-0.4000, -0.5000, -0.6000"
    assert found["change"] == -0.5
    half = 4.302653 * 0.1 / np.sqrt(3)  # t of 2 degrees of freedom
    assert (found["low"], found["high"]) == pytest.approx((-0.5 - half, -0.5 + half), abs=1e-4)


def test_losses_are_kept_until_what_they_were_computed_of_changes(real_run, tmp_path, monkeypatch):
    run, asked = tmp_path / "run", []
    (run / "books/shared").mkdir(parents=True)

    def written(experiment, seed, weights):
        inputs = {"examples": {"sha256": "e"}} | ({"weights": {"sha256": weights}} if weights else {})
        settings = {"embeddings": "trained", "profiles_shown": True}
        path = run / f"books/{experiment}/seed{seed}/generation/provenance.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"seed": seed, "inputs": inputs, "settings": settings}))

    def compute(_, of):
        asked.append((of["experiment"], of["seed"], of["vectors"], of["profiles"]))
        return {"device": "d", "users": [1], "losses": [float(len(asked))]}

    monkeypatch.setattr(real_run, "_losses", compute)
    written("xrec", 1, "a")
    written("xrec", 2, "b")
    written("no_embeddings", 1, None)
    written("authors", 1, None)
    first = real_run.measured_losses(run)
    bare = [("no_embeddings", 1, "none", shown) for shown in (True, False)]
    assert asked == bare + [("xrec", seed, kind, True) for seed in (1, 2) for kind in ("own", "others")]
    assert real_run.measured_losses(run) == first
    assert len(asked) == 6
    written("xrec", 2, "c")
    again = real_run.measured_losses(run)
    assert asked[6:] == [("xrec", 2, "own", True), ("xrec", 2, "others", True)]
    assert again[:4] == first[:4]


def test_a_run_without_a_page_is_refused(real_run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["real_run.py", "results/mine"])
    with pytest.raises(SystemExit):
        real_run.main()
    assert "results/mine: has no page; those that have: xrec-small, xrec-smollm" in capsys.readouterr().err
