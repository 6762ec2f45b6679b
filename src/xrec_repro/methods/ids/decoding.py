"""Greedy decoding with a network's state."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xrec_repro.methods.ids.network import Network
from xrec_repro.methods.ids.reader import Rows
from xrec_repro.methods.ids.words import BOS, EOS


@torch.no_grad()
def greedy(
    network: Network, rows: Rows, words: int, banned: Sequence[int] = (), stop: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Write the likeliest next word again and again.

    Args:
        network: In evaluation mode.
        rows: What to explain.
        words: Of a text, at most.
        banned: Words that are never written.
        stop: Whether to end when all texts have ended; what follows an ``<eos>`` means nothing either way.

    Returns:
        Words, int64 [B, at most `words`], and the predicted ratings [B], if there are any.
    """
    state, rating = network.begin(rows, words)
    next_words, found = torch.full_like(rows.user, BOS), []
    ended = torch.zeros_like(rows.user, dtype=torch.bool)
    for _ in range(words):
        scores = network.step(state, next_words)
        scores[:, list(banned)] = -torch.inf
        next_words = scores.argmax(1)
        found.append(next_words)
        ended |= next_words == EOS
        if stop and bool(ended.all()):
            break
    return torch.stack(found, 1), rating
