"""Padding of prompts so that a row's result does not depend on the rows beside it.

Rows are padded on the left, padding is masked, and position ids count real tokens only. All three are needed: the
original code pads on the right without a mask, which is why batches gave it poor results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xrec_repro.explainer.prompts import IGNORED_LABEL, Encoded

_FAMILIES = ("llama", "mistral", "qwen2", "gemma", "gpt2")
_KERNELS = ("sdpa", "eager")


@dataclass
class Batch:
    """Prompts padded to one length T.

    Attributes:
        ids: Token ids, [B, T].
        mask: 1 for real tokens, [B, T].
        position_ids: Index of each token within its own prompt, [B, T]; 0 on padding.
        labels: Targets, [B, T], or None for test prompts.
        positions: Indices of the reserved user and item token, [B, 2]; [B, 0] without records.
    """

    ids: Tensor
    mask: Tensor
    position_ids: Tensor
    labels: Tensor | None
    positions: Tensor


def pad_left(rows: Sequence[Encoded], pad_id: int, device: torch.device | str) -> Batch:
    """Pad encoded prompts on the left to the longest of them."""
    length = max(len(row.ids) for row in rows)
    gaps = [length - len(row.ids) for row in rows]
    ids = torch.tensor([[pad_id] * gap + row.ids for gap, row in zip(gaps, rows, strict=True)])
    mask = torch.tensor([[0] * gap + [1] * len(row.ids) for gap, row in zip(gaps, rows, strict=True)])
    labels = None
    if rows[0].labels:
        labels = torch.tensor([[IGNORED_LABEL] * gap + row.labels for gap, row in zip(gaps, rows, strict=True)])
        labels = labels.to(device)
    positions = torch.tensor(
        [[gap + p for p in row.positions] for gap, row in zip(gaps, rows, strict=True)], dtype=torch.long
    )
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    return Batch(ids.to(device), mask.to(device), position_ids.to(device), labels, positions.to(device))


def attention_mask(model: Any, tokens: Tensor, read: int, padded: bool = True) -> Tensor | None:
    """Return what a causal language model is given as ``attention_mask`` when it reads the last of some tokens.

    From a mask of tokens transformers (4.57) works out a causal one in every forward pass, which takes as long as the
    layers of a small model; a mask of four dimensions it hands to them as it is. Where it says the same, such a mask
    is made here: for families that are tested, attention kernels that take one, a cache that was read before, and no
    window that is shorter than the text. Else the mask of tokens is returned.

    Args:
        model: The causal language model.
        tokens: 1 for real tokens, [B, T].
        read: How many of them are read now, the others being in the cache.
        padded: Whether some of `tokens` are 0.

    Returns:
        [B, 1, read, T]: for ``sdpa`` whether a token is seen, for ``eager`` 0 or the lowest number; or [B, T]; or None
        for one token that sees all.
    """
    config, length = model.config, tokens.shape[1]
    kernel, window = config._attn_implementation, getattr(config, "sliding_window", None)
    known = config.model_type in _FAMILIES and kernel in _KERNELS
    if not known or read == length or (window is not None and window < length):
        return tokens
    if read == 1 and not padded and kernel == "sdpa":
        return None
    seen = tokens[:, None, None].bool()
    if read > 1:
        seen = seen & torch.ones(read, length, dtype=torch.bool, device=tokens.device).tril(length - read)
    if kernel == "sdpa":
        return seen
    lowest = torch.finfo(model.dtype).min
    return torch.zeros(seen.shape, dtype=model.dtype, device=tokens.device).masked_fill(~seen, lowest)
