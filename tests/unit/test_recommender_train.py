"""Training of recommenders: what it writes, that it learns, stops, resumes bit for bit, and says what is wrong."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors import safe_open

from xrec_repro.contracts import GRAPH
from xrec_repro.embedding_file import load_embeddings
from xrec_repro.errors import DataError, ModelError
from xrec_repro.identity import digest_json
from xrec_repro.io import read_table, write_table
from xrec_repro.recommenders import RECOMMENDERS
from xrec_repro.recommenders.base import Run
from xrec_repro.recommenders.evaluate import inner_product, original_recall, recall_ndcg
from xrec_repro.recommenders.graph import read_graph
from xrec_repro.recommenders.train import train_recommender
from xrec_repro.seeding import numpy_rng

SETTINGS = {
    "kind": "lightgcn",
    "dim": 8,
    "layers": 2,
    "combine": "sum",
    "regularise": "propagated",
    "penalty": "sum",
    "weight_decay": 1e-6,
    "learning_rate": 0.02,
    "batch_size": 64,
    "negatives": "redrawn",
    "epochs": 7,
    "patience": 50,
    "evaluate_every": 2,
    "k": 5,
}
N_USERS, N_ITEMS = 40, 32


class KilledError(RuntimeError):
    """Stands for the end of the process."""


@pytest.fixture
def graph(tmp_path):
    """Users and items in four groups: a user's items come from the own group; the last user is not in train."""
    rng = numpy_rng(1, "graph")
    rows = []
    for user in range(N_USERS - 1):
        own = np.arange(N_ITEMS)[np.arange(N_ITEMS) % 4 == user % 4]
        for place, item in enumerate(rng.permutation(own)[:6].tolist()):
            rows.append({"user": user, "item": item, "split": ("val", "test", *["train"] * 4)[place]})
    rows += [{"user": N_USERS - 1, "item": 0, "split": split} for split in ("val", "test")]
    path = tmp_path / "graph.parquet"
    write_table(path, rows, GRAPH)
    return path


def run(graph, folder, seed=1, on_epoch=lambda record: None, **overrides):
    told = Run(name="mine", seed=seed, checkpoint=folder / "checkpoint.safetensors", on_epoch=on_epoch)
    outputs = folder / "embeddings.safetensors", folder / "metrics.json"
    return train_recommender(graph, SETTINGS | overrides, told, *outputs)


def kill_after(epoch):
    def on_epoch(record):
        if record["epoch"] == epoch:
            raise KilledError

    return on_epoch


def written(folder):
    return [(folder / name).read_bytes() for name in ("embeddings.safetensors", "metrics.json")]


def test_outputs(graph, tmp_path):
    metrics = run(graph, tmp_path)
    user, item = load_embeddings(tmp_path / "embeddings.safetensors")
    assert (user.shape, item.shape) == ((N_USERS, 8), (N_ITEMS, 8))
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert metrics["edges"] == {"train": 156, "val": 40, "test": 40}
    assert metrics["zero_shot"] == {"users": 1, "items": 0}
    assert (metrics["epochs_run"], metrics["stopped_by"]) == (7, "epochs")
    evaluated = [record["epoch"] for record in metrics["history"] if "val_recall" in record]
    assert evaluated == [2, 4, 6, 7]
    assert metrics["best_val_recall"] == max(r.get("val_recall", 0) for r in metrics["history"])
    with safe_open(tmp_path / "embeddings.safetensors", framework="pt") as stream:
        about = json.loads(stream.metadata()["run"])
    assert about == {"settings": digest_json(SETTINGS), "seed": 1}
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_test_metrics_are_those_of_the_written_embeddings(graph, tmp_path):
    metrics = run(graph, tmp_path)
    scored = inner_product(*load_embeddings(tmp_path / "embeddings.safetensors"))
    edges = read_graph(graph).edges
    known = torch.cat([edges["train"], edges["val"]], dim=1)
    assert metrics["test"]["standard"] == pytest.approx(recall_ndcg(*scored, known, edges["test"], 5))
    assert metrics["test"]["original"] == pytest.approx(original_recall(*scored, edges["test"], 5))
    val_in_ranking = recall_ndcg(*scored, edges["train"], edges["test"], 5)
    assert metrics["test"]["standard"]["ndcg"] > val_in_ranking["ndcg"] + 1e-6


@pytest.mark.parametrize("combine", ["sum", "mean"])
@pytest.mark.parametrize("regularise", ["propagated", "initial"])
@pytest.mark.parametrize("negatives", ["fixed", "redrawn"])
def test_it_learns_the_groups(graph, tmp_path, combine, regularise, negatives):
    choice = {"combine": combine, "regularise": regularise, "negatives": negatives}
    metrics = run(graph, tmp_path, epochs=15, **choice)
    losses = [record["loss"] for record in metrics["history"]]
    assert losses[-1] < 0.6 * losses[0]
    # Blind guessing finds 5 of about 27 unmasked items; the groups leave 3 candidates for the test item.
    assert metrics["test"]["standard"]["recall"] > 0.8


