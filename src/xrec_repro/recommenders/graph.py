"""The split interaction graph that recommenders learn from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xrec_repro.contracts import GRAPH
from xrec_repro.errors import DataError
from xrec_repro.io import read_table

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class InteractionGraph:
    """A split interaction graph.

    Attributes:
        edges: Split name -> int64 [2, n], users above items.
        n_users: Largest user id of all splits, plus 1.
        n_items: Largest item id of all splits, plus 1.
    """

    edges: dict[str, Tensor]
    n_users: int
    n_items: int

    def zero_shot(self) -> dict[str, int]:
        """Count the users and the items of val and test that have no train edge."""
        counts = {}
        for row, name in enumerate(("users", "items")):
            train, held_out = self.edges["train"][row], torch.cat([self.edges[s][row] for s in SPLITS[1:]])
            counts[name] = int((~torch.isin(held_out.unique(), train)).sum())
        return counts


def read_graph(path: Path) -> InteractionGraph:
    """Read a split interaction graph.

    Args:
        path: A Parquet file under the contract `GRAPH`.

    Raises:
        DataError: A value is missing, an id is negative, a split is unknown, or there are no train edges.
    """
    table = read_table(path, GRAPH)
    for name in table.column_names:
        if table[name].null_count:
            raise DataError(f"{path}: column {name!r} has {table[name].null_count} empty values; make the file again")
    ids = torch.from_numpy(np.stack([table[name].to_numpy() for name in ("user", "item")]).astype(np.int64))
    split = table["split"].to_numpy()
    unknown = sorted(set(split) - set(SPLITS))
    if unknown:
        raise DataError(f"{path}: column 'split' holds {unknown[0]!r}; it may hold {', '.join(SPLITS)}")
    if not (split == "train").any():
        raise DataError(f"{path}: no train edges; check split.ratios and the k-core settings")
    if ids.min() < 0:
        row = int((ids < 0).any(0).nonzero()[0, 0])
        raise DataError(
            f"{path}: row {row}: user {ids[0, row]}, item {ids[1, row]}: ids start at 0; make the file again"
        )
    edges = {name: ids[:, torch.from_numpy(split == name)] for name in SPLITS}
    return InteractionGraph(edges, int(ids[0].max()) + 1, int(ids[1].max()) + 1)
