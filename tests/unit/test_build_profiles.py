"""Profiles and references of a whole core: complete, without leaks, and counted."""

import re
from collections import Counter
from pathlib import Path

import pytest

from xrec_repro.config import load_config, merge
from xrec_repro.contracts import (
    CORE_INTERACTIONS,
    CORE_ITEMS,
    GRAPH,
    ITEM_PROFILES,
    REFERENCES,
    RELEASED_TEXTS,
    TEXTS,
    USER_PROFILES,
)
from xrec_repro.data.glassbox import ASPECT_NAMES, find_aspects, make_glassbox, make_world
from xrec_repro.data.kcore import filter_kcore
from xrec_repro.data.readers import read_raw
from xrec_repro.data.split import split_interactions
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_table, write_table
from xrec_repro.profiles.build import NEUTRAL_USER, build_profiles, build_references

SETTINGS = {
    "backend": "extractive",
    "references": "published",
    "max_words": 50,
    "seed": 1,
    "reviews_per_item": 2,
    "items_per_user": 2,
}
# user, item, split of the graph, review
EDGES = [
    (0, 0, "train", "salty harbours and salty harbours"),
    (0, 1, "train", "silent forests"),
    (0, 2, "train", "silent forests"),
    (1, 0, "test", "secret volcano secret volcano"),
    (1, 1, "train", None),
    (2, 2, "val", "secret volcano"),
]


class Echo:
    """A writer that shows what it was given."""

    def __init__(self):
        self.items, self.users, self.reviews = [], [], []

    def item_profiles(self, items):
        self.items = list(items)
        return [f"profile of {item.title}" for item in items]

    def user_profiles(self, users):
        self.users = list(users)
        return [f"likes {len(user.entries)}" for user in users]

    def references(self, reviews):
        self.reviews = list(reviews)
        return [f"because {review.review}" for review in reviews]

    def report(self):
        return {"answered_by": "echo"}


def _core(folder: Path, edges=EDGES, prefix: str = "") -> tuple[Path, Path, Path, Path]:
    """Write a core, its graph and its pairs; user ids are u0, u1, … and item ids i0, i1, …"""
    paths = tuple(folder / f"{prefix}{name}.parquet" for name in ("core", "items", "graph", "texts"))
    rows = [
        {"user": u, "item": i, "user_id": f"u{u}", "item_id": f"i{i}", "rating": 5, "timestamp": 0, "review": r}
        for u, i, _, r in edges
    ]
    titles = sorted({i for _, i, _, _ in edges})
    items = [
        {"item": i, "item_id": f"i{i}", "title": f"Title {i}", "description": "old maps", "city": "Oslo"}
        for i in titles
    ]
    pairs = [
        {"example_id": f"e{n}", "user": u, "item": i, "user_id": f"u{u}", "item_id": f"i{i}", "split": s}
        for n, (u, i, s, _) in enumerate(edges)
    ]
    write_table(paths[0], rows, CORE_INTERACTIONS)
    write_table(paths[1], items, CORE_ITEMS)
    write_table(paths[2], [{"user": u, "item": i, "split": s} for u, i, s, _ in edges], GRAPH)
    write_table(paths[3], pairs, TEXTS)
    return paths


def _phrases(profile: str) -> list[str]:
    """Return the phrases that an extractive profile lists; none where it says that nothing is known."""
    found = re.search("who enjoy (.*) would like|books that offer (.*)[.]", profile)
    listed = (found[1] or found[2]) if found else "books of this kind"
    return [] if listed == "books of this kind" else re.split(", | and ", listed)


def _released(path: Path, rows: list[tuple]) -> Path:
    names = ("user_id", "item_id", "user_profile", "item_profile", "reference")
    write_table(path, [dict(zip(names, row, strict=True)) for row in rows], RELEASED_TEXTS)
    return path


def _profiles(folder: Path, core, domain="book", **options) -> tuple[dict, list[str], list[str]]:
    changes = options.pop("settings", {})
    out = folder / "users.parquet", folder / "items_out.parquet"
    report = build_profiles(*core[:3], {**SETTINGS, **changes}, domain, *out, **options)
    users = read_table(out[0], USER_PROFILES).to_pydict()
    items = read_table(out[1], ITEM_PROFILES).to_pydict()
    assert users["user"] == list(range(len(users["user"])))
    assert items["item"] == list(range(len(items["item"])))
    return report, users["profile"], items["profile"]


