"""Filters interactions and items, and peels their bipartite graph down to its k-core."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from xrec_repro.contracts import CORE_INTERACTIONS, CORE_ITEMS, INTERACTIONS, ITEMS
from xrec_repro.errors import DataError
from xrec_repro.io import read_table, write_table

Ints = NDArray[np.integer]
Mask = NDArray[np.bool_]

# Peeling all edges at once is worth its pass over them only while it removes a good part of them.
_WORTHWHILE_SHARE = 1 / 8
_BATCH_ROWS = 65_536


# --- The k-core of a graph --------------------------------------------------------------------------------


def kcore_mask(users: Ints, items: Ints, k_user: int, k_item: int) -> Mask:
    """Find the k-core of a bipartite graph: its largest part in which every node has enough neighbours.

    A repeated pair is one edge: its copies count once in the degrees and share one verdict.

    The edge list is peeled as a whole while each pass removes at least an eighth of it, and node by node on a
    sparse matrix from then on, so that the work grows linearly with the edges, whatever the number of rounds
    that the fixed point takes (Batagelj and Zaversnik, 2003, for general graphs).

    Args:
        users: Non-negative user indices, shape [n_edges].
        items: Non-negative item indices, shape [n_edges]; their own numbering, apart from the users'.
        k_user: Smallest number of items of a remaining user.
        k_item: Smallest number of users of a remaining item.

    Returns:
        Which edges remain, shape [n_edges].

    Raises:
        DataError: The arrays differ in length, or hold a negative index.
    """
    users, items = np.asarray(users), np.asarray(items)
    if users.shape != items.shape or users.ndim != 1:
        raise DataError(f"k-core: users {users.shape} and items {items.shape} must be flat and equally long")
    if users.size == 0:
        return np.zeros(0, dtype=bool)
    if min(users.min(), items.min()) < 0:
        raise DataError("k-core: a user or item index is negative; number both from 0")
    remaining = _peel_edges(users, items, k_user, k_item)
    if remaining.size:
        remaining = remaining[_peel_nodes(users[remaining], items[remaining], k_user, k_item)]
    mask = np.zeros(users.size, dtype=bool)
    mask[remaining] = True
    return mask


def _peel_edges(users: Ints, items: Ints, k_user: int, k_item: int) -> Ints:
    """Return the edges left when a further pass over all of them would remove few.

    Copies of a pair count each here, so degrees are never too small and no edge of the core is lost.
    """
    remaining = np.arange(users.size)
    while remaining.size:
        passes = (np.bincount(users) >= k_user)[users] & (np.bincount(items) >= k_item)[items]
        before = remaining.size
        if passes.all():
            break
        remaining, users, items = remaining[passes], users[passes], items[passes]
        if before - remaining.size < _WORTHWHILE_SHARE * before:
            break
    return remaining


def _peel_nodes(users: Ints, items: Ints, k_user: int, k_item: int) -> Mask:
    """Peel to the fixed point, touching the edges of each removed node once."""
    # SciPy merges the copies of a pair here, which makes the stored degrees those of unique edges.
    by_user = sparse.csr_array((np.ones(users.size, dtype=bool), (users, items)))
    by_item = by_user.T.tocsr()
    user_degree, item_degree = np.diff(by_user.indptr), np.diff(by_item.indptr)
    user_stays, item_stays = user_degree >= k_user, item_degree >= k_item
    gone_users, gone_items = np.flatnonzero(~user_stays), np.flatnonzero(~item_stays)
    while gone_users.size or gone_items.size:
        fallen_items = _remove(by_user, gone_users, item_degree, item_stays, k_item)
        gone_items = np.concatenate([gone_items, fallen_items])
        gone_users = _remove(by_item, gone_items, user_degree, user_stays, k_user)
        gone_items = gone_items[:0]
    return user_stays[users] & item_stays[items]


def _remove(adjacency: sparse.csr_array, gone: Ints, degree: Ints, stays: Mask, k: int) -> Ints:
    """Take `gone` from the degrees of their neighbours, in place; return the neighbours that fall below k."""
    neighbours = adjacency[gone].indices
    np.subtract.at(degree, neighbours, 1)
    fallen = np.unique(neighbours[stays[neighbours] & (degree[neighbours] < k)])
    stays[fallen] = False
    return fallen


def _largest_core(users: Ints, items: Ints, k_user: int, k_item: int) -> tuple[int, int, Mask]:
    """Scale both k down alike (rounding up) to the largest that leave something.

    A core of smaller k contains the core of larger k, so bisection finds the place. At the end of the scale,
    (1, 1), every edge remains.
    """
    top = max(k_user, k_item)

    def scaled(step: int) -> tuple[int, int]:
        return math.ceil(k_user * step / top), math.ceil(k_item * step / top)

    low, high = 1, top
    while low < high:
        middle = (low + high + 1) // 2
        if kcore_mask(users, items, *scaled(middle)).any():
            low = middle
        else:
            high = middle - 1
    return *scaled(low), kcore_mask(users, items, *scaled(low))


# --- Filtering files --------------------------------------------------------------------------------------


class _Pairs(NamedTuple):
    """The columns that filters look at; users and items are positions in the id arrays."""

    users: Ints
    items: Ints
    user_ids: pa.Array
    item_ids: pa.Array
    rating: NDArray[np.float32]


class _Funnel:
    """The interactions that are left, and how many were after each step."""

    def __init__(self, path: str | Path, size: int) -> None:
        self.path = path
        self.keep: Mask = np.ones(size, dtype=bool)
        self.counts: dict[str, int] = {"read": size}

    @property
    def rows(self) -> Ints:
        return np.flatnonzero(self.keep)

    def narrow(self, step: str, passes: Mask, culprit: str) -> None:
        """Keep the rows that pass, shape [n_rows]; `culprit` is the setting to blame when none does."""
        before = int(self.keep.sum())
        self.keep &= passes
        self.counts[step] = int(self.keep.sum())
        if not self.counts[step]:
            raise DataError(f"{self.path}: {culprit} leaves none of {before} interactions; relax it")


def filter_kcore(
    interactions_path: str | Path,
    items_path: str | Path,
    settings: dict[str, Any],
    out_interactions: str | Path,
    out_items: str | Path,
) -> dict[str, Any]:
    """Filter raw interactions, keep the k-core, and give dense ids in order of first appearance.

    The order of the steps is that of the published Yelp script (HKUDS/XRec, process/interaction.py): rating,
    text and item filters; a subsample of the sorted user ids; the k-core. Of a repeated (user, item) pair the
    first interaction is kept.

    Args:
        interactions_path: Parquet file under the contract ``INTERACTIONS``.
        items_path: Parquet file under the contract ``ITEMS``; of a repeated item the first row counts.
        settings: The section ``kcore`` of the configuration.
        out_interactions: Where to write ``CORE_INTERACTIONS``, in the order of the input.
        out_items: Where to write ``CORE_ITEMS``, ordered by item.

    Returns:
        ``counts`` (interactions after each step), ``users``, ``items``, ``edges`` and ``density`` (edges
        over users times items).

    Raises:
        DataError: A file is unusable, or a step leaves nothing; the message names the step.
    """
    pairs = _read_pairs(interactions_path)
    item_rows, item_passes = _match_items(items_path, pairs.item_ids, settings["require_item"])
    funnel = _Funnel(interactions_path, pairs.users.size)
    _filter_rows(funnel, pairs, item_passes, settings)
    _keep_core(funnel, pairs, settings["k_user"], settings["k_item"])

    rows = funnel.rows
    user, user_codes = _by_first_appearance(pairs.users[rows])
    item, item_codes = _by_first_appearance(pairs.items[rows])
    core = _read_rows(interactions_path, INTERACTIONS, funnel.keep)
    core = core.append_column("user", user).append_column("item", item)
    write_table(out_interactions, core, CORE_INTERACTIONS)
    items = _core_items(items_path, item_rows.take(item_codes), pairs.item_ids.take(item_codes))
    write_table(out_items, items, CORE_ITEMS)
    size = {"users": len(user_codes), "items": len(item_codes), "edges": rows.size}
    return {"counts": funnel.counts, **size, "density": rows.size / (size["users"] * size["items"])}


def text_mask(path: str | Path, column: str) -> Mask:
    """Tell which rows of a Parquet column hold more than white space, without loading it as a whole.

    Returns:
        Shape [n_rows].

    Raises:
        DataError: The column is missing.
    """
    batches = _batches(path, pa.schema({column: pa.string()}))
    return np.concatenate([np.zeros(0, dtype=bool), *(_has_text(batch[column]) for batch in batches)])


def _filter_rows(funnel: _Funnel, pairs: _Pairs, item_passes: Mask, settings: dict[str, Any]) -> None:
    above = settings["rating_above"]
    if above is not None:
        # In the column's own precision: 3.7 is not above 3.7. A missing rating (NaN) compares as false.
        funnel.narrow("rating", pairs.rating > np.float32(above), f"kcore.rating_above={above}")
    if settings["require_review"]:
        has_review = text_mask(funnel.path, "review")
        funnel.narrow("review", has_review, "kcore.require_review")
    if settings["require_item"]:
        culprit = f"kcore.require_item={settings['require_item']}"
        funnel.narrow("item", item_passes[pairs.items], culprit)
    if settings["user_fraction"] < 1:
        sampled = _sample_users(pairs, funnel.rows, settings["user_fraction"], settings["seed"])
        funnel.narrow("user_subsample", sampled, f"kcore.user_fraction={settings['user_fraction']}")


def _keep_core(funnel: _Funnel, pairs: _Pairs, k_user: int, k_item: int) -> None:
    rows = funnel.rows
    keys = pairs.users[rows].astype(np.int64) * len(pairs.item_ids) + pairs.items[rows]
    first = np.zeros_like(funnel.keep)
    first[rows[np.unique(keys, return_index=True)[1]]] = True
    funnel.narrow("duplicates", first, "the removal of duplicates")

    rows = funnel.rows
    users, items = pairs.users[rows], pairs.items[rows]
    core = np.zeros_like(funnel.keep)
    core[rows] = kcore_mask(users, items, k_user, k_item)
    if not core.any():
        raise DataError(f"{funnel.path}: {_empty_core(users, items, k_user, k_item)}")
    funnel.narrow("kcore", core, f"k_user={k_user}, k_item={k_item}")


def _empty_core(users: Ints, items: Ints, k_user: int, k_item: int) -> str:
    best_user, best_item, core = _largest_core(users, items, k_user, k_item)
    best = f"k_user={best_user}, k_item={best_item} (same proportion)"
    if k_user == k_item:
        best = str(best_user)
    left = f"{np.unique(users[core]).size} users, {np.unique(items[core]).size} items"
    asked = f"k_user={k_user}, k_item={k_item}"
    return f"{asked} leaves nothing; the largest k that leaves something is {best} ({left})"


def _sample_users(pairs: _Pairs, rows: Ints, fraction: float, seed: int) -> Mask:
    """Draw users as the published script does; return which of all rows are theirs.

    It seeds Python's own generator and samples the list of sorted ids; the positions drawn depend on the
    list's length alone. Arrow sorts by UTF-8 bytes, which is Python's order, by code points.
    """
    codes = np.unique(pairs.users[rows])
    by_id = codes[pc.sort_indices(pairs.user_ids.take(codes)).to_numpy()]
    positions = random.Random(seed).sample(range(by_id.size), int(fraction * by_id.size))
    chosen = np.zeros(len(pairs.user_ids), dtype=bool)
    chosen[by_id[positions]] = True
    return chosen[pairs.users]


def _read_pairs(path: str | Path) -> _Pairs:
    table = read_table(path, INTERACTIONS, ["user_id", "item_id", "rating"])
    if not table.num_rows:
        raise DataError(f"{path}: no interactions; check the raw file that it was read from")
    users, user_ids = _encode(path, table, "user_id")
    items, item_ids = _encode(path, table, "item_id")
    rating = table["rating"].to_numpy().astype(np.float32, copy=False)
    return _Pairs(users, items, user_ids, item_ids, rating)


def _encode(path: str | Path, table: pa.Table, column: str) -> tuple[Ints, pa.Array]:
    """Return int32 codes of a string column and the string of each code."""
    missing = table[column].is_null().to_numpy()
    if missing.any():
        raise DataError(f"{path}: row {int(missing.argmax())} (from 0) has no {column}; remove the row")
    encoded = table[column].dictionary_encode().combine_chunks()
    return encoded.indices.to_numpy(), encoded.dictionary


def _match_items(path: str | Path, item_ids: pa.Array, required: list[str]) -> tuple[pa.Array, Mask]:
    """Find items in the items table.

    Returns:
        The row of each item, null where it is absent, and whether it is present with all required fields.
    """
    for name in required:
        if name not in ITEMS.names:
            raise DataError(f"kcore.require_item: {name!r} is no field of an item ({', '.join(ITEMS.names)})")
    table = read_table(path, ITEMS, ["item_id", *(name for name in required if name != "item_id")])
    passes = np.ones(table.num_rows, dtype=bool)
    for name in required:
        passes &= np.concatenate([np.zeros(0, dtype=bool), *map(_has_text, table[name].chunks)])
    rows = pc.index_in(item_ids, value_set=table["item_id"])
    found = rows.is_valid().to_numpy(zero_copy_only=False)
    found[found] = passes[rows.drop_null().to_numpy()]
    return rows, found


def _core_items(path: str | Path, rows: pa.Array, item_ids: pa.Array) -> pa.Table:
    """Return the items of the core in order; an item that the table lacks gets null fields."""
    wanted = np.zeros(pq.read_metadata(path).num_rows, dtype=bool)
    wanted[rows.drop_null().to_numpy()] = True
    table = _read_rows(path, ITEMS, wanted)
    places = pc.index_in(rows, value_set=pa.array(np.flatnonzero(wanted), pa.int32()), skip_nulls=True)
    table = table.take(places).set_column(0, "item_id", item_ids)
    return table.append_column("item", pa.array(np.arange(len(item_ids), dtype=np.int32)))


def _by_first_appearance(codes: Ints) -> tuple[pa.Array, pa.Array]:
    """Renumber codes by first appearance; return the new numbers (int32) and the old code of each."""
    encoded = pa.array(codes).dictionary_encode()
    return encoded.indices, encoded.dictionary


def _has_text(strings: pa.Array) -> Mask:
    filled = pc.not_equal(pc.utf8_trim_whitespace(strings), "")
    return pc.fill_null(filled, False).to_numpy(zero_copy_only=False)


def _batches(path: str | Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        for name in schema.names:
            if name not in file.schema_arrow.names:
                raise DataError(f"{path}: column {name!r} is missing")
        for batch in file.iter_batches(_BATCH_ROWS, columns=schema.names):
            yield batch.select(schema.names).cast(schema)


def _read_rows(path: str | Path, schema: pa.Schema, keep: Mask) -> pa.Table:
    """Read the rows where `keep` holds, batch by batch, so that dropped texts never fill the memory."""
    kept, start = [], 0
    for batch in _batches(path, schema):
        kept.append(batch.filter(pa.array(keep[start : start + batch.num_rows])))
        start += batch.num_rows
    return pa.Table.from_batches(kept, schema)
