"""USR: unique token sequences over all texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrec_repro.metrics.base import summary
from xrec_repro.metrics.score import read_texts
from xrec_repro.metrics.usr import Usr

TEXTS = st.lists(st.text(alphabet="ab \t\n\x1f\u00a0", max_size=5), min_size=1, max_size=20)


def usr(texts: list[str]) -> float:
    return summary(Usr().score(texts, [""] * len(texts)))["usr"]["mean"]


def test_a_repeated_text_counts_once():
    scores = Usr().score(["a b", "c", "a b", "c", "d"], [""] * 5)
    assert scores.columns["usr"].tolist() == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert summary(scores)["usr"]["mean"] == pytest.approx(3 / 5)


def test_white_space_does_not_tell_texts_apart_but_case_and_punctuation_do():
    assert usr(["a  b\n", " a b"]) == 0.5
    assert usr(["a b", "A b", "a b."]) == 1.0
    assert usr(["ab", "a b"]) == 1.0


def test_std_is_not_reported():
    assert summary(Usr().score(["a", "a"], ["", ""]))["usr"]["std"] is None


@given(TEXTS)
def test_equals_the_pairwise_definition(texts):
    unique: list[list[str]] = []
    for text in texts:
        if not any(text.split() == other for other in unique):
            unique.append(text.split())
    assert usr(texts) == pytest.approx(len(unique) / len(texts))


@given(TEXTS, st.randoms())
def test_does_not_depend_on_the_order(texts, random):
    shuffled = random.sample(texts, len(texts))
    assert usr(shuffled) == usr(texts)


def test_text_with_a_lone_surrogate_is_counted():
    assert usr(["\ud800", "\ud800", "a"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dataset", ["amazon", "yelp"])
def test_released_predictions_reach_the_published_value(shared, dataset):
    folder = shared / "data" / "xrec" / dataset
    predictions = read_texts(folder / "tst_pred.pkl", "prediction")
    references = read_texts(folder / "tst_ref.pkl", "reference")
    assert len(predictions) == 3000
    result = summary(Usr().score(predictions, references))
    assert round(result["usr"]["mean"], 4) == 1.0
