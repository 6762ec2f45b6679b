"""Every key of the configuration is declared once: config.yaml, its comments and the page say what the sections say."""

import copy
import subprocess
import sys

import pytest

from tests.conftest import load_script
from xrec_repro.config import load_config
from xrec_repro.config_rules import check_config
from xrec_repro.errors import ConfigError
from xrec_repro.sections import configuration_schema
from xrec_repro.setting_types import PART_OF, WHOLE


@pytest.fixture(scope="module")
def pages(root):
    return load_script(root / "docs/settings.py")


def differing(config, node, place=""):
    """Yield the keys of sections whose value in the configuration is not the declared default."""
    for name, below in node["properties"].items():
        where = f"{place}.{name}".lstrip(".")
        if WHOLE in below:
            yield from differing(config[name], below, where)
        elif below.get("default", config.get(name)) != config.get(name):
            yield where


def declared(node, place=""):
    """Yield place and schema of every key, of sections and of what is named freely."""
    for name, below in node.get("properties", {}).items():
        where = f"{place}.{name}".lstrip(".")
        yield where, below
        for one in (below, below.get("additionalProperties"), below.get("items")):
            if isinstance(one, dict) and PART_OF not in one:
                yield from declared(one, where)


def test_config_yaml_has_the_declared_defaults_of_all_keys(root):
    config, schema = load_config(root / "config/config.yaml"), configuration_schema()
    check_config(config)
    assert list(differing(config, schema)) == []
    config["defaults"]["llm"]["scratch"]["layers"] += 1
    config["paper"]["tables"]["table2"] = ["xrec"]
    assert list(differing(config, schema)) == ["defaults.llm.scratch.layers", "paper.tables.table2"]


def test_every_key_has_a_meaning_in_one_line():
    found = {place: node for place, node in declared(configuration_schema()) if place != "defaults.recommenders"}
    assert len(found) > 250
    assert {place for place, node in found.items() if not node.get("description", "").strip()} == set()
    assert {place for place, node in found.items() if "\n" in node["description"]} == set()


def test_comments_of_config_yaml_are_the_declared_meanings(root, pages):
    text = (root / "config/config.yaml").read_text(encoding="utf-8")
    assert pages.commented(text) == text, "run make docs"
    for said in ("# CPU threads of each training job", "# how many of an item's aspects its description names"):
        assert said in text
        assert pages.commented(text.replace(said, "# something else")) == text
    own = "  glassbox:\n    label: Glassbox         # the demo's world: its true reasons are known\n"
    assert own in text, "comments of entries are their own"


def test_the_page_lists_every_key_as_it_is_declared(root, pages):
    text = (root / "docs/configuration.md").read_text(encoding="utf-8")
    assert pages.filled(text) == text, "run make docs"
    assert "| `cold_users` | number ≥ 0 < 1 | `0.0` |" in text
    assert pages.filled(text.replace("number ≥ 0 < 1", "number")) == text
    lightgcn = text.partition("### `recommenders.<name>, kind: lightgcn`")[2].partition("###")[0]
    assert "| `dim` | integer ≥ 1 | must be given | Width of its embeddings. |" in lightgcn
    assert lightgcn.count("| must be given |") == 13


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            ("metrics", "bleurt", "max_length"),
            "metrics.bleurt.max_length: missing; config/config.yaml gives its default",
        ),
        (("scorers",), "scorers: missing; config/config.yaml gives its default"),
        (("defaults", "llm", "scratch", "seed"), "defaults.llm.scratch.seed: missing; config/config.yaml gives"),
        (("claims", "rules", "claim1", "hold"), "claims.rules.claim1: 'hold' is a required property"),
    ],
)
def test_a_missing_key_is_named(root, place, message):
    config = copy.deepcopy(load_config(root / "config/config.yaml"))
    section = config
    for name in place[:-1]:
        section = section[name]
    del section[place[-1]]
    with pytest.raises(ConfigError, match=f"^configuration: {message}"):
        check_config(config)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("experiments", "a b", {}, "experiments: 'a b' does not match"),
        ("experiments", "xrec", {"published_model": ""}, "experiments.xrec.published_model: '' should be non-empty"),
        ("run", "seeds", [1, 1], r"run.seeds: \[1, 1\] has non-unique elements"),
        ("paper", "sparsity", {"groups": 4, "metrics": ["bleurt"]}, "paper.sparsity.groups: 4 is not one of 5, 3"),
        ("paper", "sparsity", {"groups": 5, "metrics": ["usr"]}, "paper.sparsity.metrics: usr is a score of all"),
        (
            "paper",
            "figure3",
            {"experiments": "xrec", "method": "ema", "window": 1},
            "'xrec' is not of type 'array', 'null'",
        ),
        ("defaults", "tuning", {"max_examples": "10"}, "defaults.tuning.*missing"),
    ],
)
def test_bounds_of_every_kind_are_checked(root, section, key, value, message):
    config = load_config(root / "config/config.yaml")
    config[section][key] = value
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_a_number_that_may_be_null_gets_a_hint(root):
    config = load_config(root / "config/config.yaml")
    config["defaults"]["tuning"]["max_examples"] = "10"
    with pytest.raises(ConfigError, match="max_examples: '10' is not of type 'integer', 'null'; write 10$"):
        check_config(config)


def test_plan_and_configuration_are_imported_without_numpy(root):
    heavy = {"numpy", "torch", "transformers", "pandas", "sklearn", "pyarrow", "snakemake"}
    code = f"import sys, xrec_repro.config, xrec_repro.plan, xrec_repro.sections; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
