"""The glassbox: reproducible, readable, and with reasons that only interactions reveal."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression

from xrec_repro.config import load_config
from xrec_repro.contracts import RELEASED_TEXTS, TRUTH
from xrec_repro.data import glassbox_words as words
from xrec_repro.data.glassbox import ASPECT_NAMES, find_aspects, make_glassbox, make_world
from xrec_repro.errors import ConfigError
from xrec_repro.io import read_table

FILES = ("reviews.json.gz", "metadata.json.gz", "texts.parquet", "truth.parquet")


def _settings(root: Path, **changes: int) -> dict:
    return {**load_config(root / "config" / "config.yaml")["defaults"]["glassbox"], **changes}


def _make(folder: Path, settings: dict) -> dict:
    return make_glassbox(settings, *(folder / name for name in FILES))


@pytest.fixture(scope="module")
def demo(root, tmp_path_factory):
    """The glassbox of the demo's own settings: its folder and its report."""
    folder = tmp_path_factory.mktemp("glassbox")
    return folder, _make(folder, _settings(root))


def _lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def test_same_seed_same_bytes_and_another_seed_others(root, tmp_path):
    small = {"users": 30, "items": 25, "interactions_per_user": 6}
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        _make(tmp_path / name, _settings(root, seed=seed, **small))
    for file in FILES:
        one, two, three = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "three"))
        assert one == two
        assert one != three


def test_every_reference_names_exactly_the_named_reasons(demo):
    folder, report = demo
    texts = read_table(folder / "texts.parquet", RELEASED_TEXTS).to_pylist()
    truth = read_table(folder / "truth.parquet", TRUTH).to_pylist()
    by_pair = {(row["user_id"], row["item_id"]): row for row in truth}
    assert len(by_pair) == len(truth) == report["pairs"]
    assert len(texts) == report["texts"] > 9000
    for text in texts:
        row = by_pair[text["user_id"], text["item_id"]]
        assert find_aspects(text["reference"]) == set(row["named"])
        assert text["reference"].startswith("The user would buy the book because")
        assert 10 <= len(text["reference"].split()) <= 25


def test_truth_follows_the_latent_aspects(root, demo):
    folder, _ = demo
    world = make_world(_settings(root))
    users = {user_id: set(row) for user_id, row in zip(world.user_ids, world.user_aspects, strict=True)}
    items = {item_id: set(row) for item_id, row in zip(world.item_ids, world.item_aspects, strict=True)}
    shown = {item_id: set(row) for item_id, row in zip(world.item_ids, world.shown, strict=True)}
    for row in read_table(folder / "truth.parquet", TRUTH).to_pylist():
        shared = users[row["user_id"]] & items[row["item_id"]]
        assert {ASPECT_NAMES[aspect] for aspect in shared} == set(row["reasons"]) != set()
        assert set(row["in_profiles"]) == {ASPECT_NAMES[a] for a in shared & shown[row["item_id"]]}
        assert row["named"] in ([], row["reasons"][:2])


def test_named_reasons_are_the_strongest_of_user_and_item(root):
    world = make_world(_settings(root))
    strength = [14, 12, 10, 8, 6]
    seen = 0
    for user, item in np.random.default_rng(0).integers((600, 400), size=(300, 2)).tolist():
        of_user = dict(zip(world.user_aspects[user].tolist(), strength, strict=True))
        of_item = dict(zip(world.item_aspects[item].tolist(), strength, strict=True))
        products = [of_user[aspect] * of_item[aspect] for aspect in world.reasons(user, item)]
        assert products == sorted(products, reverse=True)
        seen += len(products)
    assert seen > 100


def test_reviews_name_the_reasons_and_descriptions_the_shown_aspects(root, demo):
    folder, _ = demo
    world = make_world(_settings(root))
    truth = read_table(folder / "truth.parquet", TRUTH).to_pylist()
    named = {(row["user_id"], row["item_id"]): set(row["named"]) for row in truth}
    for line in _lines(folder / "reviews.json.gz"):
        pair = line["reviewerID"], line["asin"]
        assert find_aspects(line.get("reviewText", "")) == named[pair]
        assert find_aspects(line["summary"]) == set()
    metadata = _lines(folder / "metadata.json.gz")
    for line, shown in zip(metadata, world.shown.tolist(), strict=True):
        assert find_aspects(line["description"][0]) == {ASPECT_NAMES[aspect] for aspect in shown}
        assert find_aspects(line["title"]) == set()
        assert 2 <= len(line["title"].split()) <= 4
    assert len({line["title"] for line in metadata}) == len(metadata) == 400


def test_raw_reviews_have_the_format_and_something_to_filter(demo):
    folder, report = demo
    lines = _lines(folder / "reviews.json.gz")
    times = [line["unixReviewTime"] for line in lines]
    assert all(later > earlier for earlier, later in pairwise(times))
    pairs = [(line["reviewerID"], line["asin"]) for line in lines]
    assert len(pairs) - len(set(pairs)) == report["duplicates"]
    assert sum("reviewText" not in line for line in lines) == report["without_text"]
    assert sum(line["overall"] <= 3 for line in lines) == report["low_ratings"]
    for key, low, high in (("duplicates", 0.005, 0.02), ("without_text", 0.01, 0.03), ("low_ratings", 0.05, 0.09)):
        assert low < report[key] / len(lines) < high
    keys = {"overall", "verified", "reviewerID", "asin", "summary", "unixReviewTime"}
    assert all(keys <= set(line) <= keys | {"reviewText"} for line in lines)


