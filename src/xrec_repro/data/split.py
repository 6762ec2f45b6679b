"""Splits the interaction graph and the pairs with texts into train, val and test.

The published release split the two apart, so that four fifths of its text test pairs are edges that the
recommender was trained on. `split_interactions` reproduces that (mode ``independent``), mends it (mode
``joint``) and counts it in both.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from xrec_repro.contracts import CORE_INTERACTIONS, GRAPH, RELEASED_EDGES, RELEASED_TEXTS, TEXTS
from xrec_repro.data.kcore import text_mask
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_table, write_table
from xrec_repro.seeding import numpy_rng

Ints = NDArray[np.integer]
Codes = NDArray[np.int8]
Mask = NDArray[np.bool_]

SPLITS = ("train", "val", "test")
_TRAIN, _VAL, _TEST = _ALL = range(3)
_LEFT_OUT = -1  # an edge of the core that the released split does not know

_REMEDIES = {
    "ratio": "change split.ratios, raise split.max_texts, or lower split.cold_users, kcore.k_user and kcore.k_item",
    "leave_one_out": "it takes users with 3 interactions: raise kcore.k_user to 3, or use split.graph: ratio",
    "released": "the core keeps none of it: lower kcore.k_user and kcore.k_item, raise split.max_texts, or "
    "split by ratio",
}


class _Core(NamedTuple):
    """The core's edges, shape [n_edges] each, and the raw id of each dense id."""

    path: str | Path
    users: Ints
    items: Ints
    timestamps: pa.ChunkedArray
    user_ids: pa.Array
    item_ids: pa.Array

    def keys(self, users: Ints, items: Ints) -> Ints:
        """Number pairs, so that equal pairs have equal numbers."""
        return users.astype(np.int64) * len(self.item_ids) + items


class _Pairs(NamedTuple):
    """Distinct pairs as rows of the core, in their own order, and counts of those not used."""

    rows: Ints
    dropped: dict[str, int]
    released: Codes | None = None  # their split in the release
    offered: tuple[int, ...] = ()  # the splits that the release has, kept by the core or not


def split_interactions(
    core_interactions_path: str | Path,
    settings: dict[str, Any],
    out_graph: str | Path,
    out_texts: str | Path,
    released_edges: str | Path | None = None,
    released_texts: str | Path | None = None,
) -> dict[str, Any]:
    """Split the core's edges and the pairs with texts into train, val and test.

    Pairs with texts are those of `released_texts` where given, else all interactions with a review. In mode
    ``independent`` edges and pairs are split apart, each by its own rule. In mode ``joint`` no val or test pair is a
    train edge: without released texts the pairs inherit the split of the edges; with them, train edges that are val or
    test pairs move to that split of the graph.

    ``cold_users``, a share of the users, is held out whole (`_cold_users`).

    Args:
        core_interactions_path: Parquet file under the contract ``CORE_INTERACTIONS``.
        settings: The section ``split`` of the configuration.
        out_graph: Where to write ``GRAPH``, in the core's order.
        out_texts: Where to write ``TEXTS``, in the candidates' order; the example id is the row.
        released_edges: ``RELEASED_EDGES``; needed for ``graph: released``.
        released_texts: ``RELEASED_TEXTS``; needed for ``texts: released``.

    Returns:
        ``graph`` and ``texts``: pairs per split; ``overlap``: of each text split, the edges in each graph split;
        ``leaked_texts``: test pairs that are train edges; ``moved``: train edges moved by mode ``joint``, by new split;
        ``dropped``: pairs not used, by reason; ``cold_users``: users held out whole; ``zero_shot_texts`` and
        ``zero_shot_users``: texts of users without a train edge, and those users.

    Raises:
        ConfigError: ``cold_users`` with a split that is not drawn by ratio.
        DataError: Unusable input, no released file, or an empty split (unless released texts never had it).
    """
    _require_release(settings, graph=released_edges, texts=released_texts)
    _require_ratio(settings)
    core = _read_core(core_interactions_path)
    cold = _cold_users(core, settings)
    graph, dropped = _split_graph(core, cold, settings, released_edges)
    pairs = _draw(_candidates(core, graph, settings, released_texts), settings)
    texts = _split_texts(core, graph, cold, pairs, settings)
    graph, moved = _move_edges(graph, pairs.rows, texts, settings["mode"])
    _refuse_empty(graph, f"{core.path}: graph", settings["graph"])
    zero_shot = _zero_shot(core, graph, pairs.rows)
    _write_graph(out_graph, core, graph)
    _write_texts(out_texts, core, pairs.rows, texts, zero_shot)
    counts = {"moved": moved, "dropped": dropped | pairs.dropped, "cold_users": int(cold.sum())}
    return (
        _overlap(graph, pairs.rows, texts)
        | counts
        | {
            "zero_shot_texts": int(zero_shot.sum()),
            "zero_shot_users": np.unique(core.users[pairs.rows[zero_shot]]).size,
        }
    )