def test_same_seed_same_bytes_and_another_seed_others(graph, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        run(graph, tmp_path / name, seed)
    assert written(tmp_path / "a") == written(tmp_path / "b")
    assert written(tmp_path / "a")[0] != written(tmp_path / "c")[0]


@pytest.mark.parametrize("negatives", ["fixed", "redrawn"])
@pytest.mark.parametrize("killed_after", range(1, 8))
def test_killed_and_resumed_equals_undisturbed(graph, tmp_path, killed_after, negatives):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(graph, whole, negatives=negatives)
    with pytest.raises(KilledError):
        run(graph, broken, on_epoch=kill_after(killed_after), negatives=negatives)
    assert not (broken / "embeddings.safetensors").exists()
    epochs = []
    run(graph, broken, on_epoch=lambda record: epochs.append(record["epoch"]), negatives=negatives)
    from_checkpoint = 7 if killed_after == 7 else killed_after - killed_after % 2
    assert epochs == list(range(from_checkpoint + 1, 8))
    assert written(broken) == written(whole)


def test_early_stopping_keeps_the_best_and_survives_a_resume(graph, tmp_path):
    choice = {"patience": 3, "evaluate_every": 1, "epochs": 100, "learning_rate": 0.1}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    metrics = run(graph, whole, **choice)
    recalls = [record["val_recall"] for record in metrics["history"]]
    assert metrics["stopped_by"] == "patience"
    assert metrics["epochs_run"] == metrics["best_epoch"] + 3 < 100
    assert recalls.index(max(recalls)) + 1 == metrics["best_epoch"]
    user, item = load_embeddings(whole / "embeddings.safetensors")
    edges = read_graph(graph).edges
    assert recall_ndcg(*inner_product(user, item), edges["train"], edges["val"], 5)["recall"] == pytest.approx(
        max(recalls)
    )
    for killed_after in (metrics["best_epoch"] + 1, metrics["epochs_run"]):
        with pytest.raises(KilledError):
            run(graph, broken, on_epoch=kill_after(killed_after), **choice)
        run(graph, broken, **choice)
        assert written(broken) == written(whole)


@pytest.mark.parametrize(("seed", "overrides"), [(2, {}), (1, {"weight_decay": 1e-5}), (1, {"epochs": 6})])
def test_a_checkpoint_of_another_run_is_ignored(graph, tmp_path, caplog, seed, overrides):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(graph, whole, seed, **overrides)
    with pytest.raises(KilledError):
        run(graph, broken, on_epoch=kill_after(4))
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        run(graph, broken, seed, **overrides)
    assert "of other settings, code, data, models, libraries or device; starting anew" in caplog.text
    assert written(broken) == written(whole)


def test_a_checkpoint_of_another_graph_is_ignored(graph, tmp_path, caplog):
    with pytest.raises(KilledError):
        run(graph, tmp_path, on_epoch=kill_after(4))
    write_table(graph, [*rows_of(graph), {"user": 0, "item": 1, "split": "train"}], GRAPH)
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        assert len(run(graph, tmp_path)["history"]) == 7
    assert "of other settings, code, data, models, libraries or device; starting anew" in caplog.text


def rows_of(path):
    return read_table(path, GRAPH).to_pylist()


def test_no_test_edges_leaves_the_test_metrics_empty(graph, tmp_path, caplog):
    write_table(graph, [row for row in rows_of(graph) if row["split"] != "test"], GRAPH)
    assert run(graph, tmp_path)["test"] is None
    assert "no test edges" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [r for r in rows if r["split"] != "train"], "no train edges"),
        (lambda rows: [r for r in rows if r["split"] != "val"], "no val edges"),
        (lambda rows: [*rows, {"user": -3, "item": 0, "split": "train"}], "row 236: user -3, item 0"),
        (lambda rows: [*rows, {"user": 0, "item": 0, "split": "dev"}], "'split' holds 'dev'"),
        (lambda rows: [*rows, {"user": None, "item": 0, "split": "val"}], "'user' has 1 empty values"),
        (lambda rows: [*rows, *({"user": 2, "item": i, "split": "train"} for i in range(32))], "user 2 has a train"),
        (lambda rows: [], "no train edges"),
    ],
)
def test_unusable_graphs_are_named(graph, tmp_path, change, message):
    write_table(graph, change(rows_of(graph)), GRAPH)
    with pytest.raises(DataError, match=message):
        run(graph, tmp_path)


def test_k_beyond_the_items_is_named(graph, tmp_path):
    with pytest.raises(DataError, match=r"recommenders\.mine\.k is 33, but there are 32 items"):
        run(graph, tmp_path, k=33)


def test_divergence_names_step_and_learning_rate(graph, tmp_path):
    with pytest.raises(ModelError, match=r"mine: the loss of step 2 is .*; lower recommenders\.mine\.learning_rate"):
        run(graph, tmp_path, learning_rate=1e30)


def embeddings(graph, device):
    entry = SETTINGS | {"epochs": 2}
    kind = RECOMMENDERS.chosen(entry, "recommenders.mine")
    recommender = kind(RECOMMENDERS.settings(entry, "recommenders.mine"), Run(name="mine", seed=1, device=device))
    recommender.fit(read_graph(graph))
    return torch.cat(recommender.embeddings()).cpu()


def test_missing_cuda_is_named(graph, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is present")
    with pytest.raises(ModelError, match="finds no CUDA device"):
        embeddings(graph, "cuda")


@pytest.mark.gpu
def test_cuda_agrees_with_cpu(graph):
    on_cpu, on_cuda = (embeddings(graph, device) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-3, atol=1e-4)
