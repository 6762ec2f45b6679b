"""Graphs to measure on: the released one, or random ones."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from harness import ROOT

from xrec_repro.seeding import numpy_rng

YELP_USERS, YELP_ITEMS, YELP_EDGES = 15_962, 14_085, 314_944  # of the released train graph


def released(name: str) -> Path | None:
    """Return the folder of a released data set, under $XREC_SHARED or beside the checkout; None where it is not."""
    shared = Path(os.environ.get("XREC_SHARED", ROOT.parent / "shared"))
    found = (shared / part / name for part in ("data/xrec", "xrec", "."))
    return next((folder for folder in found if folder.is_dir()), None)


def yelp_edges(smoke: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Return users and items of the train edges of the released Yelp graph, or of a random one of its size.

    All edges of the release are a 10-core, of which nothing can be peeled; its train edges are not.
    """
    if smoke:
        return *random_edges(300, 200, 4_000), "300 users, 200 items, 4,000 random edges"
    folder = released("yelp")
    if folder is None:
        size = f"{YELP_USERS:,} users, {YELP_ITEMS:,} items, about {YELP_EDGES:,} edges"
        return *random_edges(YELP_USERS, YELP_ITEMS, YELP_EDGES), f"random graph of the Yelp graph's size ({size})"
    table = pd.read_csv(folder / "total_trn.csv", dtype=np.int64)
    users, items = (table[side].to_numpy(copy=True) for side in ("user", "item"))
    return users, items, f"released Yelp train graph, {len(users):,} edges"


def random_edges(n_users: int, n_items: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw different edges whose degrees fall as a power law; a user or item may have none."""
    rng = numpy_rng(0, "benchmark edges")
    users, items = (power_law(rng, size, 2 * count) for size in (n_users, n_items))
    keys = np.unique(users * n_items + items)
    return np.divmod(np.sort(rng.permutation(keys)[:count]), n_items)


def power_law(rng: np.random.Generator, size: int, count: int, exponent: float = 0.7) -> np.ndarray:
    """Draw ids below `size` whose frequency falls with their rank to the power `exponent`, int64 [count]."""
    drawn = size * rng.random(count) ** (1 / (1 - exponent))
    return drawn.astype(np.int64).clip(max=size - 1)
