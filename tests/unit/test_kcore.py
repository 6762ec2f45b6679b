import random
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrec_repro.contracts import CORE_INTERACTIONS, CORE_ITEMS, INTERACTIONS, ITEMS
from xrec_repro.data.kcore import filter_kcore, kcore_mask, text_mask
from xrec_repro.errors import DataError
from xrec_repro.io import read_table, write_table

OPEN = {
    "rating_above": None,
    "require_review": False,
    "require_item": [],
    "user_fraction": 1.0,
    "seed": 42,
    "k_user": 1,
    "k_item": 1,
}

pair_lists = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=70)
small_k = st.integers(0, 5)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def remaining(pairs: list[tuple[int, int]], k_user: int, k_item: int) -> set[tuple[int, int]]:
    mask = kcore_mask(*columns(pairs), k_user, k_item)
    return {pair for pair, stays in zip(pairs, mask, strict=True) if stays}


def naive_core(pairs: list[tuple[int, int]], k_user: int, k_item: int) -> set[tuple[int, int]]:
    edges = set(pairs)
    while True:
        kept = {
            (user, item)
            for user, item in edges
            if sum(u == user for u, _ in edges) >= k_user and sum(i == item for _, i in edges) >= k_item
        }
        if kept == edges:
            return kept
        edges = kept


def bipartite(users, items) -> nx.Graph:
    graph = nx.Graph()
    graph.add_edges_from((("u", int(u)), ("i", int(i))) for u, i in zip(users, items, strict=True))
    return graph


def edges_of(graph: nx.Graph) -> set[tuple[int, int]]:
    return {(dict(edge)["u"], dict(edge)["i"]) for edge in graph.edges()}


# --- kcore_mask -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(pair_lists, small_k)
def test_equals_networkx_for_equal_k(pairs, k):
    assert remaining(pairs, k, k) == edges_of(nx.k_core(bipartite(*columns(pairs)), k))


@settings(deadline=None)
@given(pair_lists, small_k, small_k)
def test_equals_a_naive_fixed_point_for_unequal_k(pairs, k_user, k_item):
    assert remaining(pairs, k_user, k_item) == naive_core(pairs, k_user, k_item)


@settings(deadline=None)
@given(pair_lists, small_k, small_k)
def test_the_core_of_the_core_is_itself(pairs, k_user, k_item):
    users, items = columns(pairs)
    core = kcore_mask(users, items, k_user, k_item)
    assert kcore_mask(users[core], items[core], k_user, k_item).all()


def test_copies_of_a_pair_are_one_edge_and_share_its_verdict():
    users, items = columns([(0, 0), (0, 0), (0, 0), (1, 0), (1, 1), (0, 1), (2, 1), (2, 1)])
    assert kcore_mask(users, items, 2, 2).tolist() == [True] * 6 + [False] * 2


