"""ROUGE-1 and ROUGE-L (Lin, 2004) by the rouge-score package."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xrec_repro.identity import versions
from xrec_repro.metrics._batches import count_empty, count_texts, warn_of
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Column
from xrec_repro.progress import track

LIBRARIES = ("rouge-score", "nltk")
_KINDS = {"rouge_1": "rouge1", "rouge_l": "rougeL"}


@dataclass(frozen=True, kw_only=True)
class Rouge(Metric):
    """F1 of shared words and of the longest common subsequence of words, from 0 to 1 (`rouge_1`, `rouge_l`).

    A text is one sequence, whatever its sentences. The package's words are runs of a-z and 0-9 after lowercasing, so
    a text in another script has none; a text without words scores 0, even against itself. Empty texts are counted, and
    so are wordless ones.

    Attributes:
        stemmer: Compare words of more than three letters by their Porter stems.
    """

    name: ClassVar[str] = "rouge"
    columns: ClassVar[Mapping[str, Column]] = {"rouge_1": Column("ROUGE-1"), "rouge_l": Column("ROUGE-L")}
    labels: ClassVar[Mapping[str, str]] = {"stemmer": "stem"}

    stemmer: bool

    def facts(self) -> dict[str, Any]:
        """Return which of precision, recall and F1 is meant, and the versions of the package and its stemmer."""
        found = versions(*LIBRARIES)
        stems = {"nltk": found["nltk"]} if self.stemmer else {}
        return {"of": "f1", **stems, "v": found["rouge-score"]}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        scorer = RougeScorer(list(_KINDS.values()), use_stemmer=self.stemmer)
        columns = {name: np.zeros(len(predictions)) for name in _KINDS}
        pairs = zip(predictions, references, strict=True)
        for row, (prediction, reference) in enumerate(track(pairs, self.name, len(predictions))):
            scores = scorer.score(reference, prediction)
            for name, kind in _KINDS.items():
                columns[name][row] = scores[kind].fmeasure
        words = DefaultTokenizer(use_stemmer=False).tokenize
        empty = count_empty(predictions, references)
        wordless = count_texts("wordless", lambda text: bool(text.strip()) and not words(text), predictions, references)
        warn_of(empty, self.name, "scored 0")
        warn_of(wordless, self.name, "scored 0: there is no word of a-z or 0-9 in them")
        return columns, empty | wordless


METRIC = Rouge