# --- The graph --------------------------------------------------------------------------------------------


def _cold_users(core: _Core, settings: dict[str, Any]) -> Mask:
    """Draw the users to hold out whole, shape [n_users]; of any share above 0 at least one.

    ``cold_users``, a share of the users, is held out whole, to study users that training never saw: none of their edges
    or pairs is in train, and ``zero_shot`` is true of all their texts. The users are drawn with the seed. Their edges,
    and likewise their pairs with texts, are shuffled together and shared out between val and test as ``ratios`` has
    these two; those of the other users are split by ``ratios`` as ever, so that train shrinks. Without a train edge, a
    recommender that learns from pairs leaves a cold user's embedding as it was drawn (times its combination's factor),
    unrelated to what the user likes; its Recall and NDCG average over these users too, as over every user with held-out
    edges. So is an item's that only cold users have.
    """
    users = len(core.user_ids)
    cold = np.zeros(users, dtype=bool)
    count = math.ceil(round(settings["cold_users"] * users, 9))
    cold[numpy_rng(settings["seed"], "cold_users").choice(users, count, replace=False)] = True
    return cold


def _split_graph(
    core: _Core, cold: Mask, settings: dict[str, Any], released_edges: str | Path | None
) -> tuple[Codes, dict[str, int]]:
    """Return the split of each edge of the core, and counts of what a released split leaves out."""
    what = f"{core.path}: graph"
    if settings["graph"] == "ratio":
        return _split_by_ratio(cold[core.users], settings, what), {}
    if settings["graph"] == "leave_one_out":
        codes = _leave_one_out(core, settings["seed"])
        _refuse_empty(codes, what, "leave_one_out")
        return codes, {}
    pairs = _match_release(core, released_edges, RELEASED_EDGES, "edges")
    codes = np.full(core.users.size, _LEFT_OUT, dtype=np.int8)
    codes[pairs.rows] = pairs.released
    _refuse_empty(codes, what, "released")
    return codes, pairs.dropped | {"edges_without_split": int((codes == _LEFT_OUT).sum())}


def _split_by_ratio(cold: Mask, settings: dict[str, Any], what: str) -> Codes:
    """Shuffle and cut as the published script does: train from the rest, then val from test; cold rows never train."""
    _, val, test = settings["ratios"]
    warm = np.flatnonzero(~cold)
    # Rounded, since 0.2 + 0.1 > 0.3 in floats would take one pair too many.
    n_rest = math.ceil(round(val + test, 12) * warm.size)
    test_share = round(test / (val + test), 12) if n_rest else 0
    n_test = math.ceil(test_share * n_rest)
    sizes = warm.size - n_rest, n_rest - n_test, n_test
    _refuse_empty(np.repeat(np.arange(3), sizes), what, "ratio")
    seed = settings["seed"]
    codes = np.full(cold.size, _TRAIN, dtype=np.int8)
    _, rest = train_test_split(warm, test_size=n_rest, random_state=seed)
    val_rows, test_rows = train_test_split(rest, test_size=n_test, random_state=seed)
    codes[val_rows], codes[test_rows] = _VAL, _TEST
    cold_rows = numpy_rng(seed, "cold_pairs").permutation(np.flatnonzero(cold))
    n_cold_test = math.ceil(test_share * cold_rows.size)
    codes[cold_rows[:n_cold_test]], codes[cold_rows[n_cold_test:]] = _TEST, _VAL
    return codes


def _leave_one_out(core: _Core, seed: int) -> Codes:
    """Per user, give the last interaction to test and the one before to val; two or fewer stay in train.

    Interactions without a timestamp count as the earliest; their order, and that of ties, is drawn.
    """
    times = core.timestamps.fill_null(np.iinfo(np.int64).min).to_numpy()
    ties = numpy_rng(seed, "leave_one_out").random(times.size)
    order = np.lexsort((ties, times, core.users))
    of_user = np.bincount(core.users)
    sorted_users = core.users[order]
    later = np.cumsum(of_user)[sorted_users] - 1 - np.arange(order.size)
    long_enough = of_user[sorted_users] >= 3
    codes = np.full(order.size, _TRAIN, dtype=np.int8)
    codes[order[long_enough & (later == 0)]] = _TEST
    codes[order[long_enough & (later == 1)]] = _VAL
    return codes


