"""Products with weights whose rows do not depend on the batch: on a GPU in tiles of one order of sums.

cuBLAS takes another kernel for another height of a batch, and that one rounds differently. Here one program adds up all
of a sum, in the order of the inner dimension, whatever the tile: tiles of several sizes give the same bits, which
`check` makes sure of on the device at hand, so that each height takes the one that is fast for it.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from xrec_repro.errors import ModelError

TRITON = importlib.util.find_spec("triton") is not None
Tile = tuple[int, int, int, int, int]
_WIDE = 8192  # columns of a product from which on there are enough for wider tiles
# Up to so many rows -> for few columns and for many: rows, columns and inner length of a tile; warps; stages.
TILES: dict[float, tuple[Tile, Tile]] = {
    16: ((16, 32, 256, 4, 4), (16, 32, 256, 4, 4)),
    32: ((32, 32, 128, 4, 4), (32, 32, 128, 4, 4)),
    128: ((64, 32, 128, 4, 4), (64, 64, 64, 4, 4)),
    256: ((64, 64, 64, 4, 4), (64, 64, 64, 4, 4)),
    512: ((128, 128, 64, 8, 3), (128, 128, 64, 8, 3)),
    float("inf"): ((256, 128, 64, 8, 3), (256, 128, 64, 8, 3)),
}
_INNER_32 = 32  # of float32, whose tiles would not fit a multiprocessor
_LAYERS = (nn.Linear, Conv1D)  # GPT-2's is x w + b with w [k, n]

if TRITON:
    import triton
    import triton.language as tl

    # m is never specialised: height 1 runs the same machine code as height 256.
    @triton.jit(do_not_specialize=["m"])
    def _tiles(
        x, w, b, y, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
        WHOLE: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        tile = tl.program_id(0)
        tall = tl.cdiv(m, BM)
        rows = (tile % tall) * BM + tl.arange(0, BM)  # tiles of rows that share weights run side by side
        columns = (tile // tall) * BN + tl.arange(0, BN)
        inner = tl.arange(0, BK)
        total = tl.zeros((BM, BN), dtype=tl.float32)
        for start in range(0, k, BK):
            there = start + inner
            xs_inside = rows[:, None] < m
            if WHOLE:
                ws = tl.load(w + columns[None, :] * k + there[:, None])
            else:
                xs_inside = xs_inside & (there[None, :] < k)
                ws = tl.load(
                    w + columns[None, :] * k + there[:, None],
                    mask=(columns[None, :] < n) & (there[:, None] < k),
                    other=0.0,
                )
            xs = tl.load(x + rows[:, None] * k + there[None, :], mask=xs_inside, other=0.0)
            total = tl.dot(xs, ws, total, input_precision=PRECISION)
        if BIAS:
            total += tl.load(b + columns, mask=columns < n, other=0.0).to(tl.float32)[None, :]
        out = y + rows[:, None] * n + columns[None, :]
        tl.store(out, total.to(y.dtype.element_ty), mask=(rows[:, None] < m) & (columns[None, :] < n))


def tiled(x: Tensor, w: Tensor, b: Tensor | None = None, tile: Tile | None = None) -> Tensor:
    """Return x w^T + b ([…, n]) of x […, k] and w [n, k], on a CUDA device.

    Args:
        x: Rows, any number of them, contiguous.
        w: Weights, contiguous.
        b: [n], or None.
        tile: One of `TILES`; None for the one of this height.
    """
    (n, k), m = w.shape, x.numel() // x.shape[-1]
    bm, bn, bk, warps, stages = tile or next(both for most, both in TILES.items() if m <= most)[n >= _WIDE]
    if x.dtype == torch.float32:
        bk = _INNER_32
    y = x.new_empty(*x.shape[:-1], n)
    whole = n % bn == 0 and k % bk == 0
    grid = (triton.cdiv(m, bm) * triton.cdiv(n, bn),)
    options = {"num_warps": warps, "num_stages": stages}
    _tiles[grid](x, w, w if b is None else b, y, m, n, k, bm, bn, bk, whole, b is not None, "ieee", **options)
    return y


def one_by_one(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return x w^T + b of x [1, N, k], each row by a product of its own: for a CPU in 16 bits."""
    return torch.cat([F.linear(row, w, b) for row in x.split(1, dim=1)], dim=1)


def matrices(model: nn.Module) -> list[Tensor]:
    """Return the matrices that a model multiplies with, [n, k] each."""
    return [_matrix(module) for module in model.modules() if type(module) in _LAYERS]


def lay_out(model: nn.Module) -> None:
    """Lay the weights of GPT-2, which are [k, n], in memory so that `tiled` reads them as those of other models."""
    for module in model.modules():
        if type(module) is Conv1D:
            module.weight.data = module.weight.data.t().contiguous().t()


def check(weights: list[Tensor]) -> None:
    """Make sure that all tiles give the same bits for matrices of these shapes.

    Raises:
        ModelError: They do not, on this device with this version of Triton.
    """
    for w in {tuple(w.shape): w for w in weights}.values():
        generator = torch.Generator(w.device).manual_seed(0)
        x = torch.randn(256, w.shape[1], device=w.device, generator=generator).to(w.dtype)
        first = tiled(x, w, tile=TILES[16][0])
        for tile in {tile for both in TILES.values() for tile in both}:
            if not torch.equal(tiled(x, w, tile=tile), first):
                raise ModelError(
                    f"generation.invariance: products in tiles of {tile[0]}x{tile[1]} round differently on this "
                    f"{torch.cuda.get_device_name()} (Triton {triton.__version__}), so 'exact' cannot be promised; "
                    f"set it to 'fast'"
                )


@contextmanager
def multiplying(model: nn.Module, way: Callable[..., Tensor] | None) -> Iterator[None]:
    """Let the linear layers of a model multiply in another way within this block; None leaves them as they are.

    Hooks on the layers act as ever.
    """
    changed: list[Any] = []
    try:
        for module in model.modules() if way else ():
            if type(module) in _LAYERS:
                module.forward = partial(_multiply, way, module)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def _multiply(way: Callable[..., Tensor], module: nn.Linear | Conv1D, x: Tensor) -> Tensor:
    return way(x, _matrix(module), module.bias)


def _matrix(module: nn.Linear | Conv1D) -> Tensor:
    return module.weight.t() if type(module) is Conv1D else module.weight
