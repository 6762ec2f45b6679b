"""Ways to multiply rows with a matrix of weights: cuBLAS, and tiles of one order of sums."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from xrec_repro.lm.invariant import TRITON, tiled

# Rows, columns and inner length of a tile; warps; stages.
TILES = {
    "tile 16x32": (16, 32, 256, 4, 4),
    "tile 32x32": (32, 32, 128, 4, 4),
    "tile 64x32": (64, 32, 128, 4, 4),
    "tile 64x64": (64, 64, 64, 4, 4),
    "tile 128x128": (128, 128, 64, 8, 3),
    "tile 256x128": (256, 128, 64, 8, 3),
}

__all__ = ["TILES", "TRITON", "ways"]


def sliced(x: Tensor, w: Tensor, height: int) -> Tensor:
    """Return x w^T by products of a fixed height, the last filled up with zeros."""
    full = F.pad(x, (0, 0, 0, -len(x) % height))
    return torch.cat([F.linear(part, w) for part in full.split(height)])[: len(x)]


def ways(tiles: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return the ways to multiply by name, those in Triton only with ``tiles``."""
    found = {"cuBLAS": F.linear} | {f"cuBLAS, slices of {n}": partial(sliced, height=n) for n in (16, 64)}
    return found | ({name: partial(tiled, tile=tile) for name, tile in TILES.items()} if tiles else {})