def _move_edges(graph: Codes, rows: Ints, texts: Codes, mode: str) -> tuple[Codes, dict[str, int]]:
    """In mode ``joint``, move train edges that are val or test pairs to that split, and count them."""
    leaks = (texts != _TRAIN) & (graph[rows] == _TRAIN) & (mode == "joint")
    joined = graph.copy()
    joined[rows[leaks]] = texts[leaks]
    return joined, {SPLITS[code]: int((texts[leaks] == code).sum()) for code in (_VAL, _TEST)}


# --- The pairs with texts ---------------------------------------------------------------------------------


def _candidates(core: _Core, graph: Codes, settings: dict[str, Any], released_texts: str | Path | None) -> _Pairs:
    if released_texts is not None:
        return _match_release(core, released_texts, RELEASED_TEXTS, "texts")
    has_review = text_mask(core.path, "review")
    if not has_review.any():
        raise DataError(f"{core.path}: no interaction has a review; set kcore.require_review")
    # A pair whose edge has no split has none to inherit.
    usable = has_review & (graph != _LEFT_OUT) if settings["mode"] == "joint" else has_review
    dropped = {"texts_without_split": int((has_review & ~usable).sum())}
    return _Pairs(np.flatnonzero(usable), dropped)


def _draw(pairs: _Pairs, settings: dict[str, Any]) -> _Pairs:
    """Draw at most ``max_texts`` pairs, keeping their order."""
    size, limit = pairs.rows.size, settings["max_texts"]
    if limit is None or size <= limit:
        return pairs
    chosen = np.sort(numpy_rng(settings["seed"], "max_texts").choice(size, limit, replace=False))
    released = None if pairs.released is None else pairs.released[chosen]
    dropped = pairs.dropped | {"texts_over_maximum": size - limit}
    return pairs._replace(rows=pairs.rows[chosen], released=released, dropped=dropped)


def _split_texts(core: _Core, graph: Codes, cold: Mask, pairs: _Pairs, settings: dict[str, Any]) -> Codes:
    what = f"{core.path}: texts"
    if settings["texts"] == "released":
        _refuse_empty(pairs.released, what, "released", pairs.offered)
        return pairs.released
    if settings["mode"] == "independent" or pairs.released is not None:
        return _split_by_ratio(cold[core.users[pairs.rows]], settings, what)
    texts = graph[pairs.rows]
    _refuse_empty(texts, what, settings["graph"])
    return texts


def _zero_shot(core: _Core, graph: Codes, rows: Ints) -> Mask:
    """Tell which pairs are of a user without a train edge."""
    train_edges = np.bincount(core.users[graph == _TRAIN], minlength=len(core.user_ids))
    return train_edges[core.users[rows]] == 0


# --- Reading, checking, writing ---------------------------------------------------------------------------


def _require_release(settings: dict[str, Any], **paths: str | Path | None) -> None:
    for name, path in paths.items():
        if settings[name] == "released" and path is None:
            raise DataError(f"split.{name}: released, but the data set has no released split; use ratio")


def _require_ratio(settings: dict[str, Any]) -> None:
    for name in ("graph", "texts"):
        if settings["cold_users"] and settings[name] != "ratio":
            raise ConfigError(
                f"split.cold_users: {settings['cold_users']} holds users out of a split by ratio, but split.{name} is "
                f"{settings[name]}; set it to ratio, or cold_users to 0"
            )


def _read_core(path: str | Path) -> _Core:
    names = ["user", "item", "user_id", "item_id", "timestamp"]
    table = read_table(path, CORE_INTERACTIONS, names)
    if not table.num_rows:
        raise DataError(f"{path}: no interactions; run the k-core stage again")
    for name in ("user", "item"):
        if table[name].null_count:
            raise DataError(f"{path}: column {name!r} has empty cells; run the k-core stage again")
    users, items = table["user"].to_numpy(), table["item"].to_numpy()
    user_ids = _ids_of_codes(path, "user", users, table["user_id"])
    item_ids = _ids_of_codes(path, "item", items, table["item_id"])
    core = _Core(path, users, items, table["timestamp"], user_ids, item_ids)
    _, first = np.unique(core.keys(users, items), return_index=True)
    if first.size < users.size:
        row = int(np.setdiff1d(np.arange(users.size), first)[0])
        raise DataError(f"{path}: row {row} (from 0) repeats an earlier pair; run the k-core stage again")
    return core


