"""Negative items for BPR, one for each train edge, drawn for all edges at once."""

import numpy as np

from xrec_repro.errors import DataError, ModelError
from xrec_repro.seeding import numpy_rng


class NegativeSampler:
    """Draws, for each train edge, a train item that the edge's user has no train edge to.

    Drawing items until one is new to the user gives every such item the same chance. The sampler reaches that
    distribution with one draw: it draws the rank of the negative among the items new to the user, then finds
    the item of that rank. If the user's own items stand at the sorted positions ``p_0 < p_1 < …`` of the
    train items, then ``p_j - j`` new items precede the j-th own item, so rank ``r`` stands at position
    ``r + #{j: p_j - j <= r}``, and one `searchsorted` over all users' ``p_j - j`` counts them.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray) -> None:
        """Index the train edges.

        Args:
            users: int64 [n_edges], users of the train edges.
            items: int64 [n_edges], their items.

        Raises:
            DataError: A user has an edge to every train item, so no negative exists.
        """
        self._pool = np.unique(items)
        n_pool = len(self._pool)
        owned = np.unique(users * n_pool + np.searchsorted(self._pool, items))
        owner, position = np.divmod(owned, n_pool)
        before = np.searchsorted(owner, owner)
        self._stride = n_pool + 1
        self._new_before = owner * self._stride + position - (np.arange(len(owned)) - before)
        self._user_key = users * self._stride
        self._first = np.searchsorted(owner, users)
        self._n_new = n_pool - (np.searchsorted(owner, users, side="right") - self._first)
        if (self._n_new == 0).any():
            full = users[self._n_new == 0][0]
            raise DataError(
                f"user {full} has a train edge to all {n_pool} train items, so BPR finds no negative item; "
                "drop the user or add items"
            )

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one negative item for each edge.

        Returns:
            int64 [n_edges], aligned with the edges given at construction.
        """
        rank = rng.integers(0, self._n_new)
        skipped = np.searchsorted(self._new_before, self._user_key + rank, side="right") - self._first
        return self._pool[rank + skipped]

    def draw_epoch(self, mode: str, seed: int, epoch: int) -> np.ndarray:
        """Draw the negatives of an epoch from the stream ``"negatives"`` of the run's seed.

        Args:
            mode: ``fixed`` (the same negatives in every epoch) or ``redrawn``.
            seed: The run's seed.
            epoch: 1, 2, …

        Raises:
            ModelError: `mode` is neither.
        """
        streams = {"fixed": 0, "redrawn": epoch}
        if mode not in streams:
            raise ModelError(f"negatives: {mode!r} is not one of {', '.join(streams)}; correct the recommender's entry")
        return self.draw(numpy_rng(seed, "negatives", streams[mode]))
