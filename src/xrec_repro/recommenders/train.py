"""The stage of a recommender: any kind learns from the graph, its embeddings are checked, measured and written."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xrec_repro.embedding_file import save_embeddings
from xrec_repro.errors import DataError, ModelError
from xrec_repro.identity import digest_json, sha256_file
from xrec_repro.io import write_json
from xrec_repro.recommenders import RECOMMENDERS
from xrec_repro.recommenders.base import Recommender, Run
from xrec_repro.recommenders.evaluate import original_recall, ranking_metrics, recall_ndcg
from xrec_repro.recommenders.graph import InteractionGraph, read_graph

log = logging.getLogger("xrec_repro")


def train_recommender(
    graph: Path, entry: dict[str, Any], run: Run, out_embeddings: Path, out_metrics: Path
) -> dict[str, Any]:
    """Let a recommender learn from a graph, test it, and write its embeddings.

    Args:
        graph: Parquet file under the contract `GRAPH`.
        entry: Of the section ``recommenders``, whole.
        run: Name, seed, device and checkpoint; its identity is of all but entry, seed and graph (code, libraries, kind
            of device). The checkpoint is removed on success.
        out_embeddings: Safetensors to write: ``user`` [n_users, dim] and ``item`` [n_items, dim], float32.
        out_metrics: JSON to write: what is returned.

    Returns:
        Sizes, zero-shot counts, what the recommender says of its training, and the test metrics (`evaluate`), by the
        usual definition at ``k`` (``standard``), as XRec's code has it (``original``), and by RecBole's protocol
        (``ranking``); None where the graph has no test edges.

    Raises:
        ConfigError: The entry cannot be used.
        DataError: The graph cannot be used, or has fewer items than k.
        ModelError: Training failed, or the embeddings are not finite or not of the shape that they must have.
        StoppedError: A stop was asked for; what was done is in the checkpoint.
    """
    place = f"recommenders.{run.name}"
    kind, settings = RECOMMENDERS.chosen(entry, place), RECOMMENDERS.settings(entry, place)
    data = read_graph(graph)
    identity = digest_json([run.identity, entry, run.seed, sha256_file(graph)])
    recommender = kind(settings, replace(run, identity=identity))
    if settings.k > data.n_items:
        raise DataError(f"{run.key('k')} is {settings.k}, but there are {data.n_items} items; lower it")
    told = recommender.fit(data)
    tables = checked_tables(recommender, data)
    made = {"settings": digest_json(entry), "seed": run.seed}
    metrics = made | {
        "users": data.n_users,
        "items": data.n_items,
        "edges": {name: edges.shape[1] for name, edges in data.edges.items()},
        "zero_shot": data.zero_shot(),
        "k": settings.k,
        **told,
        "test": test_scores(recommender, [len(table) for table in tables], data),
    }
    save_embeddings(out_embeddings, *tables, made)
    write_json(out_metrics, metrics)
    if run.checkpoint:
        run.checkpoint.unlink(missing_ok=True)
    return metrics


def checked_tables(recommender: Recommender, graph: InteractionGraph) -> tuple[Tensor, Tensor]:
    """Return the embeddings of a recommender if they are finite and of the right shape.

    Raises:
        ModelError: They are not; the line says which, of which recommender, and where.
    """
    place = f"recommenders.{recommender.run.name}"
    tables = recommender.embeddings()
    for side, table, count in zip(("user", "item"), tables, (graph.n_users, graph.n_items), strict=True):
        dim = recommender.settings.dim
        if not isinstance(table, Tensor):
            raise ModelError(f"{place}: its {side} embeddings are {type(table).__name__}; return a torch tensor")
        if table.ndim != 2 or len(table) < count or table.shape[1] != dim:
            shape = " x ".join(map(str, table.shape))
            raise ModelError(f"{place}: its {side} embeddings are {shape}, not {count} x {dim}; mind {place}.dim")
        if not table.isfinite().all():
            row = int((~table.isfinite().all(1)).nonzero()[0, 0])
            raise ModelError(f"{place}: its embedding of {side} {row} is not finite; a smaller learning rate may help")
    return tables


def test_scores(recommender: Recommender, sizes: list[int], graph: InteractionGraph) -> dict[str, Any] | None:
    """Score a recommender on the test edges, the usual way, the original code's, and RecBole's.

    Args:
        recommender: Fitted.
        sizes: How many users and items it has embeddings of.
        graph: That it was fitted to.

    Returns:
        ``standard`` and ``ranking`` (train and val items masked, averaged over users) and ``original`` (nothing masked,
        averaged over interactions), or None where the graph has no test edges.
    """
    if graph.edges["test"].shape[1] == 0:
        log.warning("the graph has no test edges: %s is not tested", recommender.run.name)
        return None
    edges = {name: each.to(recommender.embeddings()[0].device) for name, each in graph.edges.items()}
    known, test = torch.cat([edges["train"], edges["val"]], dim=1), edges["test"]
    k, scored = recommender.settings.k, (recommender.scores, tuple(sizes))
    return {
        "standard": recall_ndcg(*scored, known, test, k),
        "original": original_recall(*scored, test, k),
        "ranking": ranking_metrics(*scored, known, test),
    }
