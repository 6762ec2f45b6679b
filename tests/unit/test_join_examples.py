"""The one join: every text with its profiles, reference, rating and time."""

import pytest

from xrec_repro.contracts import CORE_INTERACTIONS, EXAMPLES, ITEM_PROFILES, REFERENCES, TEXTS, USER_PROFILES
from xrec_repro.data.examples import join_examples
from xrec_repro.errors import DataError
from xrec_repro.examples import load_examples
from xrec_repro.io import read_table, write_table

PAIRS = [("e0", 1, 0), ("e1", 0, 1), ("e2", 1, 1)]


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{name}.parquet" for name in ("texts", "references", "users", "items", "core")]
    ids = {"user_id": "u", "item_id": "i"}
    texts = [
        {"example_id": e, "user": u, "item": i, "split": "train", "zero_shot": e == "e2", **ids} for e, u, i in PAIRS
    ]
    write_table(paths[0], texts, TEXTS)
    references = [
        {"example_id": "e2", "title": None, "reference": "two"},
        {"example_id": "e0", "title": "T", "reference": "nil"},
    ]
    write_table(paths[1], references, REFERENCES)
    write_table(paths[2], [{"user": u, "profile": f"user {u}"} for u in (0, 1)], USER_PROFILES)
    write_table(paths[3], [{"item": i, "profile": f"item {i}"} for i in (1, 0)], ITEM_PROFILES)
    core = [
        {"user": 1, "item": 0, "rating": 4.0, "timestamp": 2**53 + 1, **ids},
        {"user": 1, "item": 0, "rating": 1.0, "timestamp": 9, **ids},
        {"user": 0, "item": 1, "rating": 2.0, "timestamp": None, **ids},
    ]
    write_table(paths[4], core, CORE_INTERACTIONS)
    return paths


def test_rows_keep_the_order_of_the_split_and_the_first_interaction_tells_rating_and_time(files, tmp_path):
    out = tmp_path / "examples.parquet"
    assert join_examples(*files, out) == {"examples": 2, "with_rating": 1, "with_timestamp": 1}
    nil, two = load_examples(out)
    assert (nil.example_id, nil.title, nil.reference) == ("e0", "T", "nil")
    assert (nil.user_profile, nil.item_profile) == ("user 1", "item 0")
    # No float stands between: 2**53 + 1 has none.
    assert (nil.rating, nil.timestamp, nil.feature, nil.zero_shot) == (4.0, 2**53 + 1, None, False)
    assert (two.example_id, two.title, two.rating, two.timestamp, two.zero_shot) == ("e2", "", None, None, True)
    assert read_table(out, EXAMPLES).schema.equals(EXAMPLES)


def test_a_method_that_is_to_see_no_profiles_sees_none(files, tmp_path):
    join_examples(*files, tmp_path / "examples.parquet")
    hidden = load_examples(tmp_path / "examples.parquet", profiles=False)
    assert {(e.user_profile, e.item_profile) for e in hidden} == {(None, None)}


def test_a_pair_without_profile_is_named(files, tmp_path):
    write_table(files[3], [{"item": 0, "profile": "item 0"}, {"item": 1, "profile": None}], ITEM_PROFILES)
    with pytest.raises(DataError, match=r"items.parquet: item 1 has no profile; run the profile rule again"):
        join_examples(*files, tmp_path / "examples.parquet")


def test_where_nothing_reads_profiles_there_are_none(files, tmp_path):
    join_examples(*files[:2], None, None, files[4], tmp_path / "examples.parquet")
    bare = load_examples(tmp_path / "examples.parquet")
    assert [(e.example_id, e.user_profile, e.item_profile) for e in bare] == [("e0", None, None), ("e2", None, None)]
