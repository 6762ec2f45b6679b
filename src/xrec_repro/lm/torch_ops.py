"""What a language model does between its products, in torch: for a CPU. `lm.kernels` has the same for a GPU.

Rows of tokens lie side by side, [1, N, …]; each has a slot, whose keys and values it reads, and a place in its text.
Nothing here depends on what stands in another row, nor on how many there are.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def norm(x: Tensor, branch: Tensor | None, module: Any) -> tuple[Tensor, Tensor]:
    """Add a branch to the residual stream, [1, N, hidden]; return the sum, and it normalised (RMSNorm)."""
    x = x if branch is None else x + branch
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return x, module.weight * scaled.to(x.dtype)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, elementwise."""
    return F.silu(gate) * up


def turn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: tuple[Tensor, Tensor],
    at: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Turn queries and keys by their places (rotary embedding), and keep keys and values in the cache.

    Args:
        q: Queries, [1, N, heads * width].
        k: Keys, [1, N, kv heads * width].
        v: Values, likewise.
        angles: Cosines and sines by place, each [T, width].
        at: Slot and place of each row, each [N].
        keys: The cache, [slots, kv heads, T, width].
        values: Likewise.

    Returns:
        The queries, [N, heads, width].
    """
    slots, places = at
    width = keys.shape[3]
    cosine, sine = (side[places].unsqueeze(1) for side in angles)

    def turned(x: Tensor) -> Tensor:
        x = x.view(len(slots), -1, width)
        left, right = x.chunk(2, dim=-1)
        return x * cosine + torch.cat([-right, left], dim=-1) * sine

    keys[slots, :, places] = turned(k)
    values[slots, :, places] = v.view(len(slots), -1, width)
    return turned(q)


def attend_step(q: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, scale: float, few: bool = False) -> Tensor:
    """Let each slot's one query see its text up to itself.

    Args:
        q: [slots, heads, width].
        lengths: The query's place, [slots].
        keys: The cache, [slots or more, kv heads, T, width].
        values: Likewise.
        scale: Of the scores.
        few: Whether there are so few slots that another order of sums is faster, if there is one.

    Returns:
        [1, slots, heads * width].
    """
    rows = [
        _seen(one.unsqueeze(1), keys[n], values[n], end, scale)
        for n, (one, end) in enumerate(zip(q, lengths.tolist(), strict=True))
    ]
    return torch.cat(rows, dim=1)


def attend_pack(q: Tensor, blocks: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Let each query of some prompts see its own text up to itself.

    Args:
        q: [N, heads, width].
        blocks: Runs of queries, [B, 4]: first row, number, first place, slot; none of a number of 0.
        keys: The cache, [slots, kv heads, T, width].
        values: Likewise.
        scale: Of the scores.

    Returns:
        [1, N, heads * width].
    """
    found = q.new_zeros(1, len(q), q.shape[1] * q.shape[2])
    for first, count, place, slot in blocks.tolist():
        rows = slice(first, first + count)
        if count:
            found[:, rows] = _seen(q[rows].transpose(0, 1), keys[slot], values[slot], place, scale)
    return found


def _seen(q: Tensor, keys: Tensor, values: Tensor, place: int, scale: float) -> Tensor:
    """Attend with queries [heads, n, width], the first at `place`, to the cache of one slot; [1, n, heads * width]."""
    count = q.shape[1]
    shared = len(q) // len(keys)
    k, v = (side[:, : place + count].repeat_interleave(shared, dim=0) for side in (keys, values))
    mask = torch.ones(count, place + count, dtype=torch.bool, device=q.device).tril(place) if count > 1 else None
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return seen.transpose(0, 1).reshape(1, count, -1)
