"""Distinct: different n-grams over all of them; and what USR and Distinct hold in memory."""

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrec_repro.metrics.base import Metric, summary
from xrec_repro.metrics.distinct import Distinct
from xrec_repro.metrics.usr import Usr

TEXTS = st.lists(st.text(alphabet="ab \n\u00a0", max_size=9), min_size=1, max_size=12)
WORDS = [f"word{i:04}" for i in range(50)]
PHRASES = [f"{WORDS[i % 50]} {WORDS[i // 50]}" for i in range(320)]


class Rows(Sequence):
    """Different texts, each made when it is asked for and then forgotten."""

    def __init__(self, count: int, repeats: int = 1):
        self.count, self.repeats = count, repeats

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < self.count:
            raise IndexError(row)
        return " ".join([PHRASES[row % 320], *[PHRASES[row // 320]] * self.repeats])


def scores(texts: Sequence[str]):
    return Distinct().score(texts, [""] * len(texts))


def means(texts: Sequence[str]) -> list[float]:
    return [cell["mean"] for cell in summary(scores(texts)).values()]


def by_definition(texts: Sequence[str], order: int) -> float:
    ngrams = [tuple(t.split()[i : i + order]) for t in texts for i in range(len(t.split()) - order + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def peak(metric: Metric, rows: Rows) -> int:
    """Return the most bytes that scoring held at once."""
    tracemalloc.start()
    metric.score(rows, rows)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_values_by_hand():
    result = scores(["a b a", "a b", "c"])
    # Of 6 words 3 differ, of 3 pairs 2 (a b, b a). The word a is worth 1/3, b 1/2, c 1; the pair a b 1/2, b a 1.
    assert result.columns["distinct_1"].tolist() == pytest.approx([3 / 6 * 7 / 6, 3 / 6 * 5 / 6, 3 / 6 * 1])
    assert result.columns["distinct_2"].tolist() == pytest.approx([3 / 3 * 3 / 2, 3 / 3 * 1 / 2, 0])
    assert means(["a b a", "a b", "c"]) == pytest.approx([3 / 6, 2 / 3])
    assert result.counts == {
        "empty_predictions": 0,
        "unigrams": 6,
        "distinct_unigrams": 3,
        "bigrams": 3,
        "distinct_bigrams": 2,
    }


@given(TEXTS)
def test_the_mean_is_the_score_of_the_corpus(texts):
    assert means(texts) == pytest.approx([by_definition(texts, 1), by_definition(texts, 2)], abs=1e-12)


@given(TEXTS, st.randoms())
def test_the_values_do_not_depend_on_the_order(texts, random):
    order = random.sample(range(len(texts)), len(texts))
    one, other = scores(texts), scores([texts[i] for i in order])
    for name in ("distinct_1", "distinct_2"):
        assert other.columns[name].tolist() == one.columns[name][order].tolist()


def test_words_are_split_at_white_space_alone():
    assert means(["The the the."])[0] == 1.0
    assert means(["a  b\n", "a b"])[1] == 0.5


def test_a_pair_of_words_does_not_cross_texts():
    assert scores(["a", "b"]).counts["bigrams"] == 0


def test_texts_without_words_score_zero():
    assert means(["", " "]) == [0.0, 0.0]
    assert scores(["", "a b"]).columns["distinct_1"].tolist() == [0.0, 2.0]


def test_std_is_not_reported():
    assert [cell["std"] for cell in summary(scores(["a b", "c"])).values()] == [None, None]


def test_signature():
    assert Distinct().signature == "distinct|tokens:whitespace|level:corpus|v:1"


def test_rows_of_the_memory_tests_differ():
    assert len({*Rows(100_000)}) == 100_000
    assert len(Rows(1, repeats=20)[0]) > 9 * len(Rows(1)[0])


def test_memory_of_distinct_is_that_of_the_ngrams_and_of_its_values():
    few, many = peak(Distinct(), Rows(1_000)), peak(Distinct(), Rows(100_000))
    assert few < 500_000
    assert many - few < 100_000 * 8 * 2 * 3  # two columns, and two copies of each on the way


@pytest.mark.parametrize("metric", [Usr(), Distinct()])
def test_memory_does_not_depend_on_the_length_of_the_texts(metric):
    short, long = peak(metric, Rows(3_000)), peak(metric, Rows(3_000, repeats=20))
    assert long < 1.1 * short + 50_000


def test_memory_of_usr_is_a_digest_for_each_text():
    assert peak(Usr(), Rows(100_000)) < 100_000 * 150
