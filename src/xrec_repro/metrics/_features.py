"""What FMR, FCR and DIV share: which features of the data a text names."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from xrec_repro.metrics._batches import count_empty, warn_of
from xrec_repro.metrics.base import Features, Metric, Scored

# Cut off a word, as the published codes clean texts: endings of contractions, and punctuation.
_ENDINGS = re.compile(r"('(?:s|m|ve|re|d|ll)|n't)(?!\w)")
_PUNCTUATION = '(),.!?:;"'


@dataclass(frozen=True, kw_only=True)
class FeatureMetric(Metric):
    """A metric of the features that texts name; references are not read.

    The features are those of all examples of the data, train, validation and test. A text names one that is, letter
    for letter, one of its words; how often does not matter.
    """

    def facts(self) -> dict[str, Any]:
        """Return the definition's parts; `v` rises when the definition changes."""
        return {"tokens": "words", "v": "1"}

    def scored(self, predictions: Sequence[str], references: Sequence[str], features: Features) -> Scored:
        """Return `_columns`, and for the signature how many features there are."""
        columns, counts = self._columns(predictions, references, features)
        empty = count_empty(predictions)
        warn_of(empty, self.name, "name no feature")
        return Scored(columns, empty | counts, {"features": len(features.known)})


def named(text: str, features: Features) -> frozenset[str]:
    """Return the features that a text names."""
    return features.known.intersection(_apart(text).split())


def named_by_all(texts: Sequence[str], features: Features) -> tuple[list[frozenset[str]], Counter[str]]:
    """Return the features that each text names, and by how many texts each is named."""
    # Taken apart all at once, a line each: for a short text, the calls take longer than the work.
    lines = _apart("\n".join(text.replace("\n", " ") for text in texts)).split("\n")
    each = [features.known.intersection(line.split()) for line in lines]
    return each, Counter(chain.from_iterable(each))


def _apart(text: str) -> str:
    for mark in _PUNCTUATION:
        text = text.replace(mark, f" {mark} ")
    return _ENDINGS.sub(r" \1 ", text) if "'" in text else text
