"""ROUGE: equal to the rouge-score package, and to counting by hand."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from xrec_repro.metrics.rouge import Rouge

PREDICTIONS = [
    "The user would enjoy the book because of its dry humour.",
    "the User is enjoying it, running wild",
    "war war war war",
    "",
    "日本",
    "Cheap & cheerful; 3.5 stars!",
]
REFERENCES = [
    "Because of its humour, which is dry, the user would enjoy this book.",
    "The users enjoyed it and run wildly",
    "war and peace, war",
    "a book",
    "日本",
    "cheap & CHEERFUL: 3.5 star",
]
WORDS = st.lists(st.sampled_from("abc"), max_size=8)


def columns(predictions, references, stemmer: bool = False) -> dict[str, np.ndarray]:
    return Rouge.from_settings({"stemmer": stemmer}).score(predictions, references).columns


def f1(matches: int, predicted: int, wanted: int) -> float:
    return 2 * matches / (predicted + wanted) if matches else 0.0


@functools.cache
def common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Length of the longest common subsequence, by its recursive definition."""
    if not one or not other:
        return 0
    if one[0] == other[0]:
        return 1 + common(one[1:], other[1:])
    return max(common(one[1:], other), common(one, other[1:]))


@pytest.mark.parametrize("stemmer", [True, False])
def test_equals_the_package(stemmer):
    found = columns(PREDICTIONS, REFERENCES, stemmer)
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=stemmer)
    scores = [scorer.score(r, p) for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    assert found["rouge_1"].tolist() == [score["rouge1"].fmeasure for score in scores]
    assert found["rouge_l"].tolist() == [score["rougeL"].fmeasure for score in scores]
    assert found["rouge_1"][0] > found["rouge_l"][0] > 0.3


@settings(max_examples=60)
@given(WORDS, WORDS)
def test_equals_the_definition(one, other):
    found = columns([" ".join(one)], [" ".join(other)])
    shared = sum(min(one.count(word), other.count(word)) for word in "abc")
    assert found["rouge_1"][0] == pytest.approx(f1(shared, len(one), len(other)))
    assert found["rouge_l"][0] == pytest.approx(f1(common(tuple(one), tuple(other)), len(one), len(other)))


def test_values_by_hand():
    found = columns(["a b c d", "d c b a"], ["b a c", "a b c d"])
    assert found["rouge_1"].tolist() == pytest.approx([6 / 7, 1.0])
    assert found["rouge_l"].tolist() == pytest.approx([4 / 7, 1 / 4])


def test_stems_make_inflected_words_equal():
    assert columns(["running stars"], ["run star"], stemmer=True)["rouge_1"][0] == 1.0
    assert columns(["running stars"], ["run star"], stemmer=False)["rouge_1"][0] == 0.0


def test_a_text_without_words_scores_zero_and_is_counted_as_empty_ones_are(caplog):
    scores = Rouge.from_settings({"stemmer": False}).score(["", " \t", "a", "日本"], ["a", "a", "", "日本"])
    assert scores.columns["rouge_1"].tolist() == scores.columns["rouge_l"].tolist() == [0.0] * 4
    assert scores.counts == {
        "empty_predictions": 2,
        "empty_references": 1,
        "wordless_predictions": 1,
        "wordless_references": 1,
    }
    assert "rouge: 1 wordless predictions scored 0: there is no word of a-z or 0-9 in them" in caplog.text


def test_signature_of_the_default():
    assert Rouge.from_settings({"stemmer": False}).signature == "rouge|stem:no|of:f1|v:0.1.2"
    assert "|stem:yes|of:f1|nltk:" in Rouge.from_settings({"stemmer": True}).signature
