"""Scores by the authors' functions (see each bundle's README) from our metrics, where the definitions are one.

Not compared, being other definitions: ROUGE (theirs counts an n-gram once a text, and its ROUGE-L is that of a summary;
ours counts every occurrence and takes the longest common subsequence), GaVaMoE's BLEU (smoothed in every order, of
texts cleaned first) and USR (of cleaned texts), Distinct as a mean over sentences.
"""

import pytest

from tests.golden import each, read_fields
from xrec_repro.metrics.base import Features, Ratings, summary
from xrec_repro.metrics.bleu import Bleu
from xrec_repro.metrics.distinct import Distinct
from xrec_repro.metrics.registry import build_metric
from xrec_repro.metrics.usr import Usr

BLEU = {"effective_order": False, "smoothing": "none", "tokenizer": "none", "lowercase": False}


@each("baselines_metrics")
def test_golden_bleu_of_the_corpus_and_usr(bundle):
    numbers = read_fields(bundle / "golden.json")
    predictions, references = ([" ".join(tokens) for tokens in numbers[key]] for key in ("predictions", "references"))
    counts = Bleu.from_settings(BLEU).score(predictions, references).counts
    for order in (1, 4):
        assert counts[f"corpus_bleu_{order}"] == pytest.approx(numbers["expected"][f"BLEU-{order}"], abs=1e-9)
    scores = Usr().score(predictions, references)
    assert summary(scores)["usr"]["mean"] == pytest.approx(numbers["expected"]["USR"], abs=1e-9)
    assert scores.columns["usr"].sum() == numbers["expected"]["USN"]


@each("gavamoe_metrics")
def test_golden_distinct_of_the_corpus(bundle):
    numbers = read_fields(bundle / "golden.json")
    scores = Distinct().score(numbers["predictions"], numbers["references"])
    expected = [numbers["distinct"][f"{n}_pooled_preds_over_words"] for n in (1, 2)]
    assert summary(scores)["distinct_1"]["mean"] == pytest.approx(expected[0], abs=1e-9)
    # Theirs divides pairs by the number of words, ours by the number of pairs.
    assert scores.counts["distinct_bigrams"] / scores.counts["unigrams"] == pytest.approx(expected[1], abs=1e-9)


def features_of(numbers: dict, key: str, predictions: list[str]) -> dict[str, float]:
    """Return FMR, FCR and DIV of predictions, given a bundle's features."""
    features = Features(numbers[key], frozenset(numbers["feature_set"]))
    scores = [
        build_metric(name, {}).score(predictions, predictions, features=features) for name in ("fmr", "fcr", "div")
    ]
    return {name: cell["mean"] for one in scores for name, cell in summary(one).items()}


@each("baselines_metrics")
def test_golden_features_and_ratings(bundle):
    numbers = read_fields(bundle / "golden.json")
    found = features_of(numbers, "test_features", [" ".join(tokens) for tokens in numbers["predictions"]])
    true, predicted = zip(*numbers["ratings (true, predicted)"], strict=True)
    ratings, texts = Ratings(predicted, true, numbers["min_rating"], numbers["max_rating"]), [""] * len(true)
    for name in ("rmse", "mae"):
        found[name] = summary(build_metric(name, {}).score(texts, texts, ratings=ratings))[name]["mean"]
    for name, value in found.items():
        assert value == pytest.approx(numbers["expected"][name.upper()], abs=1e-9), name


@each("gavamoe_metrics")
def test_golden_features_of_texts_that_are_not_cleaned_yet(bundle):
    numbers = read_fields(bundle / "golden.json")
    found = features_of(numbers["features"], "test_feature", numbers["predictions"])
    assert found == pytest.approx({name: numbers["features"][name] for name in ("fmr", "fcr", "div")}, abs=1e-6)
