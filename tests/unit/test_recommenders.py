"""Recommenders by name: entries and what is wrong with them, kinds from elsewhere, and what each gives back."""

import copy
import re
import sys
import textwrap

import numpy as np
import pytest
import torch

from tests.unit.test_recommender_train import SETTINGS, graph  # noqa: F401
from xrec_repro.config import complete, load_config, merge, recommender
from xrec_repro.config_rules import check_config
from xrec_repro.contracts import CORE_INTERACTIONS, GRAPH
from xrec_repro.embedding_file import load_embeddings
from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.io import write_table
from xrec_repro.plugins import module_file
from xrec_repro.recommenders import RECOMMENDERS
from xrec_repro.recommenders.base import Run
from xrec_repro.recommenders.train import train_recommender

MODULE = """
    import torch
    from xrec_repro.recommenders.base import Recommender

    class Given(Recommender):
        def fit(self, graph):
            return {{"told": graph.n_users}}

        def embeddings(self):
            return {tables}

    RECOMMENDER = Given
"""
GOOD = "torch.ones(40, 3), torch.ones(32, 3)"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module outside the package and return its name."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(text, name="given_embeddings"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        written.append(name)
        sys.modules.pop(name, None)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def checked(root):
    """Return a function that checks the configuration with an overlay, and returns it."""
    base = load_config(root / "config/config.yaml")

    def check(overlay):
        config = complete(merge(base, copy.deepcopy(overlay)))
        check_config(config)
        return config

    return check


def train(graph, entry, folder, **told):  # noqa: F811
    outputs = folder / "embeddings.safetensors", folder / "metrics.json"
    return train_recommender(graph, entry, Run(name="mine", seed=1, **told), *outputs)


# --- Entries ----------------------------------------------------------------------------------------------------------


def test_an_entry_like_another_takes_over_what_it_leaves_out(checked):
    entries = {"wide": {"like": "lightgcn", "dim": 128}, "wider": {"like": "wide", "layers": 1}}
    config = checked({"recommenders": entries})
    own, found = recommender(config, "glassbox", "lightgcn"), recommender(config, "glassbox", "wider")
    assert found == own | {"dim": 128, "layers": 1}
    assert own["negatives"] == "redrawn" != config["recommenders"]["lightgcn"]["negatives"]  # the data set's


MINE = {"kind": "bprmf", "dim": 8, "k": 5, "learning_rate": 0.1, "batch_size": 4, "negatives": "fixed", "epochs": 1}


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"defaults": {"embeddings": {"of": "lightgcm"}}}, "embeddings.of names 'lightgcm', .*mean 'lightgcn'"),
        ({"recommenders": {"mine": {"kind": "bprfm"}}}, r"recommenders\.mine\.kind: 'bprfm' is not one of .*'bprmf'"),
        ({"recommenders": {"mine": {"dim": 8}}}, r"recommenders\.mine: give it a kind \(bprmf, lightgcn, released"),
        (
            {"recommenders": {"mine": {"kind": "bprmf", "module": "a"}}},
            r"mine: give it .* one of the two",
        ),
        ({"recommenders": {"mine": {"module": "no_such.module"}}}, r"mine\.module: no_such\.module cannot be imported"),
        ({"recommenders": {"mine": {"module": "json"}}}, r"mine\.module: json has no RECOMMENDER"),
        ({"recommenders": {"mine": {"module": "a b"}}}, r"recommenders\.mine\.module: 'a b' does not match"),
        ({"recommenders": {"mine": {"like": "mine"}}}, r"recommenders\.mine\.like: it is like itself"),
        ({"recommenders": {"mine": {"like": "bprfm"}}}, r"mine\.like: there is no 'bprfm' \(did you mean 'bprmf'"),
        ({"recommenders": {"mine": {"like": "bprmf", "dims": 8}}}, r"mine\.dims: unknown key \(did you mean 'dim'"),
        ({"recommenders": {"mine": MINE}}, r"recommenders\.mine\.patience: missing; give it"),
        ({"recommenders": {"lightgcn": {"layers": 2.0}}}, r"lightgcn\.layers: 2\.0 is not of type 'integer'; write 2"),
        ({"recommenders": {"lightgcn": {"combine": "max"}}}, r"lightgcn\.combine: 'max' is not one of sum, mean"),
        (
            {"recommenders": {"lightgcn": {"weight_decay": "1e-6"}}},
            r"decay: '1e-6' is not of type 'number'; write",
        ),
        ({"defaults": {"embeddings": {"of": "released"}}}, "'released' reads a release, and glassbox is none"),
        ({"defaults": {"recommenders": {}}}, "defaults.recommenders: recommenders are a section of their own"),
        ({"defaults": {"recommender": {"dim": 8}}}, r"defaults.recommender: unknown key \(did you mean 'recommenders'"),
        (
            {"datasets": {"glassbox": {"overrides": {"recommenders": {"lightgcn": {"layer": 2}}}}}},
            r"glassbox\.overrides\.recommenders\.lightgcn\.layer: unknown key \(did you mean 'layers'",
        ),
        (
            {"datasets": {"glassbox": {"overrides": {"recommenders": {"lightgcm": {"layers": 2}}}}}},
            r"glassbox\.overrides\.recommenders\.lightgcm: not in recommenders \(did you mean 'lightgcn'",
        ),
    ],
)
def test_a_mistake_in_an_entry_is_one_line(checked, overlay, message):
    with pytest.raises(ConfigError, match=message) as caught:
        checked(overlay)
    assert str(caught.value).startswith("configuration: ")
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_is_told_in_one_line(checked, module):
    name = module("raise ValueError('two\\nlines')")
    with pytest.raises(ConfigError, match=rf"mine\.module: {name} cannot be imported \(ValueError: two lines\)"):
        checked({"recommenders": {"mine": {"module": name, "dim": 8, "k": 5}}})


