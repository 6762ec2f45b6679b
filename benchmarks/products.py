"""Ways to multiply rows with a matrix of weights: cuBLAS, and a Triton kernel whose order of sums knows no height."""

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows, columns and inner length of a tile; parts of the inner length; warps; stages.
TILES = {
    "tile 16x32": (16, 32, 256, 1, 4, 4),
    "tile 16x64, K in 4": (16, 64, 128, 4, 4, 4),
    "tile 16x128": (16, 128, 64, 1, 4, 5),
    "tile 64x64": (64, 64, 64, 1, 4, 4),
    "tile 128x128": (128, 128, 64, 1, 8, 3),
}

TRITON = importlib.util.find_spec("triton") is not None

if TRITON:
    import triton
    import triton.language as tl

    # m is never specialised: height 1 runs the same machine code as height 256.
    @triton.jit(do_not_specialize=["m"])
    def _tiles(x, w, y, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr):
        tile = tl.program_id(0)
        part = tl.program_id(1)
        tall = tl.cdiv(m, BM)
        rows = (tile % tall) * BM + tl.arange(0, BM)  # tiles of rows that share weights run side by side
        columns = (tile // tall) * BN + tl.arange(0, BN)
        inner = tl.arange(0, BK)
        blocks = k // BK
        first = part * blocks // SPLIT
        end = (part + 1) * blocks // SPLIT
        total = tl.zeros((BM, BN), dtype=tl.float32)
        for block in range(first, end):
            xs = tl.load(x + rows[:, None] * k + inner[None, :] + block * BK, mask=rows[:, None] < m, other=0.0)
            ws = tl.load(w + columns[None, :] * k + inner[:, None] + block * BK)
            total = tl.dot(xs, ws, total)
        out = y + part * m * n + rows[:, None] * n + columns[None, :]
        tl.store(out, total.to(y.dtype.element_ty), mask=rows[:, None] < m)

    @triton.jit(do_not_specialize=["count"])
    def _add_parts(parts, y, count, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for part in tl.static_range(SPLIT):
            total += tl.load(parts + part * count + at, mask=at < count, other=0.0)
        tl.store(y + at, total.to(y.dtype.element_ty), mask=at < count)


def tiled(x: Tensor, w: Tensor, tile: tuple[int, ...]) -> Tensor:
    """Return x w^T ([m, n]) of x [m, k] and w [n, k]; n and k are multiples of the tile's, m is any height."""
    bm, bn, bk, split, warps, stages = tile
    (m, k), n = x.shape, w.shape[0]
    y = x.new_empty(m, n)
    out = y if split == 1 else torch.empty(split, m, n, device=x.device, dtype=torch.float32)
    grid = (triton.cdiv(m, bm) * (n // bn), split)
    _tiles[grid](x, w, out, m, n, k, bm, bn, bk, split, num_warps=warps, num_stages=stages)
    if split > 1:
        _add_parts[(triton.cdiv(m * n, 1024),)](out, y, m * n, split, 1024, num_warps=4)
    return y


def sliced(x: Tensor, w: Tensor, height: int) -> Tensor:
    """Return x w^T by products of a fixed height, the last filled up with zeros."""
    full = F.pad(x, (0, 0, 0, -len(x) % height))
    return torch.cat([F.linear(part, w) for part in full.split(height)])[: len(x)]


def ways(tiles: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return the ways to multiply by name, those in Triton only with ``tiles``."""
    found = {"cuBLAS": F.linear} | {f"cuBLAS, slices of {n}": partial(sliced, height=n) for n in (16, 64)}
    return found | ({name: partial(tiled, tile=tile) for name, tile in TILES.items()} if tiles else {})
