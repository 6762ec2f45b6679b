"""Ranking metrics of a recommender: the usual ones, and those of the original code beside them.

All rank all items by score and take the best k; equal scores rank the smaller item id first. Scores exist for one block
of users at a time, never as a users x items matrix.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xrec_repro.errors import DataError

BLOCK = 512
CUTS = (10, 20)  # the lengths of ranking at which RecBole's and most papers' tables stand
Scores = Callable[[Tensor], Tensor]  # users, int64 [n] -> [n, n_items], a tensor that may be written to


class _UserMetrics(NamedTuple):
    n_test: Tensor  # int64 [n], test items of each user that has some
    hits: Tensor  # float64 [n, k], 1 where a test item stands at that rank

    def recall(self, k: int) -> Tensor:
        return self.hits[:, :k].sum(1) / self.n_test

    def ndcg(self, k: int) -> Tensor:
        discount = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=self.hits.device))
        return self.hits[:, :k] @ discount / discount.cumsum(0)[self.n_test.clamp(max=k) - 1]

    def mrr(self, k: int) -> Tensor:
        ranks = torch.arange(1, k + 1, dtype=torch.float64, device=self.hits.device)
        return (self.hits[:, :k] / ranks).amax(1)

    def hit(self, k: int) -> Tensor:
        return self.hits[:, :k].amax(1)


def ranking_metrics(
    scores: Scores,
    sizes: tuple[int, int],
    known_edges: Tensor,
    test_edges: Tensor,
    cuts: Sequence[int] = CUTS,
    block: int = BLOCK,
) -> dict[str, float | int | str]:
    """Compute Recall, NDCG, MRR and the hit rate by the full-ranking protocol of RecBole.

    All items but the user's known ones are ranked; means are over the users that have test items. Where each of them
    has one, the protocol is leave-one-out, and Recall@k is the hit rate; else it is that of a split by ratio.
    ``MRR@k = 1 / rank`` of the first test item among the best k, else 0.

    Args:
        scores: Scores all items for users.
        sizes: Number of users and of items.
        known_edges: int64 [2, n], users above items: train and validation edges.
        test_edges: int64 [2, n]: the edges to find; an edge given twice counts once.
        cuts: Lengths of the ranking; one beyond the number of items is left out.
        block: Users scored at a time.

    Returns:
        ``protocol`` (``leave_one_out`` or ``ratio``), ``users``, and ``recall@k``, ``ndcg@k``, ``mrr@k`` and ``hit@k``
        in [0, 1].

    Raises:
        DataError: No test edges, or an id lies outside the sizes.
    """
    cuts = [k for k in cuts if k <= sizes[1]]
    users = _per_user(scores, sizes, known_edges, test_edges, max(cuts, default=1), block)
    found: dict[str, float | int | str] = {
        "protocol": "leave_one_out" if int(users.n_test.max()) == 1 else "ratio",
        "users": len(users.n_test),
    }
    for name in ("recall", "ndcg", "mrr", "hit"):
        found |= {f"{name}@{k}": getattr(users, name)(k).mean().item() for k in cuts}
    return found


def inner_product(user_emb: Tensor, item_emb: Tensor) -> tuple[Scores, tuple[int, int]]:
    """Return the scores of final embeddings, [n_users, dim] and [n_items, dim], and how many there are of both."""
    return lambda users: user_emb[users] @ item_emb.T, (len(user_emb), len(item_emb))


def recall_ndcg(
    scores: Scores, sizes: tuple[int, int], train_edges: Tensor, test_edges: Tensor, k: int, block: int = BLOCK
) -> dict[str, float | int]:
    """Compute the standard Recall@k and NDCG@k.

    The items of a user's `train_edges` are left out of the ranking. With ``n`` the number of the user's test
    items, ``Recall@k = hits / n`` and ``NDCG@k = sum over hits of 1 / log2(rank + 1)``, divided by the same
    sum over the ranks 1 … min(k, n). Both are averaged over the users that have test items.

    Args:
        scores: Scores all items for users.
        sizes: Number of users and of items.
        train_edges: int64 [2, n], users above items: the train edges; in a test, train and validation edges.
        test_edges: int64 [2, n]: the edges to find; an edge given twice counts once.
        k: Length of the ranking.
        block: Users scored at a time; bounds the memory to block x n_items floats.

    Returns:
        ``recall`` and ``ndcg`` in [0, 1] and ``users``, the number of users averaged over.

    Raises:
        DataError: k exceeds the number of items, no test edges, or an id lies outside the embeddings.
    """
    users = _per_user(scores, sizes, train_edges, test_edges, k, block)
    return {"recall": users.recall(k).mean().item(), "ndcg": users.ndcg(k).mean().item(), "users": len(users.n_test)}


def original_recall(
    scores: Scores, sizes: tuple[int, int], test_edges: Tensor, k: int, block: int = BLOCK
) -> dict[str, float | int]:
    """Compute Recall@k and NDCG@k as the original XRec encoder does.

    It differs from `recall_ndcg` twice: train items stay in the ranking, where they take the places of test
    items, and the average runs over test interactions, so that a user with n test items counts n times.

    Args:
        scores: Scores all items for users.
        sizes: Number of users and of items.
        test_edges: int64 [2, n], users above items; an edge given twice counts once.
        k: Length of the ranking.
        block: Users scored at a time.

    Returns:
        ``recall`` and ``ndcg`` in [0, 1] and ``interactions``, the number of test interactions averaged over.

    Raises:
        DataError: As `recall_ndcg`.
    """
    users = _per_user(scores, sizes, test_edges[:, :0], test_edges, k, block)
    weight = users.n_test.double() / users.n_test.sum()
    return {
        "recall": (users.recall(k) * weight).sum().item(),
        "ndcg": (users.ndcg(k) * weight).sum().item(),
        "interactions": int(users.n_test.sum()),
    }


@torch.no_grad()
def _per_user(
    scores: Scores, sizes: tuple[int, int], masked_edges: Tensor, test_edges: Tensor, k: int, block: int
) -> _UserMetrics:
    n_items = sizes[1]
    if not 1 <= k <= n_items:
        raise DataError(f"a recommender's k is {k}, but there are {n_items} items; set it between 1 and {n_items}")
    if test_edges.shape[1] == 0:
        raise DataError("no edges to evaluate on; give the split a validation and a test share")
    test = _edge_keys(test_edges, *sizes)
    masked = _edge_keys(masked_edges, *sizes)
    users, n_test = torch.unique_consecutive(test // n_items, return_counts=True)
    hits = []
    for chunk in users.split(block):
        table = scores(chunk)
        _mask(table, chunk, masked)
        top, top_scores = _top_k(table, k)
        hits.append((_contains(test, chunk[:, None] * n_items + top) & (top_scores > -torch.inf)).double())
    return _UserMetrics(n_test, torch.cat(hits))


def _edge_keys(edges: Tensor, n_users: int, n_items: int) -> Tensor:
    """Return the sorted, distinct keys user * n_items + item."""
    for name, ids, count in (("user", edges[0], n_users), ("item", edges[1], n_items)):
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < count:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise DataError(
                f"{name} id {int(wrong)} has no embedding: there are {count}; train on the graph that has it"
            )
    return torch.unique(edges[0] * n_items + edges[1])


def _mask(scores: Tensor, users: Tensor, masked: Tensor) -> None:
    """Set the scores of the `masked` edge keys to -inf; `users` are the ascending users of the rows."""
    n_items = scores.shape[1]
    bounds = torch.stack([users[0] * n_items, (users[-1] + 1) * n_items])
    low, high = torch.searchsorted(masked, bounds).tolist()
    owner, item = masked[low:high] // n_items, masked[low:high] % n_items
    row = torch.searchsorted(users, owner)
    mine = users[row] == owner
    scores[row[mine], item[mine]] = -torch.inf


def _contains(sorted_keys: Tensor, keys: Tensor) -> Tensor:
    place = torch.searchsorted(sorted_keys, keys).clamp(max=len(sorted_keys) - 1)
    return sorted_keys[place] == keys


def _top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best items of each row and their scores, the smaller item id first among equal scores."""
    one_more = min(k + 1, scores.shape[1])
    values, items = scores.topk(one_more, dim=1)
    # topk promises nothing about ties: order those inside by id, and redo the rows whose cut at k is a tie.
    items, by_id = items.sort(dim=1)
    values, by_score = values.gather(1, by_id).sort(dim=1, descending=True, stable=True)
    items = items.gather(1, by_score)
    if one_more > k:
        tied = ((values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)).nonzero().squeeze(1)
        if len(tied):
            all_values, all_items = scores[tied].sort(dim=1, descending=True, stable=True)
            values[tied], items[tied] = all_values[:, :one_more], all_items[:, :one_more]
    return items[:, :k], values[:, :k]
