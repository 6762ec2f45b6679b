"""Ranking metrics of embeddings: the standard ones, and those of the original code beside them.

Both rank all items by inner product and take the best k; equal scores rank the smaller item id first. Scores
exist for one block of users at a time, never as a users x items matrix.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xrec_repro.errors import DataError

BLOCK = 512


class _UserMetrics(NamedTuple):
    n_test: Tensor  # int64 [n], test items of each user that has some
    recall: Tensor  # float64 [n]
    ndcg: Tensor  # float64 [n]


def recall_ndcg(
    user_emb: Tensor, item_emb: Tensor, train_edges: Tensor, test_edges: Tensor, k: int, block: int = BLOCK
) -> dict[str, float | int]:
    """Compute the standard Recall@k and NDCG@k.

    The items of a user's `train_edges` are left out of the ranking. With ``n`` the number of the user's test
    items, ``Recall@k = hits / n`` and ``NDCG@k = sum over hits of 1 / log2(rank + 1)``, divided by the same
    sum over the ranks 1 … min(k, n). Both are averaged over the users that have test items.

    Args:
        user_emb: Final user embeddings [n_users, dim].
        item_emb: Final item embeddings [n_items, dim].
        train_edges: int64 [2, n], users above items: the train edges; in a test, train and validation edges.
        test_edges: int64 [2, n]: the edges to find; an edge given twice counts once.
        k: Length of the ranking.
        block: Users scored at a time; bounds the memory to block x n_items floats.

    Returns:
        ``recall`` and ``ndcg`` in [0, 1] and ``users``, the number of users averaged over.

    Raises:
        DataError: k exceeds the number of items, no test edges, or an id lies outside the embeddings.
    """
    users = _per_user(user_emb, item_emb, train_edges, test_edges, k, block)
    return {
        "recall": users.recall.mean().item(),
        "ndcg": users.ndcg.mean().item(),
        "users": len(users.recall),
    }


def original_recall(
    user_emb: Tensor, item_emb: Tensor, test_edges: Tensor, k: int, block: int = BLOCK
) -> dict[str, float | int]:
    """Compute Recall@k and NDCG@k as the original XRec encoder does.

    It differs from `recall_ndcg` twice: train items stay in the ranking, where they take the places of test
    items, and the average runs over test interactions, so that a user with n test items counts n times.

    Args:
        user_emb: Final user embeddings [n_users, dim].
        item_emb: Final item embeddings [n_items, dim].
        test_edges: int64 [2, n], users above items; an edge given twice counts once.
        k: Length of the ranking.
        block: Users scored at a time.

    Returns:
        ``recall`` and ``ndcg`` in [0, 1] and ``interactions``, the number of test interactions averaged over.

    Raises:
        DataError: As `recall_ndcg`.
    """
    users = _per_user(user_emb, item_emb, test_edges[:, :0], test_edges, k, block)
    weight = users.n_test.double() / users.n_test.sum()
    return {
        "recall": (users.recall * weight).sum().item(),
        "ndcg": (users.ndcg * weight).sum().item(),
        "interactions": int(users.n_test.sum()),
    }


@torch.no_grad()
def _per_user(
    user_emb: Tensor, item_emb: Tensor, masked_edges: Tensor, test_edges: Tensor, k: int, block: int
) -> _UserMetrics:
    n_items = len(item_emb)
    if not 1 <= k <= n_items:
        raise DataError(f"recommender.k is {k}, but there are {n_items} items; set it between 1 and {n_items}")
    if test_edges.shape[1] == 0:
        raise DataError("no edges to evaluate on; give the split a validation and a test share")
    test = _edge_keys(test_edges, len(user_emb), n_items)
    masked = _edge_keys(masked_edges, len(user_emb), n_items)
    users, n_test = torch.unique_consecutive(test // n_items, return_counts=True)
    discount = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=user_emb.device))
    hits, dcg = [], []
    for chunk in users.split(block):
        scores = user_emb[chunk] @ item_emb.T
        _mask(scores, chunk, masked)
        top, top_scores = _top_k(scores, k)
        hit = (_contains(test, chunk[:, None] * n_items + top) & (top_scores > -torch.inf)).double()
        hits.append(hit.sum(1))
        dcg.append(hit @ discount)
    ideal = discount.cumsum(0)[n_test.clamp(max=k) - 1]
    return _UserMetrics(n_test, torch.cat(hits) / n_test, torch.cat(dcg) / ideal)


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