def _references(folder: Path, core, domain="book", **options) -> tuple[dict, list[dict]]:
    changes = options.pop("settings", {})
    out = folder / "references.parquet"
    report = build_references(core[0], core[1], core[3], {**SETTINGS, **changes}, domain, out, **options)
    return report, read_table(out, REFERENCES).to_pylist()


@pytest.mark.parametrize("domain", ["book", "business"])
def test_everyone_gets_a_profile_and_held_out_reviews_stay_out(tmp_path, domain):
    report, users, items = _profiles(tmp_path, _core(tmp_path), domain)
    assert (len(users), len(items)) == (3, 3)
    assert users[2] == NEUTRAL_USER
    assert (report["cold_users"], report["neutral_users"], report["neutral_items"]) == (1, 1, 0)
    assert all(users) and all(items)
    assert "volcano" not in " ".join(users + items)


@pytest.mark.parametrize(("domain", "reviews"), [("book", [0, 0, 0]), ("business", [1, 1, 1])])
def test_a_writer_sees_train_edges_only_and_reviews_of_businesses(tmp_path, domain, reviews):
    echo = Echo()
    report, users, items = _profiles(tmp_path, _core(tmp_path), domain, settings={"backend": "chat"}, chat=echo)
    assert report["answered_by"] == "echo"
    assert [len(item.reviews) for item in echo.items] == reviews
    assert items == ["profile of Title 0", "profile of Title 1", "profile of Title 2"]
    assert users == ["likes 2", "likes 1", NEUTRAL_USER]
    entries = [entry for user in echo.users for entry in user.entries]
    assert all(entry.item_profile == f"profile of {entry.title}" for entry in entries)
    assert entries[-1].review is None and entries[-1].rating == 5.0
    assert "volcano" not in repr((echo.items, echo.users))


def test_a_new_user_shifts_nobodys_sample(tmp_path):
    many = [(u, i, "train", f"review {u} {i}") for u in range(8) for i in range(12)]
    before, after = Echo(), Echo()
    _profiles(tmp_path, _core(tmp_path, many), settings={"backend": "chat"}, chat=before)
    more = [*many, (8, 0, "train", "new"), (8, 1, "train", "new")]
    _profiles(tmp_path, _core(tmp_path, more, "more"), settings={"backend": "chat"}, chat=after)
    assert after.users[:8] == before.users
    assert len({tuple(entry.title for entry in user.entries) for user in before.users}) > 1


def test_published_profiles_take_the_first_text_and_count_the_others(tmp_path):
    rows = [
        ("u0", "i0", " ", "item zero", "r0"),
        ("u0", "i1", "user zero", None, "r1"),
        ("u0", "i0", "user zero again", "item zero", "r0 again"),
    ]
    texts = _released(tmp_path / "released.parquet", rows)
    core = _core(tmp_path)
    report, users, items = _profiles(tmp_path, core, settings={"backend": "published"}, published_texts=texts)
    assert users == ["user zero", NEUTRAL_USER, NEUTRAL_USER]
    assert items[0] == "item zero" and len(set(items[1:])) == 1
    assert (report["neutral_users"], report["neutral_items"]) == (2, 2)
    assert (report["differing_users"], report["differing_items"]) == (1, 0)
    report, references = _references(tmp_path, core, published_texts=texts)
    assert references == [
        {"example_id": "e0", "title": "Title 0", "reference": "r0"},
        {"example_id": "e1", "title": "Title 1", "reference": "r1"},
    ]
    assert (report["references"], report["dropped"], report["differing_references"]) == (2, 4, 1)


def test_written_references_use_each_pairs_own_review(tmp_path):
    echo, core = Echo(), _core(tmp_path)
    report, references = _references(tmp_path, core, settings={"references": "chat"}, chat=echo)
    assert report["answered_by"] == "echo"
    written = {row["example_id"]: row["reference"] for row in references}
    assert written == {f"e{n}": f"because {edge[3]}" for n, edge in enumerate(EDGES) if edge[3]}
    assert report["dropped"] == 1
    _, references = _references(tmp_path, core, settings={"references": "extractive"})
    assert references[3]["reference"] == "The user would buy the book because it offers secret volcano."


