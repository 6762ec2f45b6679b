import copy
import subprocess
import sys

import pytest

from xrec_repro.config import check_config, gpus_of_a_job, load_config, load_schema, merge, settings
from xrec_repro.errors import ConfigError


@pytest.fixture
def config(root):
    return load_config(root / "config/config.yaml")


@pytest.fixture
def schema(root):
    return load_schema(str(root / "workflow/schemas/config.schema.yaml"))


def changed(config, path, value):
    config = copy.deepcopy(config)
    *parents, last = path.split(".")
    place = config
    for key in parents:
        place = place[key]
    place[last] = value
    return config


def test_the_default_configuration_and_every_overlay_are_valid(root, config, schema):
    check_config(config, schema)
    overlays = [*(root / "config").glob("*.yaml"), root / "tests/tiny.yaml"]
    assert len(overlays) >= 3
    for overlay in overlays:
        check_config(load_config(root / "config/config.yaml", overlay), schema)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "experiments.no_profile.overrides.promt",
            {},
            "no_profile.overrides.promt: unknown key.*did you mean 'prompt'",
        ),
        ("experiments.xrec.overrides.tuning", {"epoch": 1}, "xrec.overrides.tuning.epoch: unknown key.*'epochs'"),
        ("experiments.xrec.overrides.kcore", {"k_user": 3}, "xrec.overrides.kcore: shared by all experiments"),
        ("run.experiments", ["glassbox/xrek"], "names 'xrek', which is not in experiments.*did you mean 'xrec'"),
        ("run.experiments", ["glasbox/xrec"], "names 'glasbox', which is not in datasets"),
        ("defaults.prompt.template", "old", "defaults.prompt.template: 'old' is not one of code, fixed"),
        ("defaults.split.ratios", [0.8, 0.1, 0.2], "glassbox/xrec: split.ratios must add up to 1, not 1.1"),
        ("defaults.tuning.epochs", 0, "defaults.tuning.epochs: 0 is less than the minimum"),
        ("defaults.llm.source", "hub", "glassbox/xrec: llm.repo must be set when llm.source is 'hub'"),
        ("defaults.profiles.backend", "published", "profiles.backend: glassbox has no published profiles"),
        ("defaults.profiles.backend", "chat", "profiles.chat.model must be set for the chat backend"),
        ("datasets.glassbox.source", "yelp", "datasets.glassbox.paths.reviews: a yelp data set needs it"),
        ("datasets.glassbox.overrides.llm.scratch.templates", ["code"], "llm.scratch.templates: add 'fixed'"),
        ("runs", {}, "runs: unknown key.*did you mean 'run'"),
        ("scatter.generation", 0, "scatter.generation: 0 is less than the minimum of 1"),
        ("scatter.judging", 2.5, "scatter.judging: 2.5 is not of type 'integer'"),
        ("scatter.scoring", 2, "scatter.scoring: unknown key"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(config, schema, path, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(changed(config, path, value), schema)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("revision", ["main", "a" * 39, "A" * 40])
def test_a_hub_model_is_pinned_to_a_commit(config, schema, revision):
    config["defaults"]["llm"] |= {"source": "hub", "repo": "some/model", "revision": revision}
    with pytest.raises(ConfigError, match=rf"llm.revision: '{revision}' does not pin 'some/model'.*40-digit commit"):
        check_config(config, schema)
    config["defaults"]["llm"]["revision"] = "a" * 40
    check_config(config, schema)


def test_a_job_asks_for_a_gpu_where_it_will_use_one(tmp_path):
    there, absent = tmp_path, tmp_path / "absent"
    asked = {
        (device, path): gpus_of_a_job({"device": device}, path)
        for device in ("auto", "cpu", "cuda")
        for path in (there, absent)
    }
    assert {case for case, gpus in asked.items() if gpus} == {("cuda", there), ("cuda", absent), ("auto", there)}


def test_a_missing_default_is_named(config, schema):
    del config["defaults"]["generation"]["top_k"]
    with pytest.raises(ConfigError, match="defaults.generation.top_k: missing"):
        check_config(config, schema)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="none.yaml: no such configuration file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="bad.yaml: not valid YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="list.yaml: a configuration is a mapping"):
        load_config(tmp_path / "list.yaml")


def test_dictionaries_merge_and_lists_replace():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 3}
    assert merge(base, {"a": {"y": [9]}, "c": 4}) == {"a": {"x": 1, "y": [9]}, "b": 3, "c": 4}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 3}


def test_settings_overlay_data_set_then_experiment(config):
    config["datasets"]["glassbox"]["overrides"] = {"tuning": {"epochs": 7}, "prompt": {"template": "fixed"}}
    config["experiments"]["no_profile"]["overrides"]["tuning"] = {"batch_size": 2}
    chosen = settings(config, "glassbox", "no_profile")
    assert chosen["tuning"]["epochs"] == 7
    assert chosen["tuning"]["batch_size"] == 2
    assert chosen["prompt"] == {"profiles": False, "template": "fixed"}
    assert settings(config, "glassbox")["prompt"]["profiles"] is True


def test_the_configuration_module_stays_light(root):
    """The Snakefile imports it in every job."""
    heavy = {"torch", "transformers", "pandas", "sklearn", "torch_geometric"}
    code = f"import sys, xrec_repro.config, xrec_repro.provenance; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "change",
    [
        {"statistics": {"reference": "xrek"}},
        {"paper": {"figure3": {"experiments": ["xrek"]}}},
        {"paper": {"tables": {"table2": ["xrec", "xrek"]}}},
        {"claims": {"systems": {"XRec": {"experiment": "xrek"}}}},
    ],
)
def test_an_unknown_experiment_in_the_paper_s_sections_is_named(config, schema, change):
    with pytest.raises(ConfigError, match=r"names 'xrek', which is not in experiments \(did you mean 'xrec'\?\)"):
        check_config(merge(config, change), schema)


def test_overrides_of_one_data_set_reach_that_one_alone(config, schema):
    more = {"experiments": {"xrec": {"per_dataset": {"glassbox": {"adapter": {"experts": 3}}}}}}
    more = merge(config, more)
    check_config(more, schema)
    assert settings(more, "glassbox", "xrec")["adapter"]["experts"] == 3
    assert settings(more, "glassbox", "no_profile")["adapter"]["experts"] == 8
    wrong = merge(config, {"experiments": {"xrec": {"per_dataset": {"glasbox": {}}}}})
    with pytest.raises(ConfigError, match=r"experiments.xrec.per_dataset.glasbox: not in datasets \(did you mean"):
        check_config(wrong, schema)
