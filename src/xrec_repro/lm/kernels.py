"""What a language model does between its products, as Triton kernels: for a GPU. `lm.torch_ops` says what each does.

One program makes one row's result, or one head's, in an order of sums that no other row enters: a result has the same
bits beside any others.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor

TRITON = importlib.util.find_spec("triton") is not None
QUERIES = 64  # of a block of a prompt
_KEYS = 32  # that are looked at together

if TRITON:
    import triton
    import triton.language as tl

    @triton.jit
    def _norm(x, branch, total, y, weight, width, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64) * width
        at = tl.arange(0, BLOCK)
        inside = at < width
        one = tl.load(x + row + at, mask=inside, other=0.0)
        if ADD:
            other = tl.load(branch + row + at, mask=inside, other=0.0)
            one = (one.to(tl.float32) + other.to(tl.float32)).to(y.dtype.element_ty)
            tl.store(total + row + at, one, mask=inside)
        wide = one.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / width + eps)
        scaled = (wide * scale).to(y.dtype.element_ty).to(tl.float32)
        w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + row + at, (w * scaled).to(y.dtype.element_ty), mask=inside)

    @triton.jit
    def _gated(gate, up, y, count, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        one = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
        other = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
        silu = (one / (1.0 + tl.exp(-one))).to(y.dtype.element_ty).to(tl.float32)
        tl.store(y + at, (silu * other).to(y.dtype.element_ty), mask=inside)

    @triton.jit
    def _turned(source, target, heads, stride, cosine, sine, HALF: tl.constexpr, BLOCK: tl.constexpr):
        # Heads of one row, [heads, 2 HALF] in `source`, turned, to `target` where a head's start is `stride` on.
        head = tl.arange(0, BLOCK)[:, None]
        at = tl.arange(0, HALF)[None, :]
        inside = head < heads
        left = tl.load(source + head * 2 * HALF + at, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(source + head * 2 * HALF + HALF + at, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(cosine + at).to(tl.float32)
        s = tl.load(sine + at).to(tl.float32)
        tl.store(target + head * stride + at, (left * c - right * s).to(target.dtype.element_ty), mask=inside)
        tl.store(target + head * stride + HALF + at, (right * c + left * s).to(target.dtype.element_ty), mask=inside)

    @triton.jit
    def _turn(
        q, k, v, y, cosine, sine, slots, places, keys, values, heads, shared, room,
        HALF: tl.constexpr, QUERY_HEADS: tl.constexpr, KEY_HEADS: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        part = tl.program_id(1)
        width: tl.constexpr = 2 * HALF
        slot = tl.load(slots + row)
        place = tl.load(places + row)
        cache = slot * shared * room * width + place * width
        if part == 0:
            here = row * heads * width
            _turned(q + here, y + here, heads, width, cosine + place * width, sine + place * width, HALF, QUERY_HEADS)
        elif part == 1:
            here = row * shared * width
            c, s = cosine + place * width, sine + place * width
            _turned(k + here, keys + cache, shared, room * width, c, s, HALF, KEY_HEADS)
        else:
            head = tl.arange(0, KEY_HEADS)[:, None]
            at = tl.arange(0, width)[None, :]
            one = tl.load(v + row * shared * width + head * width + at, mask=head < shared, other=0.0)
            tl.store(values + cache + head * room * width + at, one, mask=head < shared)

    @triton.jit
    def _attend_step(q, y, lengths, keys, values, scale, heads, shared, room, WIDTH: tl.constexpr, KEYS: tl.constexpr):
        slot = tl.program_id(0).to(tl.int64)
        head = tl.program_id(1)
        end = tl.load(lengths + slot) + 1
        at = tl.arange(0, WIDTH)
        here = (slot * heads + head) * WIDTH + at
        query = tl.load(q + here).to(tl.float32) * scale
        cache = (slot * shared + head // (heads // shared)) * room * WIDTH
        highest = -float("inf")
        weights = 0.0
        total = tl.zeros((WIDTH,), dtype=tl.float32)
        for start in range(0, end, KEYS):
            n = start + tl.arange(0, KEYS)
            tile = cache + n[:, None] * WIDTH + at[None, :]
            key = tl.load(keys + tile, mask=n[:, None] < end, other=0.0).to(tl.float32)
            value = tl.load(values + tile, mask=n[:, None] < end, other=0.0).to(tl.float32)
            score = tl.where(n < end, tl.sum(key * query[None, :], axis=1), -float("inf"))
            higher = tl.maximum(highest, tl.max(score, axis=0))
            weight = tl.exp(score - higher)
            shrunk = tl.exp(highest - higher)
            weights = weights * shrunk + tl.sum(weight, axis=0)
            total = total * shrunk + tl.sum(weight[:, None] * value, axis=0)
            highest = higher
        tl.store(y + here, (total / weights).to(y.dtype.element_ty))

    @triton.jit
    def _attend_pack(
        q, y, blocks, keys, values, scale, heads, shared, room,
        WIDTH: tl.constexpr, WIDE: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        block = blocks + tl.program_id(0) * 4
        head = tl.program_id(1)
        first = tl.load(block)
        count = tl.load(block + 1)
        place = tl.load(block + 2)
        slot = tl.load(block + 3)
        at = tl.arange(0, WIDE)
        row = tl.arange(0, QUERIES)
        here = ((first + row[:, None]) * heads + head) * WIDTH + at[None, :]
        inside = (row[:, None] < count) & (at[None, :] < WIDTH)
        query = tl.load(q + here, mask=inside, other=0.0)
        cache = (slot * shared + head // (heads // shared)) * room * WIDTH
        highest = tl.full((QUERIES,), -float("inf"), dtype=tl.float32)
        weights = tl.zeros((QUERIES,), dtype=tl.float32)
        total = tl.zeros((QUERIES, WIDE), dtype=tl.float32)
        end = tl.where(count > 0, place + count, 0)
        for start in range(0, end, KEYS):
            n = start + tl.arange(0, KEYS)
            tile = cache + n[:, None] * WIDTH + at[None, :]
            there = (n[:, None] < end) & (at[None, :] < WIDTH)
            key = tl.load(keys + tile, mask=there, other=0.0)
            value = tl.load(values + tile, mask=there, other=0.0)
            score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            score = tl.where(n[None, :] <= place + row[:, None], score, -float("inf"))
            higher = tl.maximum(highest, tl.max(score, axis=1))
            weight = tl.exp(score - higher[:, None])
            shrunk = tl.exp(highest - higher)
            weights = weights * shrunk + tl.sum(weight, axis=1)
            total = tl.dot(weight.to(value.dtype), value, total * shrunk[:, None], input_precision=PRECISION)
            highest = higher
        tl.store(y + here, (total / weights[:, None]).to(y.dtype.element_ty), mask=inside)


def norm(x: Tensor, branch: Tensor | None, module: Any) -> tuple[Tensor, Tensor]:
    """See `lm.torch_ops.norm`."""
    width, y = x.shape[-1], torch.empty_like(x)
    total = x if branch is None else torch.empty_like(x)
    grid, block = (x.numel() // width,), triton.next_power_of_2(width)
    added = x if branch is None else branch
    _norm[grid](x, added, total, y, module.weight, width, module.variance_epsilon, branch is not None, block)
    return total, y


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """See `lm.torch_ops.gated`."""
    y = torch.empty_like(gate)
    _gated[(triton.cdiv(y.numel(), 1024),)](gate, up, y, y.numel(), 1024)
    return y


def turn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: tuple[Tensor, Tensor],
    at: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """See `lm.torch_ops.turn`."""
    _, shared, room, width = keys.shape
    heads = q.shape[-1] // width
    y = q.new_empty(q.shape[1], heads, width)
    wide = triton.next_power_of_2(heads), triton.next_power_of_2(shared)
    _turn[(len(y), 3)](q, k, v, y, *angles, *at, keys, values, heads, shared, room, width // 2, *wide)
    return y


def attend_step(q: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, scale: float, few: bool = False) -> Tensor:
    """See `lm.torch_ops.attend_step`."""
    _, shared, room, width = keys.shape
    count, heads, _ = q.shape
    y = torch.empty_like(q)
    together, warps = (128, 8) if few else (_KEYS, 1)
    shape = heads, shared, room, width, together
    _attend_step[(count, heads)](q, y, lengths, keys, values, scale, *shape, num_warps=warps)
    return y.view(1, count, -1)


def attend_pack(q: Tensor, blocks: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """See `lm.torch_ops.attend_pack`; blocks of at most `QUERIES` rows."""
    _, shared, room, width = keys.shape
    count, heads, _ = q.shape
    y = torch.zeros_like(q)
    wide = max(16, triton.next_power_of_2(width))
    shape = heads, shared, room, width, wide, QUERIES, _KEYS, "ieee"
    _attend_pack[(len(blocks), heads)](q, y, blocks, keys, values, scale, *shape, num_stages=3)
    return y.view(1, count, -1)
