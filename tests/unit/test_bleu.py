"""BLEU: equal to sacrebleu's own, of sentences and of the corpus."""

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from xrec_repro.errors import ConfigError
from xrec_repro.metrics.base import summary
from xrec_repro.metrics.bleu import Bleu

SETTINGS = {"effective_order": True, "smoothing": "exp", "tokenizer": "13a", "lowercase": False}
PREDICTIONS = [
    "The user would enjoy the book because of its dry humour.",
    "the User would enjoy it",
    "Nothing in common, really!",
    "war war war war",
    "A book",
    "",
    "Cheap & cheerful; 3.5 stars (日本)",
]
REFERENCES = [
    "The user would enjoy this book because of its slow suspense and its dry humour.",
    "The user would enjoy it.",
    "quite different words",
    "war and peace",
    "A book of war",
    "a book",
    "cheap & Cheerful: 3.5 stars, 日本",
]
TEXT = st.lists(st.sampled_from(["a", "b", "c", "A", "b,", "c."]), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


def bleu(**changes) -> Bleu:
    return Bleu.from_settings({**SETTINGS, **changes})


def library(order: int, **changes) -> BLEU:
    options = {**SETTINGS, **changes}
    return BLEU(
        lowercase=options["lowercase"],
        tokenize=options["tokenizer"],
        smooth_method=options["smoothing"],
        effective_order=options["effective_order"],
        max_ngram_order=order,
    )


def check(pairs: list[tuple[str, str]], **changes) -> None:
    """Compare sentences and the corpus with sacrebleu."""
    predictions, references = zip(*pairs, strict=True)
    scores = bleu(**changes).score(predictions, references)
    for order in (1, 4):
        ours, package = scores.columns[f"bleu_{order}"], library(order, **changes)
        expected = [package.sentence_score(p, [r]).score for p, r in pairs]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
        corpus = package.corpus_score(predictions, [references]).score
        assert scores.counts[f"corpus_bleu_{order}"] == pytest.approx(corpus, abs=1e-9)


@pytest.mark.parametrize("effective_order", [True, False])
@pytest.mark.parametrize("smoothing", ["exp", "floor", "add-k", "none"])
def test_equals_sacrebleu_in_every_smoothing(effective_order, smoothing):
    check(list(zip(PREDICTIONS, REFERENCES, strict=True)), effective_order=effective_order, smoothing=smoothing)


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "char", "none"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_equals_sacrebleu_in_every_tokenizer(tokenizer, lowercase):
    check(list(zip(PREDICTIONS, REFERENCES, strict=True)), tokenizer=tokenizer, lowercase=lowercase)


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.sampled_from(["exp", "add-k"]))
def test_equals_sacrebleu_on_random_texts(pairs, smoothing):
    check(pairs, smoothing=smoothing)


def test_equals_the_function_that_papers_call():
    from sacrebleu import sentence_bleu

    columns = bleu().score(PREDICTIONS, REFERENCES).columns
    pairs = zip(PREDICTIONS, REFERENCES, strict=True)
    assert columns["bleu_4"].tolist() == pytest.approx([sentence_bleu(p, [r]).score for p, r in pairs])


def test_values_by_hand():
    columns = bleu().score(["a b c d", "a a a", "a b c"], ["a b c d", "a b", "a b x y"]).columns
    # Equal; one of three words is matched, for a counts once; two of three, and shorter than the reference.
    assert columns["bleu_1"].tolist() == pytest.approx([100, 100 / 3, 100 * 2 / 3 * math.exp(1 - 4 / 3)])
    # Three tokens have orders 1 to 3: 2/3, 1/2, and for the third 1/2 of 1/1, as it is the first without a match.
    precisions = 2 / 3 * 1 / 2 * 1 / 2
    assert columns["bleu_4"][[0, 2]].tolist() == pytest.approx([100, 100 * math.exp(1 - 4 / 3) * precisions ** (1 / 3)])


def test_the_mean_of_sentences_is_not_the_score_of_the_corpus():
    scores = bleu().score(["a b c d", "x x x x x x x x"], ["a b c d", "y y y y y y y y"])
    assert summary(scores)["bleu_1"]["mean"] == pytest.approx(50)
    assert scores.counts["corpus_bleu_1"] == pytest.approx(100 / 3)


def test_an_empty_text_scores_zero_and_is_counted(caplog):
    with caplog.at_level(logging.WARNING):
        scores = bleu(effective_order=False).score(["", " \n", "a b c d e", "a b c d e"], ["a", "a", "", "a b c d e"])
    assert scores.columns["bleu_1"].tolist() == pytest.approx([0, 0, 0, 100])
    assert scores.columns["bleu_4"].tolist() == pytest.approx([0, 0, 0, 100])
    assert (scores.counts["empty_predictions"], scores.counts["empty_references"]) == (2, 1)
    # Of sacrebleu, which would warn of every sentence scored without effective order, there is no word.
    assert {record.name for record in caplog.records} == {"xrec_repro"}


def test_signature_of_the_default():
    import sacrebleu

    expected = f"bleu|eff:yes|smooth:exp|tok:13a|lowercase:no|v:{sacrebleu.__version__}"
    assert bleu().signature == expected


@pytest.mark.parametrize(("key", "value"), [("smoothing", "add_k"), ("tokenizer", "flores200")])
def test_an_unknown_choice_is_refused(key, value):
    with pytest.raises(ConfigError, match=rf"metrics\.bleu\.{key}: '{value}' is none of .*none; set one"):
        bleu(**{key: value})


def test_corpus_bleu_has_an_interval_of_samples_of_the_examples():
    predictions = ["a b c d", "a b x y", "z z", "a b c d e"] * 20
    references = ["a b c d", "a b c d", "a b", "a b c d f"] * 20
    counts = bleu().score(predictions, references).counts
    for order in (1, 4):
        low, value, high = (counts[f"corpus_bleu_{order}{end}"] for end in ("_low", "", "_high"))
        assert low < value < high
    alone = bleu().score(predictions[:1], references[:1]).counts
    assert alone["corpus_bleu_4_low"] == alone["corpus_bleu_4"] == alone["corpus_bleu_4_high"] == pytest.approx(100)
