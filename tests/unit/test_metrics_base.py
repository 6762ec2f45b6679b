"""The contract of metrics: signatures, checks of the input, summaries, and the registry."""

import dataclasses
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.metrics.base import Metric, Scores, summary
from xrec_repro.metrics.columns import Column
from xrec_repro.metrics.registry import build_metric, metric_class, metric_names


@dataclass(frozen=True, kw_only=True)
class Toy(Metric):
    name: ClassVar[str] = "toy"
    columns: ClassVar[dict[str, Column]] = {"toy_a": Column("A"), "toy_b": Column("B", whole=True)}

    word: str | None
    scale: float
    strict: bool
    batch_size: int

    def facts(self) -> dict[str, Any]:
        return {"v": "1"}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        lengths = np.array([self.scale * len(p) for p in predictions])
        return {"toy_a": lengths, "toy_b": lengths}, {"seen": len(predictions)}


SETTINGS = {"word": "a", "scale": 1.0, "strict": False, "batch_size": 4}
SETTINGS_STRATEGY = st.fixed_dictionaries(
    {
        "word": st.none() | st.text(alphabet="ab|:%-yesnoD27C", max_size=12),
        "scale": st.floats(allow_nan=False),
        "strict": st.booleans(),
    }
)


def test_signature_shows_fields_then_facts():
    assert Toy.from_settings(SETTINGS).signature == "toy|word:a|scale:1.0|strict:no|v:1"


@given(SETTINGS_STRATEGY, SETTINGS_STRATEGY)
def test_signatures_are_equal_exactly_when_the_settings_are(one, other):
    signatures = [Toy(**settings, batch_size=1).signature for settings in (one, other)]
    assert (signatures[0] == signatures[1]) == all(repr(one[key]) == repr(other[key]) for key in one)


def test_neutral_fields_are_not_in_the_signature():
    metric = Toy.from_settings(SETTINGS, "cpu")
    assert dataclasses.replace(metric, batch_size=9, device="cuda").signature == metric.signature


def test_a_new_field_is_in_the_signature_without_further_work():
    @dataclass(frozen=True, kw_only=True)
    class Longer(Toy):
        extra: int

    assert Longer(**SETTINGS, extra=1).signature != Longer(**SETTINGS, extra=2).signature


def test_a_metric_cannot_be_changed_after_it_was_built():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Toy.from_settings(SETTINGS).scale = 2.0


def test_unknown_and_missing_keys_are_named():
    with pytest.raises(ConfigError, match=r"metrics\.toy\.scales: unknown key"):
        Toy.from_settings({**SETTINGS, "scales": 1})
    with pytest.raises(ConfigError, match=r"metrics\.toy\.word: missing"):
        Toy.from_settings({"scale": 1.0, "strict": True, "batch_size": 1})


def test_the_device_is_not_a_key_of_the_section():
    with pytest.raises(ConfigError, match=r"metrics\.toy\.device: unknown key"):
        Toy.from_settings({**SETTINGS, "device": "cpu"})


def test_different_lengths_are_refused_with_both_numbers():
    with pytest.raises(DataError, match="2 predictions but 3 references"):
        Toy.from_settings(SETTINGS).score(["a", "b"], ["a", "b", "c"])


def test_nothing_to_score_is_refused():
    with pytest.raises(DataError, match="0 predictions and 0 references"):
        Toy.from_settings(SETTINGS).score([], [])


@dataclass(frozen=True, kw_only=True)
class Picky(Toy):
    """Reads a number from each prediction; an empty one cannot be scored."""

    columns: ClassVar[dict[str, Column]] = {"toy_a": Column("A")}
    may_miss: ClassVar[bool] = True

    def _columns(self, predictions, references):
        return {"toy_a": np.array([float(p or "nan") for p in predictions])}, {"empty": predictions.count("")}


@dataclass(frozen=True, kw_only=True)
class Strict(Picky):
    may_miss: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Knowing(Toy):
    columns: ClassVar[dict[str, Column]] = {"toy_a": Column("A")}
    needs: ClassVar[tuple[str, ...]] = ("reference", "truth")

    def _columns(self, predictions: Sequence[str], references: Sequence[str], truths: Sequence[Collection[str]]):
        hits = [float(p in truth) for p, truth in zip(predictions, truths, strict=True)]
        return {"toy_a": np.array(hits)}, {}


