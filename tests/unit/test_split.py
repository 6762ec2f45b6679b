import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_kcore import OPEN
from tests.unit.test_recommender_train import SETTINGS
from xrec_repro.contracts import CORE_INTERACTIONS, GRAPH, RELEASED_EDGES, RELEASED_TEXTS, TEXTS
from xrec_repro.data.kcore import filter_kcore
from xrec_repro.data.release import import_release
from xrec_repro.data.split import split_interactions
from xrec_repro.embedding_file import load_embeddings
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.identity import digest_json
from xrec_repro.io import read_json, read_table, write_table
from xrec_repro.recommenders.base import Run
from xrec_repro.recommenders.factors import Factors
from xrec_repro.recommenders.graph import read_graph
from xrec_repro.recommenders.train import train_recommender
from xrec_repro.seeding import torch_generator

DEFAULTS = {
    "seed": 42,
    "ratios": [0.8, 0.1, 0.1],
    "graph": "ratio",
    "texts": "ratio",
    "mode": "joint",
    "max_texts": None,
    "cold_users": 0.0,
}
Pair = tuple[int, int]


class Stage:
    """Runs split_interactions in a folder on small data; raw ids are ``u<user>`` and ``i<item>``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.releases: dict[str, Path] = {}

    def core(self, pairs: list[Pair], times=None, reviews=None) -> "Stage":
        rows = {
            "user": [user for user, _ in pairs],
            "item": [item for _, item in pairs],
            "user_id": [f"u{user}" for user, _ in pairs],
            "item_id": [f"i{item}" for _, item in pairs],
            "rating": [5.0] * len(pairs),
            "timestamp": times or [None] * len(pairs),
            "review": reviews or ["good"] * len(pairs),
        }
        write_table(self.folder / "core.parquet", rows, CORE_INTERACTIONS)
        return self

    def release(self, kind: str, pairs: list[Pair], splits: list[str]) -> "Stage":
        schema = {"edges": RELEASED_EDGES, "texts": RELEASED_TEXTS}[kind]
        columns = dict.fromkeys(schema.names, ["text"] * len(pairs))
        columns["user_id"] = [f"u{user}" for user, _ in pairs]
        columns["item_id"] = [f"i{item}" for _, item in pairs]
        columns["split"] = splits
        self.releases[f"released_{kind}"] = self.folder / f"{kind}.parquet"
        write_table(self.releases[f"released_{kind}"], columns, schema)
        return self

    def run(self, **over) -> dict:
        paths = [self.folder / f"{name}.parquet" for name in ("core", "graph", "texts_out")]
        return split_interactions(paths[0], DEFAULTS | over, paths[1], paths[2], **self.releases)

    @property
    def graph(self) -> dict[Pair, str]:
        return {(row["user"], row["item"]): row["split"] for row in self.graph_rows}

    @property
    def graph_rows(self) -> list[dict]:
        return read_table(self.folder / "graph.parquet", GRAPH).to_pylist()

    @property
    def texts(self) -> list[dict]:
        return read_table(self.folder / "texts_out.parquet", TEXTS).to_pylist()

    @property
    def text_splits(self) -> dict[Pair, str]:
        return {(row["user"], row["item"]): row["split"] for row in self.texts}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def grid(users: int, items: int) -> list[Pair]:
    """All pairs but a diagonal, in an order that is not sorted."""
    return [(user, (user + step) % items) for step in range(items - 1) for user in range(users)]


def of_split(splits: dict[Pair, str], *names: str) -> set[Pair]:
    return {pair for pair, split in splits.items() if split in names}


def cycle(size: int) -> list[str]:
    return [("train", "train", "test", "val")[n % 4] for n in range(size)]


# --- Properties of all strategies -------------------------------------------------------------------------

strategies = st.fixed_dictionaries(
    {
        "graph": st.sampled_from(["ratio", "leave_one_out", "released"]),
        "texts": st.sampled_from(["ratio", "released"]),
        "mode": st.sampled_from(["joint", "independent"]),
        "seed": st.integers(0, 99),
    }
)


def random_stage(folder: Path, data: st.DataObject, with_texts: bool) -> Stage:
    """A core of 6 to 10 users and 8 items; the release splits its edges and texts differently."""
    pairs = data.draw(st.permutations(grid(data.draw(st.integers(6, 10)), 8)))
    first_seen = ({user: None for user, _ in pairs}, {item: None for _, item in pairs})
    users, items = ({old: new for new, old in enumerate(seen)} for seen in first_seen)
    pairs = [(users[user], items[item]) for user, item in pairs]
    stage = Stage(folder).core(pairs, times=[data.draw(st.integers(0, 3)) for _ in pairs])
    stage.release("edges", pairs, cycle(len(pairs)))
    if with_texts:
        told = data.draw(st.permutations(pairs))[:30]
        stage.release("texts", told, cycle(len(told)))
    return stage


@settings(max_examples=40, deadline=None)
@given(data=st.data(), choice=strategies, with_texts=st.booleans())
def test_every_strategy_splits_every_pair_once_and_joint_never_leaks(tmp_path_factory, data, choice, with_texts):
    stage = random_stage(tmp_path_factory.mktemp("split"), data, with_texts or choice["texts"] == "released")
    report = stage.run(**choice)
    core = read_table(stage.folder / "core.parquet", CORE_INTERACTIONS).to_pylist()

    assert [(row["user"], row["item"]) for row in stage.graph_rows] == [(r["user"], r["item"]) for r in core]
    assert len(stage.text_splits) == len(stage.texts)
    assert set(stage.text_splits) <= set(stage.graph)
    assert {**Counter(stage.graph.values())} == report["graph"]
    assert {**Counter(stage.text_splits.values())} == report["texts"]

    train = of_split(stage.graph, "train")
    held_out = of_split(stage.text_splits, "val", "test")
    assert report["leaked_texts"] == len(of_split(stage.text_splits, "test") & train)
    if choice["mode"] == "joint":
        assert not held_out & train
        assert report["leaked_texts"] == 0
    else:
        assert report["moved"] == {"val": 0, "test": 0}
    users_of_train = {user for user, _ in train}
    for row in stage.texts:
        assert row["zero_shot"] == (row["user"] not in users_of_train)
        assert (row["user_id"], row["item_id"]) == (f"u{row['user']}", f"i{row['item']}")
    assert report["zero_shot_texts"] == sum(row["zero_shot"] for row in stage.texts)


@settings(max_examples=10, deadline=None)
@given(data=st.data(), choice=strategies)
def test_the_same_seed_gives_the_same_bytes(tmp_path_factory, data, choice):
    stage = random_stage(tmp_path_factory.mktemp("split"), data, with_texts=True)
    files = [stage.folder / "graph.parquet", stage.folder / "texts_out.parquet"]
    report = stage.run(**choice, max_texts=25)
    before = [file.read_bytes() for file in files]
    assert stage.run(**choice, max_texts=25) == report
    assert [file.read_bytes() for file in files] == before


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(20, 120),
    ratios=st.sampled_from([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.5, 0.25, 0.25]]),
)
def test_ratios_hold_within_rounding(tmp_path_factory, size, ratios):
    stage = Stage(tmp_path_factory.mktemp("split")).core(grid(12, 11)[:size])
    report = stage.run(ratios=ratios)
    for share, count in zip(ratios, report["graph"].values(), strict=True):
        assert abs(count - share * size) < 1.5


def test_ratios_that_are_inexact_in_floats_are_not_rounded_up(stage):
    assert stage.core(grid(2, 6)).run(ratios=[0.7, 0.2, 0.1])["graph"] == {"train": 7, "val": 2, "test": 1}


def test_another_seed_gives_another_split(stage):
    stage.core(grid(10, 10)).run()
    before = stage.graph
    stage.run(seed=43)
    assert stage.graph != before


# --- leave_one_out ----------------------------------------------------------------------------------------


def test_leave_one_out_holds_out_the_last_two_of_each_user(stage):
    pairs = [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3), (1, 2), (2, 0), (2, 1)]
    times = [40, 10, 20, 30, 30, 10, 20, 5, 6]
    stage.core(pairs, times).run(graph="leave_one_out")
    assert of_split(stage.graph, "test") == {(0, 0), (1, 1)}
    assert of_split(stage.graph, "val") == {(0, 2), (1, 2)}
    assert {stage.graph[pair] for pair in [(2, 0), (2, 1)]} == {"train"}


def test_leave_one_out_puts_unknown_times_first(stage):
    pairs = [(0, item) for item in range(5)]
    for seed in range(8):
        stage.core(pairs, [None, -7, None, 3, None]).run(graph="leave_one_out", seed=seed)
        assert (stage.graph[0, 3], stage.graph[0, 1]) == ("test", "val")


def test_leave_one_out_draws_ties_with_the_seed(stage):
    pairs = [(0, item) for item in range(5)]
    for times in ([9, 9, 9, 9, 1], None):
        stage.core(pairs, times)
        tests = set()
        for seed in range(30):
            stage.run(graph="leave_one_out", seed=seed)
            tests |= of_split(stage.graph, "test")
        assert tests == set(pairs[:4] if times else pairs)


# --- Cold users -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "digest"),
    [
        ({"mode": "joint"}, "dbd218f6b28a7fbd"),
        ({"mode": "independent"}, "b64a03a89e393119"),
        ({"max_texts": 60}, "9d6361f6810eee12"),
        ({"graph": "leave_one_out"}, "18947cb5c0949dec"),
    ],
)
def test_without_cold_users_the_split_is_what_it_was_before_there_were_any(stage, over, digest):
    pairs = grid(12, 11)
    report = stage.core(pairs, reviews=[("good", " ")[n % 7 == 0] for n in range(len(pairs))]).run(**over)
    assert digest_json([stage.graph_rows, stage.texts]) == digest
    assert report["cold_users"] == 0


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    share=st.sampled_from([0.01, 0.2, 0.34, 0.5]),
    mode=st.sampled_from(["joint", "independent"]),
    seed=st.integers(0, 99),
    with_texts=st.booleans(),
)
def test_cold_users_are_never_in_train(tmp_path_factory, data, share, mode, seed, with_texts):
    stage = random_stage(tmp_path_factory.mktemp("split"), data, with_texts)
    stage.releases.pop("released_edges")
    ratios = [0.5, 0.25, 0.25]
    report = stage.run(cold_users=share, mode=mode, seed=seed, ratios=ratios)
    users = {user for user, _ in stage.graph}
    cold = users - {user for user, _ in of_split(stage.graph, "train")}
    assert len(cold) >= report["cold_users"] == math.ceil(share * len(users))
    told = {user: {row["split"] for row in stage.texts if row["user"] == user} for user in cold}
    assert sum("train" not in splits for splits in told.values()) >= report["cold_users"]
    assert all(row["zero_shot"] == (row["user"] in cold) for row in stage.texts)
    assert {**Counter(stage.graph.values())} == report["graph"]
    if mode == "joint":
        assert report["leaked_texts"] == 0


def test_pairs_of_cold_users_are_shared_out_between_val_and_test(stage):
    pairs = grid(40, 31)
    stage.core(pairs).run(cold_users=0.25, ratios=[0.6, 0.1, 0.3])
    cold = {row["user"] for row in stage.texts if row["zero_shot"]}
    assert len(cold) == 10
    splits = [stage.graph[pair] for pair in pairs if pair[0] in cold]
    assert Counter(splits) == {"test": 225, "val": 75}
    others = Counter(stage.graph[pair] for pair in pairs if pair[0] not in cold)
    assert others == {"train": 540, "val": 90, "test": 270}
    assert stage.text_splits == stage.graph


def test_cold_users_are_drawn_with_the_seed(stage):
    stage.core(grid(40, 11))
    drawn = []
    for seed in (1, 2, 1):
        stage.run(cold_users=0.1, seed=seed)
        drawn.append(frozenset(row["user"] for row in stage.texts if row["zero_shot"]))
    assert drawn[0] == drawn[2] != drawn[1]
    assert [len(users) for users in drawn] == [4, 4, 4]


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_lightgcn_leaves_the_embeddings_of_cold_users_as_drawn(stage, tmp_path, combine):
    stage.core(grid(30, 12)).run(cold_users=0.1)
    cold = sorted({row["user"] for row in stage.texts if row["zero_shot"]})
    chosen = SETTINGS | {"combine": combine, "epochs": 4}
    files = [tmp_path / name for name in ("graph.parquet", "embeddings", "metrics.json")]
    train_recommender(files[0], chosen, Run(name="mine", seed=5), *files[1:])
    graph = read_graph(files[0])
    fresh = Factors(graph.edges["train"], 30, 12, dim=8, generator=torch_generator(5, "lightgcn", "init"))
    user, _ = load_embeddings(files[1])
    expected = fresh.table.detach()[:30] / {"sum": 1, "mean": 1 + chosen["layers"]}[combine]
    unmoved = torch.isclose(user, expected, rtol=1e-6, atol=0).all(dim=1)
    assert unmoved.nonzero().flatten().tolist() == cold and len(cold) == 3
    metrics = read_json(files[2])
    assert metrics["zero_shot"] == {"users": 3, "items": 0}
    assert set(cold) <= set(graph.edges["test"][0].tolist())
    assert metrics["test"]["standard"]["users"] == len(graph.edges["test"][0].unique())
    assert 0 < metrics["test"]["standard"]["recall"] < 1


@pytest.mark.parametrize("over", [{"graph": "leave_one_out"}, {"graph": "released"}, {"texts": "released"}])
def test_cold_users_need_a_split_by_ratio(stage, over):
    (name, rule), *_ = over.items()
    pairs = grid(5, 5)
    stage.core(pairs).release("edges", pairs, cycle(20)).release("texts", pairs, cycle(20))
    with pytest.raises(ConfigError, match=rf"split\.cold_users: 0\.2 .* but split\.{name} is {rule}; set it to ratio"):
        stage.run(cold_users=0.2, **over)
    assert stage.run(cold_users=0, **over)["cold_users"] == 0


def test_cold_users_must_leave_some_for_train(stage):
    with pytest.raises(DataError, match=r"graph: the train split would be empty .*lower split\.cold_users"):
        stage.core(grid(5, 5)).run(cold_users=1.0)


# --- Candidates -------------------------------------------------------------------------------------------


def test_texts_are_the_interactions_with_a_review_in_their_order(stage):
    pairs = grid(8, 8)
    reviews = [("good", " ", None, "fine")[n % 4] for n in range(len(pairs))]
    stage.core(pairs, reviews=reviews).run()
    told = [pair for pair, review in zip(pairs, reviews, strict=True) if review in ("good", "fine")]
    assert [(row["user"], row["item"]) for row in stage.texts] == told
    assert [row["example_id"] for row in stage.texts] == [f"{n:06d}" for n in range(len(told))]
    assert all(stage.graph[pair] == split for pair, split in stage.text_splits.items())


def test_max_texts_draws_a_part_and_keeps_the_order(stage):
    stage.core(grid(10, 10)).run()
    everything = list(stage.text_splits)
    report = stage.run(max_texts=60)
    some = list(stage.text_splits)
    assert len(some) == 60
    assert some == [pair for pair in everything if pair in set(some)]
    assert some != everything[:60]
    assert report["dropped"]["texts_over_maximum"] == len(everything) - 60
    assert stage.run(max_texts=1000)["texts"] == stage.run()["texts"]


def test_released_texts_outside_the_core_and_repeated_ones_are_counted_and_dropped(stage):
    told = [(3, 3), (0, 1), (99, 0), (0, 1), (1, 0), (0, 99), (2, 1)]
    splits = ["train", "test", "test", "train", "val", "val", "train"]
    stage.core([(u, i) for u in range(4) for i in range(4)]).release("texts", told, splits)
    report = stage.run(texts="released", mode="independent")
    assert stage.text_splits == {(3, 3): "train", (0, 1): "test", (1, 0): "val", (2, 1): "train"}
    assert list(stage.text_splits) == [(3, 3), (0, 1), (1, 0), (2, 1)]
    assert report["dropped"] == {"texts_outside_core": 2, "texts_repeated": 1}


def test_a_pair_of_a_known_user_and_item_without_an_edge_is_outside_the_core(stage):
    stage.core(grid(6, 6)).release("texts", [(0, 5), (0, 1), (5, 4)], ["test"] * 3)
    report = stage.run(texts="released", mode="independent")
    assert set(stage.text_splits) == {(0, 1)}
    assert report["dropped"]["texts_outside_core"] == 2


# --- Releases and modes -----------------------------------------------------------------------------------


def test_a_released_graph_is_taken_as_it_is(stage):
    pairs = grid(6, 6)
    stage.core(pairs).release("edges", [*pairs[:20], pairs[0], (77, 0)], [*cycle(20), "test", "test"])
    report = stage.run(graph="released")
    assert stage.graph == dict(zip(pairs[:20], cycle(20), strict=True))
    assert report["dropped"] == {
        "edges_outside_core": 1,
        "edges_repeated": 1,
        "edges_without_split": len(pairs) - 20,
        "texts_without_split": len(pairs) - 20,
    }
    assert stage.text_splits == stage.graph


def test_joint_moves_the_train_edges_of_held_out_texts(stage):
    pairs = grid(6, 6)
    stage.core(pairs).release("edges", pairs, cycle(len(pairs)))
    told = {pairs[0]: "test", pairs[1]: "val", pairs[2]: "val", pairs[4]: "train", pairs[6]: "train"}
    stage.release("texts", list(told), list(told.values()))

    report = stage.run(graph="released", texts="released", mode="independent")
    assert report["leaked_texts"] == 1
    assert report["overlap"]["val"] == {"train": 1, "val": 0, "test": 1}

    report = stage.run(graph="released", texts="released", mode="joint")
    assert report["moved"] == {"val": 1, "test": 1}
    assert stage.text_splits == told
    expected = dict(zip(pairs, cycle(len(pairs)), strict=True)) | {pairs[0]: "test", pairs[1]: "val"}
    assert stage.graph == expected


def test_independent_texts_are_split_apart_from_the_graph(stage):
    stage.core(grid(10, 10)).run(mode="independent")
    assert stage.text_splits == stage.graph, "same rows, same seed: the same shuffle"
    report = stage.core(grid(10, 10), reviews=[None, *["x"] * 89]).run(mode="independent")
    assert report["leaked_texts"] > 0
    assert report["texts"] == {"train": 71, "val": 9, "test": 9}


def test_zero_shot_users_have_no_train_edge_after_moving(stage):
    pairs = [*[(user, item) for user in range(4) for item in range(4)], (4, 0)]
    told = {(4, 0): "test", (0, 0): "train", (1, 0): "val"}
    stage.core(pairs).release("texts", list(told), list(told.values()))
    stage.release("edges", pairs, [*cycle(16), "train"])
    before = stage.run(graph="released", texts="released", mode="independent")
    assert (before["zero_shot_texts"], before["zero_shot_users"]) == (0, 0)
    after = stage.run(graph="released", texts="released", mode="joint")
    assert (after["zero_shot_texts"], after["zero_shot_users"]) == (1, 1)
    assert [row["zero_shot"] for row in stage.texts] == [True, False, False]


# --- Errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["graph", "texts"])
def test_a_released_split_needs_a_release(stage, name):
    with pytest.raises(DataError, match=rf"split\.{name}: released, but the data set has no released split"):
        stage.core(grid(5, 5)).run(**{name: "released"})


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"ratios": [0.98, 0.01, 0.01]}, r"graph: the val split would be empty \(20 pairs .*split\.ratios"),
        ({"ratios": [0.9, 0.1, 0.0]}, r"graph: the test split would be empty"),
        ({"ratios": [1.0, 0.0, 0.0]}, r"graph: the val split would be empty"),
        ({"max_texts": 1}, r"texts: the \w+ split would be empty \(1 pairs .*split\.max_texts.*kcore\.k_user"),
    ],
)
def test_an_empty_split_is_named_with_its_remedy(stage, over, message):
    with pytest.raises(DataError, match=message):
        stage.core(grid(5, 5)).run(**over)
    assert not (stage.folder / "graph.parquet").exists()


def test_leave_one_out_needs_users_with_three_interactions(stage):
    pairs = [(user, item) for user in range(5) for item in range(2)]
    with pytest.raises(DataError, match=r"val split would be empty .*k_user to 3"):
        stage.core(pairs).run(graph="leave_one_out")


def test_a_released_split_that_the_core_or_the_draw_empties_is_named(stage):
    told = [(0, 1), (1, 2), (98, 0)]
    stage.core(grid(5, 5)).release("texts", told, ["train", "train", "test"])
    with pytest.raises(DataError, match="texts: the test split would be empty"):
        stage.run(texts="released")
    stage.release("texts", [(0, 1), (1, 2), (2, 3)], ["train", "val", "test"])
    with pytest.raises(DataError, match=r"would be empty .*split\.max_texts"):
        stage.run(texts="released", max_texts=2)


def test_joint_must_leave_train_edges(stage):
    pairs = grid(3, 3)
    stage.core(pairs).release("texts", pairs, ["test"] * len(pairs))
    with pytest.raises(DataError, match="graph: the train split would be empty"):
        stage.run(texts="released", ratios=[0.4, 0.3, 0.3])


def test_unusable_releases_are_named(stage):
    stage.core(grid(5, 5)).release("texts", [(0, 1), (1, 2)], ["test", "tst"])
    with pytest.raises(DataError, match=r"texts\.parquet: row 1 .* split 'tst' is none of train, val, test"):
        stage.run(texts="released")
    stage.release("texts", [(90, 90)], ["test"])
    with pytest.raises(DataError, match=r"texts\.parquet: none of its 1 pairs is in the core"):
        stage.run(texts="released")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(0, 0), (2, 1)], "column 'user' must number 2 ids from 0 without gaps, but runs from 0 to 2"),
        ([(0, 1), (1, 2)], "column 'item' must number 2 ids from 0"),
        ([(-1, 0), (0, 1)], "runs from -1 to 0"),
        ([(0, 0), (1, 1), (0, 0)], r"row 2 \(from 0\) repeats an earlier pair"),
        ([(0, 0), (None, 1)], "column 'user' has empty cells"),
        ([], "no interactions"),
    ],
)
def test_a_core_that_is_not_one_is_refused(stage, pairs, message):
    with pytest.raises(DataError, match=message):
        stage.core(pairs).run()


def test_a_core_without_reviews_cannot_give_texts(stage):
    with pytest.raises(DataError, match="no interaction has a review"):
        stage.core(grid(5, 5), reviews=[" "] * 20).run()


# --- The released data ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(shared: Path, tmp_path_factory) -> dict[str, dict[str, Path]]:
    """The core and the released splits of Amazon and Yelp, as the stages before this one make them."""
    found = {}
    for name in ("amazon", "yelp"):
        folder = tmp_path_factory.mktemp(name)
        stems = ("interactions", "items", "edges", "texts", "core", "core_items")
        paths = {stem: folder / f"{stem}.parquet" for stem in stems}
        import_release(shared / "data" / "xrec" / name, *(paths[stem] for stem in stems[:4]))
        filter_kcore(paths["interactions"], paths["items"], OPEN, paths["core"], paths["core_items"])
        found[name] = paths
    return found


@pytest.mark.parametrize(("name", "leaked", "train"), [("yelp", 2434, 314_944), ("amazon", 2376, 288_671)])
def test_independent_mode_shows_the_leakage_of_the_released_split(released, tmp_path, name, leaked, train):
    paths = released[name]
    outputs = tmp_path / "graph", tmp_path / "texts"
    choice = DEFAULTS | {"graph": "released", "texts": "released"}
    inputs = paths["edges"], paths["texts"]
    report = split_interactions(paths["core"], choice | {"mode": "independent"}, *outputs, *inputs)
    assert report["texts"] == {"train": 0, "val": 0, "test": 3000}
    assert report["leaked_texts"] == report["overlap"]["test"]["train"] == leaked
    assert sum(report["overlap"]["test"].values()) == 3000
    assert report["graph"]["train"] == train

    report = split_interactions(paths["core"], choice | {"mode": "joint"}, *outputs, *inputs)
    assert report["leaked_texts"] == 0
    assert report["moved"] == {"val": 0, "test": leaked}
    assert report["graph"]["train"] == train - leaked


def test_texts_by_ratio_from_a_release_split_3000_rows_without_leakage(released, tmp_path):
    paths = released["yelp"]
    choice = DEFAULTS | {"graph": "released", "texts": "ratio"}
    report = split_interactions(
        paths["core"], choice, tmp_path / "graph", tmp_path / "texts", paths["edges"], paths["texts"]
    )
    assert report["texts"] == {"train": 2400, "val": 300, "test": 300}
    assert report["overlap"]["val"]["train"] == report["leaked_texts"] == 0


def test_ratio_reproduces_the_published_split_of_yelp_edge_for_edge(shared, stage):
    folder = shared / "data" / "xrec" / "yelp"
    edges = pd.read_csv(folder / "total.csv")
    stage.core(list(edges.itertuples(index=False, name=None)))
    report = stage.run(mode="independent")
    assert report["graph"] == {"train": 314_944, "val": 39_368, "test": 39_368}
    graph = read_table(stage.folder / "graph.parquet", GRAPH).to_pandas()
    for split, short in (("train", "trn"), ("val", "val"), ("test", "tst")):
        published = pd.read_csv(folder / f"total_{short}.csv")
        own = graph.loc[graph["split"] == split, ["user", "item"]]
        assert len(own.merge(published)) == len(own) == len(published)
