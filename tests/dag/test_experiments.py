"""Experiments are data: what an entry of the configuration adds to the graph, and what it leaves alone."""

from pathlib import Path

import pytest
import yaml

from tests.dag.test_dry_runs import dry_run, jobs


def planned(root: Path, folder: Path, config: dict) -> dict[str, int]:
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(config | {"run": {"seeds": [1]} | config.get("run", {})}))
    return jobs(dry_run(root, folder, "--cores", "2", "--configfile", str(overlay)))


def test_without_embeddings_nothing_is_tuned_and_no_recommender_trained(root, tmp_path):
    found = planned(root, tmp_path, {"run": {"experiments": ["glassbox/no_embeddings"]}})
    assert found["generate_explanations"] == 1
    assert not {"train_method", "train_recommender", "plot_figure3", "plot_embeddings"} & set(found)


def test_fixed_inputs_need_no_recommender(root, tmp_path):
    found = planned(root, tmp_path, {"run": {"experiments": ["glassbox/fixed_moe"]}})
    assert found["train_method"] == 1
    assert "train_recommender" not in found


def test_a_recommender_is_trained_once_for_all_experiments_that_name_it(root, tmp_path):
    config = {
        "run": {"experiments": [f"glassbox/{name}" for name in ("xrec", "no_profile", "pairs", "narrow", "rows")]},
        "recommenders": {"narrow": {"like": "lightgcn", "dim": 16}},
        "experiments": {
            "pairs": {"overrides": {"embeddings": {"of": "bprmf"}}},
            "narrow": {"overrides": {"embeddings": {"of": "narrow"}}},
            "rows": {"overrides": {"embeddings": {"of": "narrow", "as": "shuffled"}}},
        },
    }
    found = planned(root, tmp_path, config)
    assert (found["train_recommender"], found["train_method"]) == (3, 5)


def test_without_profiles_the_profile_backend_is_not_asked(root, tmp_path):
    """With a ready language model; the demo's own is pretrained on texts with profiles."""
    local = {"llm": {"source": "local", "path": "models/some-llama"}}
    (tmp_path / "models/some-llama").mkdir(parents=True)
    for experiment, wanted in (("no_profile", False), ("xrec", True)):
        found = planned(root, tmp_path, {"run": {"experiments": [f"glassbox/{experiment}"]}, "defaults": local})
        assert ("generate_profiles" in found) is wanted
        assert "pretrain_lm" not in found


def test_a_seventh_experiment_is_an_entry_that_adds_its_own_jobs(root, tmp_path):
    six = planned(root, tmp_path, {})
    pairs = yaml.safe_load((root / "config/config.yaml").read_text())["run"]["experiments"]
    entry = {"label": "Four experts", "published_model": None, "overrides": {"adapter": {"experts": 4}}}
    config = {"run": {"experiments": [*pairs, "glassbox/four"]}, "experiments": {"four": entry}}
    seven = planned(root, tmp_path, config)
    added = {name: count - six.get(name, 0) for name, count in seven.items() if count != six.get(name)}
    scores = ("score_by_models", "score_explanations")
    assert added == dict.fromkeys(("train_method", "generate_explanations", *scores), 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"injection": {"fom": "none"}}, "injection.fom: unknown key (did you mean 'form'?)"),
        ({"injection": {"form": "nowhere"}}, "injection.form: 'nowhere' is not one of"),
        ({"kcore": {"k_user": 8}}, "kcore: shared by all experiments"),
        (
            {"recommenders": {"lightgcn": {"dim": 8}}},
            "recommenders: shared by all experiments of a data set; add",
        ),
        ({"embeddings": {"as": "frozen"}}, "embeddings.as: 'frozen' is not one of trained, shuffled, fixed, none"),
    ],
)
def test_a_mistake_in_an_override_names_experiment_and_key(root, tmp_path, overrides, message):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"experiments": {"xrec": {"overrides": overrides}}}))
    done = dry_run(root, tmp_path, "--cores", "1", "--configfile", str(overlay), check=False)
    assert done.returncode == 1
    assert f"experiments.xrec.overrides.{message}" in done.stdout + done.stderr


def test_overlays_add_experiments_to_those_of_the_files_before(root, tmp_path):
    """As Snakemake merges them, with which a mapping replaces a list."""
    overlays = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    overlays[0].write_text("run: {experiments: {add: [glassbox/eq12]}}\nexperiments: {eq12: {}, other: {}}\n")
    overlays[1].write_text("run: {experiments: {add: [glassbox/other]}}\n")
    listed = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", str(root / "tests/tiny.yaml")))
    paths = [str(root / "tests/tiny.yaml"), *map(str, overlays)]
    added = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", *paths))
    assert added["generate_explanations"] == listed["generate_explanations"] + 2
    config = ["--config", "run={experiments: [glassbox/xrec]}"]
    given = jobs(dry_run(root, tmp_path, "--cores", "2", "--configfile", *paths, *config))
    assert given["generate_explanations"] == 1