def test_a_long_chain_peels_to_nothing():
    # A path loses two edges a round: the worst case for the number of rounds.
    steps = np.arange(2_000)
    assert not kcore_mask((steps + 1) // 2, steps // 2, 2, 2).any()
    closed = kcore_mask(np.append((steps + 1) // 2, 0), np.append(steps // 2, 1_000), 1, 2)
    assert closed.sum() == 2_000


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_any_integer_type_will_do(dtype):
    users, items = columns([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)])
    assert kcore_mask(users.astype(dtype), items.astype(dtype), 2, 2).tolist() == [True] * 4 + [False]


def test_inputs_that_are_no_graph_are_refused():
    with pytest.raises(DataError, match="equally long"):
        kcore_mask(np.zeros(2, dtype=np.int32), np.zeros(3, dtype=np.int32), 1, 1)
    with pytest.raises(DataError, match="negative"):
        kcore_mask(np.array([0, -1]), np.array([0, 0]), 1, 1)


@pytest.fixture(scope="module")
def yelp(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "data" / "xrec" / "yelp" / "total.csv")


def test_equals_networkx_on_the_released_yelp_graph(yelp):
    # nx.k_core keeps the nodes whose core number is at least k; computing the numbers once serves every k.
    numbers = nx.core_number(bipartite(yelp["user"], yelp["item"]))
    users, items = yelp["user"].to_numpy(np.int32), yelp["item"].to_numpy(np.int32)
    of_user = np.array([numbers["u", user] for user in users.tolist()])
    of_item = np.array([numbers["i", item] for item in items.tolist()])
    for k in (10, 12, 15):
        np.testing.assert_array_equal(kcore_mask(users, items, k, k), (of_user >= k) & (of_item >= k))
    assert kcore_mask(users, items, 10, 10).all()
    assert 0 < kcore_mask(users, items, 15, 15).sum() < kcore_mask(users, items, 12, 12).sum() < users.size


# --- filter_kcore -----------------------------------------------------------------------------------------


def interaction(user_id, item_id, rating=5.0, timestamp=0, review="fine"):
    return dict(zip(INTERACTIONS.names, (user_id, item_id, rating, timestamp, review), strict=True))


def item(item_id, title="a title", city="here"):
    return dict(zip(ITEMS.names, (item_id, title, None, "c", city), strict=True))


class Stage:
    """Runs filter_kcore in a folder on rows given as dictionaries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, interactions: list[dict], items: list[dict] | None = None, **over) -> dict:
        if items is None:
            items = [item(name) for name in sorted({row["item_id"] for row in interactions})]
        write_table(self.folder / "interactions.parquet", interactions, INTERACTIONS)
        write_table(self.folder / "items.parquet", items, ITEMS)
        names = ("interactions", "items", "core_interactions", "core_items")
        paths = [self.folder / f"{name}.parquet" for name in names]
        return filter_kcore(paths[0], paths[1], OPEN | over, paths[2], paths[3])

    @property
    def core(self) -> list[dict]:
        return read_table(self.folder / "core_interactions.parquet", CORE_INTERACTIONS).to_pylist()

    @property
    def items(self) -> list[dict]:
        return read_table(self.folder / "core_items.parquet", CORE_ITEMS).to_pylist()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(row["user_id"], row["item_id"]) for row in self.core]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_dense_ids_follow_the_order_of_first_appearance(stage):
    report = stage.run([interaction(*pair) for pair in ("zb", "za", "yb", "xc", "za", "ya")])
    assert [(row["user"], row["item"]) for row in stage.core] == [(0, 0), (0, 1), (1, 0), (2, 2), (1, 1)]
    assert stage.pairs == [("z", "b"), ("z", "a"), ("y", "b"), ("x", "c"), ("y", "a")]
    assert [(row["item"], row["item_id"]) for row in stage.items] == [(0, "b"), (1, "a"), (2, "c")]
    assert report == {
        "counts": {"read": 6, "duplicates": 5, "kcore": 5},
        "users": 3,
        "items": 3,
        "edges": 5,
        "density": pytest.approx(5 / 9),
    }


def test_of_a_repeated_pair_the_first_interaction_stays(stage):
    stage.run([interaction("u", "i", review="first", timestamp=9), interaction("u", "i", review="second")])
    assert [(row["review"], row["timestamp"]) for row in stage.core] == [("first", 9)]


def test_duplicates_go_after_the_filters_so_that_a_dropped_one_hides_none(stage):
    stage.run([interaction("u", "i", rating=1), interaction("u", "i", rating=4)], rating_above=3)
    assert [row["rating"] for row in stage.core] == [4.0]


def test_the_rating_filter_is_strict_and_drops_missing_ratings(stage):
    rows = [interaction("u", name, rating) for name, rating in (("a", 3), ("b", 3.5), ("c", None), ("d", 5))]
    assert stage.run(rows, rating_above=3)["counts"]["rating"] == 2
    assert stage.pairs == [("u", "b"), ("u", "d")]
    stage.run(rows, rating_above=3.5)
    assert stage.pairs == [("u", "d")]
    stage.run([interaction("u", "a", 3.7), interaction("u", "b", 3.8)], rating_above=3.7)
    assert stage.pairs == [("u", "b")]
    stage.run(rows, rating_above=None)
    assert [row["rating"] for row in stage.core] == [3.0, 3.5, None, 5.0]


def test_blank_reviews_go_when_text_is_required(stage):
    reviews = ["good", "", "  \t", None, "\u3000"]
    rows = [interaction("u", str(n), review=review) for n, review in enumerate(reviews)]
    stage.run(rows, require_review=True)
    assert stage.pairs == [("u", "0")]
    stage.run(rows, require_review=False)
    assert [row["review"] for row in stage.core] == reviews


def test_items_need_the_required_fields_and_a_row(stage):
    rows = [interaction("u", name) for name in "abcd"]
    items = [item("c", city=None), item("a"), item("b", title=" "), item("spare")]
    assert stage.run(rows, items, require_item=["title"])["counts"]["item"] == 2
    assert stage.pairs == [("u", "a"), ("u", "c")]
    stage.run(rows, items, require_item=["title", "city"])
    assert stage.pairs == [("u", "a")]
    stage.run(rows, items, require_item=["item_id"])
    assert stage.pairs == [("u", "a"), ("u", "b"), ("u", "c")]


def test_without_required_fields_unknown_items_stay_with_null_fields(stage):
    stage.run([interaction("u", "ghost"), interaction("u", "a")], [item("a", title="T")])
    assert stage.items == [
        {"item": 0, "item_id": "ghost", "title": None, "description": None, "categories": None, "city": None},
        {"item": 1, "item_id": "a", "title": "T", "description": None, "categories": "c", "city": "here"},
    ]


def test_of_a_repeated_item_the_first_row_counts(stage):
    items = [item("b", title="B"), item("a", title="old"), item("a", title="new"), item("b", title="")]
    stage.run([interaction("u", "a"), interaction("u", "b")], items, require_item=["title"])
    assert [row["title"] for row in stage.items] == ["old", "B"]


def test_the_user_subsample_is_that_of_the_published_script(stage):
    users = [f"{name}{n}" for n in range(20) for name in ("é", "Z", "a", "😀")]
    rows = [interaction(user, "i") for user in users] + [interaction("low", "i", rating=1)]
    report = stage.run(rows, rating_above=3, user_fraction=0.4)
    random.seed(42)
    expected = set(random.sample(sorted(users), int(len(users) * 0.4)))
    assert {user for user, _ in stage.pairs} == expected
    assert report["counts"] == {"read": 81, "rating": 80, "user_subsample": 32, "duplicates": 32, "kcore": 32}
    stage.run(rows[::-1], rating_above=3, user_fraction=0.4)
    assert {user for user, _ in stage.pairs} == expected
    stage.run(rows, rating_above=3, user_fraction=0.4, seed=43)
    assert {user for user, _ in stage.pairs} != expected


def test_the_same_input_gives_the_same_bytes(stage):
    rows = [interaction(f"u{n % 7}", f"i{n % 5}") for n in range(60)]
    stage.run(rows, user_fraction=0.6)
    before = (stage.folder / "core_interactions.parquet").read_bytes()
    stage.run(rows, user_fraction=0.6)
    assert (stage.folder / "core_interactions.parquet").read_bytes() == before


def test_the_core_drops_whoever_has_too_few_partners(stage):
    rows = [interaction(*pair) for pair in ("aw", "ax", "bw", "bx", "cw", "cy", "dw", "dw")]
    report = stage.run(rows, k_user=2, k_item=2)
    assert stage.pairs == [("a", "w"), ("a", "x"), ("b", "w"), ("b", "x")]
    assert report["counts"] == {"read": 8, "duplicates": 7, "kcore": 4}


@settings(max_examples=15, deadline=None)
@given(pairs=pair_lists.filter(bool), k_user=st.integers(1, 3), k_item=st.integers(1, 3))
def test_the_written_core_is_the_naive_one(tmp_path_factory, pairs, k_user, k_item):
    stage = Stage(tmp_path_factory.mktemp("core"))
    rows = [interaction(str(user), str(item_)) for user, item_ in pairs]
    expected = naive_core(pairs, k_user, k_item)
    if not expected:
        with pytest.raises(DataError, match=f"k_user={k_user}, k_item={k_item} leaves nothing"):
            stage.run(rows, k_user=k_user, k_item=k_item)
        return
    stage.run(rows, k_user=k_user, k_item=k_item)
    assert [(int(u), int(i)) for u, i in stage.pairs] == [p for p in dict.fromkeys(pairs) if p in expected]
    assert [row["item"] for row in stage.items] == list(range(len({i for _, i in expected})))


def test_an_empty_core_says_which_k_would_leave_something(stage):
    block = [interaction(f"u{u}", f"i{i}") for u in range(4) for i in range(3)]
    tail = [interaction("u0", f"t{n}") for n in range(5)]
    with pytest.raises(DataError) as caught:
        stage.run(block + tail, k_user=50, k_item=50)
    expected = "k_user=50, k_item=50 leaves nothing; the largest k that leaves something is 3 (4 users, 3 items)"
    assert expected in str(caught.value)
    assert not (stage.folder / "core_interactions.parquet").exists()


def test_an_empty_core_with_unequal_k_scales_both_down_alike(stage):
    block = [interaction(f"u{u}", f"i{i}") for u in range(4) for i in range(3)]
    with pytest.raises(DataError, match=r"is k_user=3, k_item=2 \(same proportion\) \(4 users, 3 items\)"):
        stage.run(block, k_user=10, k_item=5)


@pytest.mark.parametrize(
    ("over", "culprit"),
    [
        ({"rating_above": 5}, "rating_above=5"),
        ({"require_review": True}, "require_review"),
        ({"require_item": ["city"]}, "require_item"),
        ({"user_fraction": 0.1}, "user_fraction=0.1"),
    ],
)
def test_a_filter_that_leaves_nothing_is_named(stage, over, culprit):
    with pytest.raises(DataError, match=rf"interactions\.parquet: kcore\.{culprit}.* none of 2 interactions"):
        stage.run([interaction(u, "i", review=" ") for u in "ab"], [item("i", city="")], **over)


def test_unusable_inputs_are_named(stage):
    with pytest.raises(DataError, match="no interactions"):
        stage.run([], [])
    with pytest.raises(DataError, match=r"row 1 .* no user_id"):
        stage.run([interaction("u", "i"), interaction(None, "i")])
    with pytest.raises(DataError, match="'colour' is no field of an item"):
        stage.run([interaction("u", "i")], require_item=["colour"])
    with pytest.raises(DataError, match="no such file"):
        filter_kcore(stage.folder / "absent", stage.folder / "items.parquet", OPEN, "a", "b")


def test_text_mask_needs_its_column(stage):
    stage.run([interaction("u", "a", review="x"), interaction("u", "b", review=" ")])
    assert text_mask(stage.folder / "interactions.parquet", "review").tolist() == [True, False]
    with pytest.raises(DataError, match="'summary' is missing"):
        text_mask(stage.folder / "interactions.parquet", "summary")


def test_files_of_many_batches_keep_their_rows_apart(stage, monkeypatch):
    rows = [interaction(f"u{n % 11}", f"i{n}", review="" if n % 3 else f"text {n}") for n in range(100)]
    monkeypatch.setattr("xrec_repro.data.kcore._BATCH_ROWS", 7)
    stage.run(rows, require_review=True)
    expected = [(f"u{n % 11}", f"i{n}", f"text {n}") for n in range(0, 100, 3)]
    assert [(row["user_id"], row["item_id"], row["review"]) for row in stage.core] == expected
    assert [row["item_id"] for row in stage.items] == [f"i{n}" for n in range(0, 100, 3)]
