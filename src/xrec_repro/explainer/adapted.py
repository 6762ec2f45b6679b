"""Adapted embeddings of a run's users and items, without its language model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xrec_repro.contracts import TEXTS
from xrec_repro.explainer.assemble import embedding_tables
from xrec_repro.explainer.bundle import adapters_of
from xrec_repro.io import read_table
from xrec_repro.methods.driver import load_fitted


def adapted_embeddings(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Adapt the users and items of the test pairs, for the first seed of each experiment and the first data set.

    Args:
        rows: One a data set, experiment and seed: dataset, experiment_label, seed, and the paths weights
            (weights.safetensors), embeddings (the recommender's, or None) and texts (contract TEXTS).

    Returns:
        Experiment's label -> array of shape ``(users + items, hidden)``; of each row the kind, and the raw data's id.
    """
    rows = [row for row in rows if row["dataset"] == rows[0]["dataset"]]
    texts = read_table(rows[0]["texts"], TEXTS, ["user", "item", "user_id", "item_id", "split"]).to_pandas()
    test = texts[texts["split"] == "test"]
    names = [test.groupby(side)[f"{side}_id"].first() for side in ("user", "item")]  # in order of the dense ids
    users, items = (torch.tensor(ids.index.tolist()) for ids in names)
    points: dict[str, np.ndarray] = {}
    for row in rows:
        if row["experiment_label"] in points:
            continue
        fitted = load_fitted(Path(row["weights"]).parent)
        pair, config = adapters_of(fitted), fitted.facts
        inputs = config.get("adapter", {}).get("inputs", "given")
        facts = config["embeddings"], config["shape"]["inputs"], config["seed"], inputs
        tables = embedding_tables(row["embeddings"], *facts)
        with torch.no_grad():
            both = [pair.user(tables[0][users]), pair.item(tables[1][items])]
        points[row["experiment_label"]] = torch.cat(both).numpy()
    return points, ["user"] * len(users) + ["item"] * len(items), [str(name) for ids in names for name in ids]
