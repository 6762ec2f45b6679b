"""Whose vector a user has where they are swapped, and how far texts follow it, by hand."""

import pytest
import torch

from xrec_repro.config import load_config, merge
from xrec_repro.config_rules import check_config
from xrec_repro.contracts import CORE_INTERACTIONS, EXPLANATIONS
from xrec_repro.data.glassbox import ASPECT_NAMES, make_world
from xrec_repro.embedding_file import save_embeddings, swapped_users
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.explainer.assemble import embedding_tables
from xrec_repro.io import write_table
from xrec_repro.paper.counterfactual import partners, recalls, swapped_named
from xrec_repro.plan import Plan


class Wildcards(dict):
    __getattr__ = dict.__getitem__


@pytest.mark.parametrize("count", [2, 3, 50])
def test_no_user_keeps_its_vector_and_each_goes_to_one(count):
    others = swapped_users(count, 1).tolist()
    assert sorted(others) == list(range(count)) and all(user != other for user, other in enumerate(others))
    assert swapped_users(50, 1).tolist() != swapped_users(50, 2).tolist()


def test_the_writer_and_the_reader_of_a_swap_agree(tmp_path):
    users = torch.arange(5.0)[:, None]
    save_embeddings(tmp_path / "e.safetensors", users, users, {})
    swapped, items = embedding_tables(tmp_path / "e.safetensors", "swapped", 1, 3)
    core = [dict.fromkeys(CORE_INTERACTIONS.names) | {"user": u, "user_id": f"u{u}"} for u in range(5)]
    write_table(tmp_path / "core.parquet", core, CORE_INTERACTIONS)
    found = partners(tmp_path / "core.parquet", 5, 3)
    assert [found[f"u{u}"] for u in range(5)] == [f"u{int(vector)}" for vector in swapped[:, 0]]
    assert torch.equal(items, users)
    with pytest.raises(DataError, match=r"core\.parquet has 5 users, the embeddings 6"):
        partners(tmp_path / "core.parquet", 6, 3)


def test_recall_by_hand():
    assert recalls({"a", "b"}, {"a", "x"}, {"a", "b"}) == {"real": 0.5, "swapped": 1.0, "moved": 0.5}
    assert recalls(set(), {"a"}, {"a"}) == {}


def test_a_text_that_follows_the_vector_moves_and_one_that_does_not_stays(tmp_path):
    glassbox = load_config("config/config.yaml")["defaults"]["glassbox"] | {"users": 40, "items": 40}
    world = make_world(glassbox)
    core = [
        dict.fromkeys(CORE_INTERACTIONS.names) | {"user": u, "user_id": name} for u, name in enumerate(world.user_ids)
    ]
    write_table(tmp_path / "core.parquet", core, CORE_INTERACTIONS)
    save_embeddings(tmp_path / "e.safetensors", torch.rand(40, 2), torch.rand(40, 2), {})
    others = swapped_users(40, 1).tolist()
    texts = {"real": [], "swapped": []}
    for user in range(40):
        for item in range(3):
            common = dict.fromkeys(EXPLANATIONS.names) | {
                "example_id": f"{user}-{item}", "user_id": world.user_ids[user], "item_id": world.item_ids[item],
            }  # fmt: skip
            for kind, whose in (("real", user), ("swapped", others[user])):
                named = [ASPECT_NAMES[aspect] for aspect in world.reasons(whose, item)]
                texts[kind].append(common | {"prediction": "They like " + " and ".join(named)})
    for kind, lines in texts.items():
        write_table(tmp_path / f"{kind}.parquet", lines, EXPLANATIONS)
    row = {"seed": 1, "core": tmp_path / "core.parquet", "embeddings": tmp_path / "e.safetensors", "tuned_by": "xrec"}
    real, swapped = (row | {"explanations": tmp_path / f"{kind}.parquet"} for kind in texts)
    follows = swapped_named([swapped], [real], glassbox)
    assert follows.groupby("side")["moved"].mean().to_dict() == {"other": 1.0, "own": -1.0}
    stays = swapped_named([swapped | {"explanations": real["explanations"]}], [real], glassbox)
    assert (stays["moved"] == 0).all() and stays.groupby("side")["real"].mean().to_dict() == {"other": 0.0, "own": 1.0}
    with pytest.raises(DataError, match="seed 1 of xrec is not there"):
        swapped_named([swapped], [real | {"seed": 2}], glassbox)


def swapping(**changes):
    config = load_config("config/config.yaml")
    run = {"run": {"experiments": ["glassbox/xrec", "glassbox/no_embeddings", "glassbox/swapped"]}}
    return merge(merge(config, run), {"experiments": {"swapped": {"overrides": changes}}})


def test_swapped_users_are_written_by_the_adapters_of_another(root):
    plan = Plan(swapping(), root)
    pair = Wildcards(dataset="glassbox", experiment="swapped", seed="1")
    assert not plan.is_trained("glassbox", "swapped") and plan.reads_embeddings("glassbox", "swapped")
    assert plan.learnt(pair)["weights"] == "results/demo/glassbox/xrec/seed1/method/weights.safetensors"
    assert plan.method_settings(pair, "write")["embeddings"] == "swapped"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": {"tuned_by": None}}, "tuned_by: None does not run on glassbox"),
        ({"embeddings": {"tuned_by": "no_profile"}}, "tuned_by: 'no_profile' does not run on glassbox"),
        ({"embeddings": {"tuned_by": "no_embeddings"}}, "is of another method or not tuned"),
        ({"prompt": {"profiles": False}}, "prompt is not as in xrec, whose adapters write"),
    ],
)
def test_adapters_that_cannot_write_are_refused(changes, message):
    check_config(swapping())
    with pytest.raises(ConfigError, match=message):
        check_config(swapping(**changes))