def test_errors_name_the_remedy(tmp_path):
    core = _core(tmp_path)
    with pytest.raises(ConfigError, match=r"profiles\.backend: 'magic'"):
        _profiles(tmp_path, core, settings={"backend": "magic"})
    with pytest.raises(ConfigError, match=r"profiles\.references: 'magic'"):
        _references(tmp_path, core, settings={"references": "magic"})
    with pytest.raises(ConfigError, match="domain 'film'"):
        _profiles(tmp_path, core, "film")
    with pytest.raises(ConfigError, match="chat"):
        _profiles(tmp_path, core, settings={"backend": "chat"})
    for call, key in ((_profiles, "backend"), (_references, "references")):
        with pytest.raises(DataError, match="use extractive or chat"):
            call(tmp_path, core, settings={key: "published"})
    strangers = _released(tmp_path / "strangers.parquet", [("x", "y", None, None, "r")])
    with pytest.raises(DataError, match="none of 6 pairs has a reference"):
        _references(tmp_path, core, published_texts=strangers)
    with pytest.raises(DataError, match="holds no profiles"):
        _profiles(tmp_path, core, settings={"backend": "published"}, published_texts=strangers)


def test_files_that_do_not_fit_are_refused(tmp_path):
    core = _core(tmp_path)
    write_table(core[2], [{"user": 0, "item": 9, "split": "train"}], GRAPH)
    with pytest.raises(DataError, match="row 0: item 9 is not of the core"):
        _profiles(tmp_path, core)
    with pytest.raises(DataError, match="column 'user' is missing"):
        _profiles(tmp_path, (core[1], core[1], core[2]))
    gap = _core(tmp_path, [(0, 0, "train", "a"), (2, 0, "train", "b")], "gap")
    with pytest.raises(DataError, match="user 1 is missing or double"):
        _profiles(tmp_path, gap)


def test_measure_how_much_demo_profiles_name(root, tmp_path):
    config = load_config(root / "config" / "config.yaml")
    settings = merge(config["defaults"], {"profiles": config["datasets"]["glassbox"]["overrides"]["profiles"]})
    raw = [tmp_path / name for name in ("r.json.gz", "m.json.gz", "released.parquet", "truth.parquet")]
    read = [tmp_path / name for name in ("interactions.parquet", "items.parquet")]
    core = [tmp_path / f"c_{name}.parquet" for name in ("core", "items", "graph", "texts")]
    make_glassbox(settings["glassbox"], *raw)
    read_raw("amazon", *raw[:2], *read, settings["read"]["max_malformed"])
    filter_kcore(*read, settings["kcore"], *core[:2])
    split_interactions(core[0], settings["split"], *core[2:])
    report, users, items = _profiles(tmp_path, core, settings=settings["profiles"])

    world = make_world(settings["glassbox"])
    of_user = dict(zip(world.user_ids, world.user_aspects.tolist(), strict=True))
    of_item = dict(zip(world.item_ids, world.item_aspects.tolist(), strict=True))
    frame = read_table(core[0], CORE_INTERACTIONS, ["user", "item", "user_id", "item_id"]).to_pandas()
    means = {}
    for kind, profiles, aspects in (("user", users, of_user), ("item", items, of_item)):
        ids = frame.drop_duplicates(kind).sort_values(kind)[f"{kind}_id"]
        true = [{ASPECT_NAMES[aspect] for aspect in aspects[key]} for key in ids]
        named = [find_aspects(profile) for profile in profiles]
        means[kind] = sum(len(n & t) for n, t in zip(named, true, strict=True)) / len(true)
        wrong = sum(len(n - t) for n, t in zip(named, true, strict=True)) / len(true)
        phrases = [phrase for profile in profiles for phrase in _phrases(profile)]
        empty = [phrase for phrase in phrases if not find_aspects(phrase)]
        print(f"\n{kind} profiles name {means[kind]:.2f} of 5 true aspects and {wrong:.2f} others; ", end="")
        print(f"{len(empty)} of {len(phrases)} phrases name none: {Counter(empty).most_common(5)}", end="")
        assert len(empty) < 0.08 * len(phrases)
    assert report["cold_users"] == 0
    assert 0.5 < means["user"] < 1.5
    assert 0.9 < means["item"] <= 1
    report, references = _references(tmp_path, core, settings=settings["profiles"], published_texts=raw[2])
    assert report["dropped"] == 0
    assert len(references) == len(frame)
