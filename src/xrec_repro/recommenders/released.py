"""Embeddings that a release holds (``user_emb.pkl``, ``item_emb.pkl``): read, not trained. The study tuned on them."""

from typing import TYPE_CHECKING, Any

from xrec_repro.recommenders.base import Recommender

if TYPE_CHECKING:
    from torch import Tensor

    from xrec_repro.recommenders.graph import InteractionGraph


class Released(Recommender):
    """Rows of the released tables, in the order of the users and items here."""

    needs = frozenset({"release"})

    def fit(self, graph: "InteractionGraph") -> dict[str, Any]:
        """Read the tables and put their rows, which released ids number, in the order of our ids.

        Raises:
            DataError: A file is missing or holds no finite matrix, or a user or item has no row in it.
        """
        import pyarrow.compute as pc
        import torch

        from xrec_repro.contracts import CORE_INTERACTIONS
        from xrec_repro.data.release import load_published_embeddings
        from xrec_repro.errors import DataError
        from xrec_repro.io import read_table

        folder, ids = self.run.inputs["folder"], self.run.inputs["ids"]
        known = read_table(ids, CORE_INTERACTIONS, ["user", "item", "user_id", "item_id"])
        tables = []
        for side, table in zip(("user", "item"), load_published_embeddings(folder), strict=True):
            pairs = known.group_by(side).aggregate([(f"{side}_id", "min")]).sort_by(side)
            rows = pc.cast(pairs[f"{side}_id_min"], "int64").to_numpy()
            if rows.max() >= len(table):
                raise DataError(
                    f"{folder}/{side}_emb.pkl: {len(table)} rows, and {ids} has {side} {rows.max()}; take both from "
                    "the same release"
                )
            tables.append(torch.from_numpy(table[rows]))
        self._tables = tables[0], tables[1]
        return {}

    def embeddings(self) -> "tuple[Tensor, Tensor]":
        """Return the rows of our users and items."""
        return self._tables


RECOMMENDER = Released
