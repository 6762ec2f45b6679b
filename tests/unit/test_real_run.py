"""The command docs/real_run.py: its pages say what resources/measured says, and losses have intervals over users."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import load_script
from xrec_repro.config import load_config
from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.errors import DataError
from xrec_repro.io import write_table
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


def losses(seeds, users, experiment="xrec"):
    """Rows of losses of several seeds, of shape ``(seeds, texts)``."""
    return [
        {"experiment": experiment, "seed": seed, "users": list(users), "losses": list(values)}
        for seed, values in enumerate(seeds, start=1)
    ]


def test_a_change_has_the_interval_of_its_users(real_run, settings):
    before, after = [[2.0] * 40], [[1.0 + (user % 2) for user in range(10) for _ in range(4)]]
    alone, of_users = (
        real_run._change(losses(after, users), losses(before, users), settings)
        for users in (range(40), np.repeat(np.arange(10), 4).tolist())
    )
    assert [of_users[key] for key in ("n", "before", "after", "change")] == [40, 2.0, 1.5, -0.5]
    assert of_users["high"] - of_users["low"] > 1.5 * (alone["high"] - alone["low"])
    assert "seeds" not in of_users


def test_a_change_over_seeds_knows_what_trainings_differ_by(real_run, settings):
    drift = np.array([[-0.4], [-0.5], [-0.6]])
    before, after = np.full((3, 40), 2.0), 2.0 + drift + np.linspace(-0.01, 0.01, 40)
    both = replace(settings, runs="both")
    found = real_run._change(losses(after, range(40)), losses(before, range(40)), both)
    assert (found["seeds"], found["change"]) == ("-0.4000, -0.5000, -0.6000", -0.5)
    half = 4.302653 * 0.1 / np.sqrt(3)  # t of 2 degrees of freedom
    assert (found["low"], found["high"]) == pytest.approx((-0.5 - half, -0.5 + half), abs=1e-4)
    fixed = real_run._change(losses(after, range(40)), losses(before, range(40)), replace(settings, runs="fixed"))
    assert fixed["p"] < 0.001 < found["p"] and fixed["high"] - fixed["low"] < half / 10


@pytest.mark.parametrize("key", ["users", "seed"])
def test_losses_of_other_texts_or_seeds_are_not_compared(real_run, settings, key):
    one, other = losses([[1.0, 2.0]], [1, 2]), losses([[1.0, 2.0]], [1, 2], "no_profile")
    other[0][key] = 7 if key == "seed" else [2, 1]
    with pytest.raises(DataError, match=f"xrec and no_profile: losses of another {key}"):
        real_run._change(one, other, settings)


def test_each_experiment_is_compared_with_the_untouched_model_others_vectors_and_its_controls(
    real_run, root, tmp_path, monkeypatch
):
    values = {("no_embeddings", "none"): 3.0, ("xrec", "own"): 2.0, ("xrec", "others"): 2.1, ("no_profile", "own"): 2.2}
    rows = []
    for (experiment, vectors), value in values.items():
        for profiles in (True, False) if vectors == "none" else (experiment == "xrec",):
            loss = losses(
                [np.linspace(0, 1, 30) + value + (vectors == "none" and not profiles)], range(30), experiment
            )[0]
            rows.append({"dataset": "books", "vectors": vectors, "profiles": profiles} | loss)
    monkeypatch.setattr(real_run, "measured_losses", lambda run: rows)
    statistics = load_config(root / "config/config.yaml")["statistics"]
    path = tmp_path / "paper/statistics/statistics.provenance.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": {"statistics": statistics}}))
    found = {(row["experiment"], row["less"]): row["change"] for row in real_run.losses(tmp_path)}
    assert found == pytest.approx(
        {
            ("xrec", "untouched"): -1.0,
            ("xrec", "others' vectors"): -0.1,
            ("xrec", "no_profile"): -0.2,
            ("no_profile", "untouched"): -1.8,
        }
    )


def test_habits_are_counted_over_all_seeds_and_texts_that_are_the_same_in_all_once(real_run, tmp_path):
    (tmp_path / "books/shared").mkdir(parents=True)
    texts = ["The user would.", "You've asked.", "Irony, within 50 words.", "I say."]
    for experiment, seed, swap in (("xrec", 1, False), ("xrec", 2, True), ("authors", 1, False), ("authors", 2, False)):
        rows = [
            {"example_id": f"e{n}", "user_id": "u", "item_id": "i", "reference": "r", "prediction": text,
             "prompt_tokens": 1, "new_tokens": 1, "finish_reason": "length" if n else "eos"}
            for n, text in enumerate(reversed(texts) if swap else texts)
        ]  # fmt: skip
        write_table(tmp_path / f"books/{experiment}/seed{seed}/generation/explanations.parquet", rows, EXPLANATIONS)
    counts = {"dataset": "books", "the_user": 1, "to_the_reader": 2, "system_message": 1, "cut_off": 3}
    own = {key: 2 * value for key, value in counts.items() if key != "dataset"}
    assert real_run.habits(tmp_path) == [
        counts | {"experiment": "authors", "texts": 4},
        {"dataset": "books", "experiment": "xrec", "texts": 8} | own,
    ]


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
    (run / "books/xrec/seed2/generation/provenance.json").unlink()
    assert real_run.measured_losses(run) == first[:4]
    written("xrec", 2, "c")
    assert real_run.measured_losses(run) == again
    assert len(asked) == 8  # what is not asked for now is kept all the same


def test_a_run_without_a_page_is_refused(real_run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["real_run.py", "results/mine"])
    with pytest.raises(SystemExit):
        real_run.main()
    assert "results/mine: has no page; those that have: xrec-small, xrec-smollm" in capsys.readouterr().err


def test_a_run_without_texts_is_said_to_be_unfinished(real_run, tmp_path, monkeypatch, capsys):
    run = tmp_path / "xrec-small"
    monkeypatch.setattr("sys.argv", ["real_run.py", str(run), "--losses"])
    assert real_run.main() == DataError.exit_code
    assert f"{run}: no experiment has written its texts; is {run} a finished run?" in capsys.readouterr().err