@pytest.mark.parametrize("kind", [Strict, Picky])
def test_an_infinite_score_is_refused_with_its_place(kind):
    with pytest.raises(DataError, match="toy_a of example 2 of 3 is not a finite number"):
        kind(**SETTINGS).score(["1", "-inf", "2"], ["", "", ""])


def test_a_score_that_is_not_a_number_is_refused_where_none_may_be_missing():
    with pytest.raises(DataError, match="toy_a of example 2 of 3 is not a finite number"):
        Strict(**SETTINGS).score(["1", "", "2"], ["", "", ""])


def test_an_example_that_could_not_be_scored_stays_in_the_column_and_out_of_the_summary():
    scores = Picky(**SETTINGS).score(["1", "", "2", "6"], [""] * 4)
    np.testing.assert_array_equal(scores.columns["toy_a"], [1.0, np.nan, 2.0, 6.0])
    cell = summary(scores)["toy_a"]
    assert (cell["mean"], cell["std"]) == (3.0, pytest.approx((14 / 3) ** 0.5))
    assert (cell["n"], cell["missing"], cell["counts"]) == (3, 1, {"empty": 1})


def test_a_column_without_any_score_is_refused():
    with pytest.raises(DataError, match="toy: toy_a: not one of 2 examples could be scored"):
        Picky(**SETTINGS).score(["", ""], ["a", "b"])


def test_true_reasons_reach_the_metric_that_needs_them_and_no_other():
    truths = [{"a", "b"}, ["c"]]
    assert Knowing(**SETTINGS).score(["a", "b"], ["", ""], truths).columns["toy_a"].tolist() == [1.0, 0.0]
    assert Toy(**SETTINGS).score(["a", "b"], ["", ""], truths).columns["toy_a"].tolist() == [1.0, 1.0]


def test_true_reasons_that_are_absent_or_of_other_examples_are_refused():
    with pytest.raises(DataError, match="toy: needs the true reasons .* leave this metric out of metrics.use"):
        Knowing(**SETTINGS).score(["a"], [""])
    with pytest.raises(DataError, match="toy: 1 predictions but 2 sets of true reasons"):
        Knowing(**SETTINGS).score(["a"], [""], [{"a"}, {"b"}])


def test_scores_are_float64_and_carry_signature_and_counts():
    scores = Toy.from_settings(SETTINGS).score(["a", "bcd"], ["", ""])
    assert scores.columns["toy_a"].dtype == np.float64
    assert scores.columns["toy_a"].tolist() == [1.0, 3.0]
    assert scores.counts == {"seen": 2}
    assert scores.signature == Toy.from_settings(SETTINGS).signature


def test_summary_has_the_population_std_and_null_where_it_means_nothing():
    values = np.array([1.0, 2.0, 6.0])
    result = summary(Scores({"toy_a": values, "toy_b": values}, "toy|v:1", frozenset({"toy_b"})))
    rest = {"n": 3, "signature": "toy|v:1", "missing": 0, "counts": {}}
    assert result["toy_a"] == {"mean": 3.0, "std": pytest.approx((14 / 3) ** 0.5), **rest}
    assert result["toy_b"] == {"mean": 3.0, "std": None, **rest}


def test_registry_knows_the_metrics_and_not_the_rest_of_the_package():
    assert {"bertscore", "bleu", "distinct", "faithfulness", "rouge", "usr"} <= set(metric_names())
    assert not {"base", "registry", "score"} & set(metric_names())


def test_every_registered_module_defines_the_metric_it_is_named_after():
    for name in metric_names():
        assert issubclass(metric_class(name), Metric)
        assert metric_class(name).name == name


def test_unknown_metric_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'bertscoer' is not a metric; known are: .*bertscore.*usr"):
        build_metric("bertscoer", {})


def test_a_metric_is_imported_only_when_it_is_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "xrec_repro.metrics.usr", raising=False)
    metric_names()
    assert "xrec_repro.metrics.usr" not in sys.modules
    assert build_metric("usr", {}).name == "usr"
    assert "xrec_repro.metrics.usr" in sys.modules
