"""Distinct-1 and Distinct-2 (Li et al., 2016): how varied the words and word pairs of all texts together are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from xrec_repro.metrics._batches import count_empty, warn_of
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Column


@dataclass(frozen=True, kw_only=True)
class Distinct(Metric):
    """Different n-grams over all n-grams of the corpus (`distinct_1`, `distinct_2`); references are not read.

    Tokens are split at white space, as in USR. The mean of a column is the score: every n-gram is worth
    1 / (its occurrences in the corpus) wherever it occurs, and an example holds the sum over its n-grams times
    examples / (n-grams of the corpus). Nothing depends on the order of the examples, but each value depends on the
    others, so its standard deviation is not reported. Without any n-gram the score is 0.

    More text repeats more: the score falls with the number of examples and with their length, so it compares corpora
    of one size only. `counts` has the number of n-grams and of different ones.
    """

    name: ClassVar[str] = "distinct"
    needs: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, Column]] = {
        "distinct_1": Column("Distinct-1", whole=True),
        "distinct_2": Column("Distinct-2", whole=True),
    }

    def facts(self) -> dict[str, Any]:
        """Return the definition's parts; `v` rises when the definition changes."""
        return {"tokens": "whitespace", "level": "corpus", "v": "1"}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        numbers: dict[str, int] = {}
        unigrams, bigrams = occurrences = Counter(), Counter()
        for text in predictions:
            tokens, pairs = _ngrams(text, numbers)
            unigrams.update(tokens)
            bigrams.update(pairs)
        shares = np.zeros((len(predictions), len(occurrences)))
        for row, text in enumerate(predictions):
            for i, ngrams in enumerate(_ngrams(text, numbers)):
                shares[row, i] = sum(1 / occurrences[i][ngram] for ngram in ngrams)
        totals = [counter.total() for counter in occurrences]
        columns = {f"distinct_{i + 1}": shares[:, i] * (len(shares) / max(totals[i], 1)) for i in range(len(totals))}
        counts = {"unigrams": totals[0], "distinct_unigrams": len(unigrams)}
        empty = count_empty(predictions)
        warn_of(empty, self.name, "have no n-gram")
        return columns, empty | counts | {"bigrams": totals[1], "distinct_bigrams": len(bigrams)}


def _ngrams(text: str, numbers: dict[str, int]) -> tuple[list[int], list[int]]:
    """Return the tokens and the pairs of tokens as numbers: no text is kept, and no two pairs are confused."""
    tokens = [numbers.setdefault(token, len(numbers)) for token in text.split()]
    return tokens, [first << 32 | second for first, second in pairwise(tokens)]


METRIC = Distinct