def _ids_of_codes(path: str | Path, name: str, codes: Ints, ids: pa.ChunkedArray) -> pa.Array:
    """Return the raw id of each dense id.

    Raises:
        DataError: The dense ids are not 0 to n-1: tables indexed by them would be read out of range.
    """
    present, first = np.unique(codes, return_index=True)
    if present[0] != 0 or present[-1] != present.size - 1:
        raise DataError(
            f"{path}: column {name!r} must number {present.size} ids from 0 without gaps, but runs from "
            f"{present[0]} to {present[-1]}; run the k-core stage again"
        )
    return ids.take(pa.array(first)).combine_chunks()


def _match_release(core: _Core, path: str | Path, schema: pa.Schema, kind: str) -> _Pairs:
    """Find released pairs among the core's edges; of a repeated pair the first row counts."""
    table = read_table(path, schema, ["user_id", "item_id", "split"])
    codes = pc.index_in(table["split"], value_set=pa.array(SPLITS))
    if codes.null_count:
        row = int(codes.is_null().to_numpy().argmax())
        found = table["split"][row].as_py()
        raise DataError(f"{path}: row {row} (from 0): split {found!r} is none of {', '.join(SPLITS)}")
    users = pc.index_in(table["user_id"], value_set=core.user_ids).fill_null(-1).to_numpy()
    items = pc.index_in(table["item_id"], value_set=core.item_ids).fill_null(-1).to_numpy()
    known = np.flatnonzero((users >= 0) & (items >= 0))
    core_keys = core.keys(core.users, core.items)
    order = np.argsort(core_keys)
    wanted = core.keys(users[known], items[known])
    places = np.searchsorted(core_keys, wanted, sorter=order).clip(max=order.size - 1)
    is_edge = core_keys[order[places]] == wanted
    inside, rows = known[is_edge], order[places[is_edge]]
    if not inside.size:
        raise DataError(f"{path}: none of its {table.num_rows} pairs is in the core; lower kcore.k_user, k_item")
    first = np.sort(np.unique(rows, return_index=True)[1])
    dropped = {
        f"{kind}_outside_core": table.num_rows - inside.size,
        f"{kind}_repeated": inside.size - first.size,
    }
    codes = codes.to_numpy().astype(np.int8)
    return _Pairs(rows[first], dropped, codes[inside[first]], tuple(np.unique(codes)))


def _refuse_empty(codes: Ints, what: str, rule: str, expected: Iterable[int] = _ALL) -> None:
    """Raise a `DataError` that names the first expected split without a pair, and the remedy."""
    for code in expected:
        if not (codes == code).any():
            raise DataError(
                f"{what}: the {SPLITS[code]} split would be empty ({codes.size} pairs in all, {rule}); "
                f"{_REMEDIES[rule]}"
            )


def _names(codes: Codes) -> pa.Array:
    return pa.array(SPLITS).take(pa.array(codes))


def _write_graph(path: str | Path, core: _Core, graph: Codes) -> None:
    known = graph != _LEFT_OUT
    columns = [core.users[known], core.items[known], _names(graph[known])]
    write_table(path, pa.table(columns, names=GRAPH.names), GRAPH)


def _write_texts(path: str | Path, core: _Core, rows: Ints, texts: Codes, zero_shot: Mask) -> None:
    users, items = core.users[rows], core.items[rows]
    columns = {
        "example_id": [f"{number:06d}" for number in range(rows.size)],
        "user": users,
        "item": items,
        "user_id": core.user_ids.take(pa.array(users)),
        "item_id": core.item_ids.take(pa.array(items)),
        "split": _names(texts),
        "zero_shot": zero_shot,
    }
    write_table(path, pa.table(columns), TEXTS)


def _overlap(graph: Codes, rows: Ints, texts: Codes) -> dict[str, Any]:
    """Count the pairs of each split, and of each text split the edges in each split of the graph."""
    crossed = {
        name: {
            edge_name: int(((texts == code) & (graph[rows] == edge_code)).sum())
            for edge_code, edge_name in enumerate(SPLITS)
        }
        for code, name in enumerate(SPLITS)
    }
    return {
        "graph": {name: int((graph == code).sum()) for code, name in enumerate(SPLITS)},
        "texts": {name: int((texts == code).sum()) for code, name in enumerate(SPLITS)},
        "overlap": crossed,
        "leaked_texts": crossed["test"]["train"],
    }
