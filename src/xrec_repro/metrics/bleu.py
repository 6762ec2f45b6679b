"""BLEU-1 and BLEU-4 (Papineni et al., 2002) by sacrebleu: of every example, and of the whole corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xrec_repro.errors import ConfigError
from xrec_repro.identity import versions
from xrec_repro.metrics._batches import count_empty, warn_of
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Column
from xrec_repro.progress import track
from xrec_repro.seeding import numpy_rng

LIBRARIES = ("sacrebleu",)
_ORDERS = (1, 4)
_SAMPLES = 999  # of the interval of corpus BLEU
# The others of sacrebleu need packages or downloads beyond it.
_CHOICES = {"smoothing": ("exp", "floor", "add-k", "none"), "tokenizer": ("13a", "intl", "char", "none")}


@dataclass(frozen=True, kw_only=True)
class Bleu(Metric):
    """Clipped n-gram precision with brevity penalty, in percent as sacrebleu prints it (`bleu_1`, `bleu_4`).

    The columns hold sentence-level scores. Their mean is NOT corpus BLEU, which pools the n-gram counts of all
    examples before it divides, and which can lie on either side of it. Corpus BLEU (over n-grams up to 1 and 4, with
    the same settings) is reported as ``corpus_bleu_1`` and ``corpus_bleu_4`` in `counts`, each with the ends of a 95 %
    interval, ``_low`` and ``_high``: percentiles of bootstrap samples of the examples, whose n-gram counts are pooled
    anew. The released code of GaVaMoE prints corpus values, though of another tokenizer and smoothing. An empty text
    scores 0 and is counted.

    Attributes:
        effective_order: Leave out orders for which the prediction is too short; otherwise a text of fewer than
            four tokens has a BLEU-4 of 0.
        smoothing: ``exp`` | ``floor`` | ``add-k`` | ``none``: what stands for a precision of 0, with the value that
            sacrebleu gives the method by default.
        tokenizer: ``13a`` | ``intl`` | ``char`` | ``none`` of sacrebleu.
        lowercase: Ignore case.
    """

    name: ClassVar[str] = "bleu"
    columns: ClassVar[Mapping[str, Column]] = {
        "bleu_1": Column("BLEU-1", decimals=2),
        "bleu_4": Column("BLEU-4", decimals=2),
    }
    labels: ClassVar[Mapping[str, str]] = {"effective_order": "eff", "smoothing": "smooth", "tokenizer": "tok"}

    effective_order: bool
    smoothing: str
    tokenizer: str
    lowercase: bool

    def __post_init__(self) -> None:
        for key, known in _CHOICES.items():
            if getattr(self, key) not in known:
                raise ConfigError(f"metrics.bleu.{key}: {getattr(self, key)!r} is none of {', '.join(known)}; set one")

    def facts(self) -> dict[str, Any]:
        """Return the version of sacrebleu."""
        return {"v": versions(*LIBRARIES)["sacrebleu"]}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        from sacrebleu.metrics import BLEU

        # Reads n-gram counts only. Its smoothing is off because add-k would be in the counts.
        reader = BLEU(lowercase=self.lowercase, tokenize=self.tokenizer, smooth_method="none", effective_order=True)
        scores, statistics = (np.zeros((len(predictions), width)) for width in (len(_ORDERS), 2 + 2 * max(_ORDERS)))
        pairs = zip(predictions, references, strict=True)
        for row, (prediction, reference) in enumerate(track(pairs, self.name, len(predictions))):
            read = reader.sentence_score(prediction, [reference])
            statistics[row] = read.sys_len, read.ref_len, *read.counts, *read.totals
            scores[row] = self._scores(statistics[row])
        counts: dict[str, float] = {**count_empty(predictions, references)}
        warn_of(counts, self.name, "scored 0")
        counts |= self._corpus(statistics)
        return {f"bleu_{order}": scores[:, i] for i, order in enumerate(_ORDERS)}, counts

    def _corpus(self, statistics: np.ndarray) -> dict[str, float]:
        """Return the corpus's BLEU of each order with its interval, from the examples' statistics."""
        n, rng = len(statistics), numpy_rng(0, "bleu", "bootstrap")
        drawn = (np.bincount(rng.integers(0, n, n), minlength=n) @ statistics for _ in range(_SAMPLES if n else 0))
        found = np.array([self._scores(pooled) for pooled in (statistics.sum(axis=0), *drawn)])
        ends = np.quantile(found[1:] if n else found, [0.025, 0.975], axis=0)
        named = zip(("", "_low", "_high"), (found[0], *ends), strict=True)
        return {f"corpus_bleu_{o}{end}": float(row[i]) for end, row in named for i, o in enumerate(_ORDERS)}

    def _scores(self, statistics: np.ndarray) -> list[float]:
        """Return BLEU of each order from the two lengths, the matched and all n-grams of the prediction by order."""
        from sacrebleu.metrics import BLEU

        # Whole numbers: sacrebleu compares them.
        lengths, ngrams = np.split(statistics.astype(int), [2])
        matched, total = (part.tolist() for part in np.split(ngrams, 2))
        return [
            BLEU.compute_bleu(
                matched[:order],
                total[:order],
                *lengths.tolist(),
                smooth_method=self.smoothing,
                effective_order=self.effective_order,
                max_ngram_order=order,
            ).score
            for order in _ORDERS
        ]


METRIC = Bleu