def test_find_aspects_matches_whole_words_in_any_case():
    assert find_aspects("DRY\n Humour, and wry asides!") == {"dry humour"}
    assert find_aspects("It has a strong sense of place.") == {"vivid landscapes"}
    assert find_aspects("sundry humour, epic battlesome, semi-tender romance") == set()


def test_surface_forms_are_unambiguous_and_fillers_name_nothing():
    forms = [form for aspect in words.ASPECTS for form in aspect]
    assert len(set(forms)) == len(forms)
    for aspect in words.ASPECTS:
        assert 2 <= len(aspect) <= 3
        for form in aspect:
            assert find_aspects(f"Well, {form}.") == {aspect[0]}
    assert len(words.REFERENCE_TEMPLATES) >= 12
    assert len(words.PRAISE_TEMPLATES) >= 15
    for name, group in vars(words).items():
        if name.isupper() and name != "ASPECTS" and isinstance(group, tuple):
            assert [text for text in group if find_aspects(text)] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("aspects", 25), ("clusters", 25), ("shown_aspects", 6), ("named_reasons", 6), ("items", 10**6)],
)
def test_impossible_settings_are_refused(root, tmp_path, key, value):
    with pytest.raises(ConfigError, match=rf"glassbox\.{key}: {value}"):
        _make(tmp_path, _settings(root, **{key: value}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shown", "named"), [(0, 1), (4, 4)])
def test_other_numbers_of_shown_and_named_aspects(root, tmp_path, shown, named):
    small = {"users": 20, "items": 20, "aspects": 8, "clusters": 2, "aspects_per_entity": 4}
    settings = _settings(root, interactions_per_user=5, shown_aspects=shown, named_reasons=named, **small)
    report = _make(tmp_path, settings)
    truth = read_table(tmp_path / "truth.parquet", TRUTH).to_pylist()
    assert all(row["in_profiles"] == (row["reasons"] if shown else []) for row in truth)
    assert max(len(row["named"]) for row in truth) == named
    assert report["named_hidden_from_description"] == (0 if shown else 1)


def _hidden_recall(features: np.ndarray, aspects: np.ndarray, hidden: np.ndarray) -> float:
    """Share of hidden aspects among each item's best guesses, by two-fold cross-fitted logistic probes."""
    half = np.random.default_rng(0).permutation(len(features)) % 2 == 0
    scores = np.zeros(hidden.shape)
    for train in (half, ~half):
        for aspect in range(hidden.shape[1]):
            probe = LogisticRegression(C=30, max_iter=300).fit(features[train], hidden[train, aspect])
            scores[~train, aspect] = probe.predict_proba(features[~train])[:, 1]
    scores[(aspects - hidden) == 1] = -1
    best = np.argsort(-scores, axis=1)[:, :4]
    return float(np.take_along_axis(hidden, best, axis=1).mean())


def test_measure_interactions_reveal_what_descriptions_hide(root, demo):
    folder, report = demo
    world = make_world(_settings(root))
    texts = read_table(folder / "texts.parquet", RELEASED_TEXTS, ["user_id", "item_id"]).to_pandas()
    train = texts.sample(frac=0.8, random_state=0)
    rows = train["item_id"].map({k: n for n, k in enumerate(world.item_ids)})
    columns = train["user_id"].map({k: n for n, k in enumerate(world.user_ids)})
    matrix = sparse.csr_matrix((np.ones(len(train)), (rows, columns)), shape=(400, 600))
    degrees = [1 / np.sqrt(np.maximum(matrix.sum(axis).A1, 1)) for axis in (1, 0)]
    normalised = sparse.diags(degrees[0]) @ matrix @ sparse.diags(degrees[1])
    latent = TruncatedSVD(32, random_state=0).fit_transform(normalised)
    latent /= np.linalg.norm(latent, axis=1, keepdims=True) + 1e-9

    aspects, shown = np.zeros((400, 24)), np.zeros((400, 24))
    np.put_along_axis(aspects, world.item_aspects, 1, axis=1)
    np.put_along_axis(shown, world.shown, 1, axis=1)
    hidden = aspects - shown
    by_text = _hidden_recall(shown, aspects, hidden)
    by_interactions = _hidden_recall(latent, aspects, hidden)
    print(f"\n{json.dumps(report, indent=2)}")
    print(f"hidden aspects of items among 4 guesses: chance {4 / 23:.3f}, from shown {by_text:.3f}", end=", ")
    print(f"from interactions {by_interactions:.3f}")
    assert by_interactions > 0.5
    assert by_interactions > by_text + 0.1
    assert 2 < report["mean_reasons"] < 4
    assert report["named_hidden_from_description"] > 0.9