def test_an_installed_package_adds_a_kind(checked, module, tmp_path):
    name = module(MODULE.format(tables=GOOD))
    about = tmp_path / "given-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: given\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[xrec_repro.recommenders]\ngiven = {name}\nbroken = no_such\n")
    entry = {"kind": "given", "dim": 3, "k": 5}
    checked({"recommenders": {"mine": entry}})
    assert RECOMMENDERS.chosen(entry, "recommenders.mine").__name__ == "Given"
    assert module_file(RECOMMENDERS.module_of(entry, "recommenders.mine")) == str(tmp_path / f"{name}.py")
    with pytest.raises(ConfigError, match=r"mine\.kind: no_such cannot be imported"):
        checked({"recommenders": {"mine": entry | {"kind": "broken"}}})


def test_every_kind_of_the_package_is_known_by_its_file():
    assert set(RECOMMENDERS.kinds()) >= {"lightgcn", "bprmf", "released"}
    for kind in ("lightgcn", "bprmf", "released"):
        assert module_file(RECOMMENDERS.module_of({"kind": kind}, kind)).endswith(f"recommenders/{kind}.py")


# --- What they give back ----------------------------------------------------------------------------------------------


def test_a_module_of_ones_own_is_written_and_tested(graph, module, tmp_path):  # noqa: F811
    name = module(MODULE.format(tables=GOOD))
    found = train(graph, {"module": name, "dim": 3, "k": 5}, tmp_path)
    assert (found["told"], found["users"], found["k"]) == (40, 40, 5)
    assert load_embeddings(tmp_path / "embeddings.safetensors")[1].equal(torch.ones(32, 3))
    assert found["test"]["ranking"]["protocol"] == "leave_one_out"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("torch.ones(40, 3), torch.ones(32, 4)", r"mine: its item embeddings are 32 x 4, not 32 x 3; mind .*\.dim"),
        ("torch.ones(39, 3), torch.ones(32, 3)", "its user embeddings are 39 x 3, not 40 x 3"),
        ("torch.ones(40), torch.ones(32, 3)", "its user embeddings are 40, not 40 x 3"),
        ("torch.ones(40, 3), [[1.0] * 3] * 32", "its item embeddings are list; return a torch tensor"),
        ("torch.ones(40, 3), torch.ones(32, 3).log() / 0", "its embedding of item 0 is not finite"),
    ],
)
def test_unusable_embeddings_are_named(graph, module, tmp_path, tables, message):  # noqa: F811
    name = module(MODULE.format(tables=tables))
    with pytest.raises(ModelError, match=message) as caught:
        train(graph, {"module": name, "dim": 3, "k": 5}, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "embeddings.safetensors").exists()


def test_bprmf_learns_and_is_seeded(graph, tmp_path):  # noqa: F811
    shared = ("dim", "learning_rate", "batch_size", "negatives", "patience", "evaluate_every", "k")
    entry = {"kind": "bprmf", "epochs": 40} | {name: SETTINGS[name] for name in shared}
    bytes_of = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = train(graph, entry, tmp_path / name)
        bytes_of.append((tmp_path / name / "embeddings.safetensors").read_bytes())
    losses = [record["loss"] for record in found["history"]]
    assert losses[-1] < 0.5 * losses[0]
    assert found["test"]["standard"]["recall"] > 0.5  # blind guessing: 5 of about 27
    assert bytes_of[0] == bytes_of[1]


def test_released_embeddings_are_put_in_the_order_of_our_ids(tmp_path):
    generator = np.random.default_rng(0)
    tables = {side: generator.standard_normal((count, 4), np.float32) for side, count in (("user", 9), ("item", 8))}
    for side, table in tables.items():
        torch.save(torch.nn.Parameter(torch.from_numpy(table)), tmp_path / f"{side}_emb.pkl")
    users, items = ["7", "2", "8", "2"], ["5", "0", "0", "7"]  # ours in order of first appearance
    ids = {"user": [0, 1, 2, 1], "item": [0, 1, 1, 2], "user_id": users, "item_id": items}
    blank = {name: [None] * 4 for name in ("rating", "timestamp", "review")}
    write_table(tmp_path / "ids.parquet", ids | blank, CORE_INTERACTIONS)
    split = {"user": [0, 1, 2, 1], "item": [0, 1, 1, 2], "split": ["train", "train", "val", "test"]}
    write_table(tmp_path / "graph.parquet", split, GRAPH)
    inputs = {"folder": tmp_path, "ids": tmp_path / "ids.parquet"}
    entry = {"kind": "released", "dim": 4, "k": 2}
    found = train(tmp_path / "graph.parquet", entry, tmp_path, inputs=inputs)
    user, item = load_embeddings(tmp_path / "embeddings.safetensors")
    assert np.array_equal(user, tables["user"][[7, 2, 8]])
    assert np.array_equal(item, tables["item"][[5, 0, 7]])
    assert found["test"]["standard"]["users"] == 1
    with pytest.raises(ModelError, match=re.escape("its user embeddings are 3 x 4, not 3 x 5")):
        train(tmp_path / "graph.parquet", entry | {"dim": 5}, tmp_path, inputs=inputs)
    torch.save(torch.from_numpy(tables["user"][:8]), tmp_path / "user_emb.pkl")
    with pytest.raises(DataError, match=r"user_emb\.pkl: 8 rows, and .*ids\.parquet has user 8; take both from"):
        train(tmp_path / "graph.parquet", entry, tmp_path, inputs=inputs)
