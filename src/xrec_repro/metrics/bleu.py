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

LIBRARIES = ("sacrebleu",)
_ORDERS = (1, 4)
# The others of sacrebleu need packages or downloads beyond it.
_CHOICES = {"smoothing": ("exp", "floor", "add-k", "none"), "tokenizer": ("13a", "intl", "char", "none")}


@dataclass(frozen=True, kw_only=True)
class Bleu(Metric):
    """Clipped n-gram precision with brevity penalty, in percent as sacrebleu prints it (`bleu_1`, `bleu_4`).

    The columns hold sentence-level scores. Their mean is NOT corpus BLEU, which pools the n-gram counts of all
    examples before it divides, and which can lie on either side of it. Corpus BLEU (over n-grams up to 1 and 4, with
    the same settings) is reported as ``corpus_bleu_1`` and ``corpus_bleu_4`` in `counts`; the released code of GaVaMoE
    prints corpus values, though of another tokenizer and smoothing. An empty text scores 0 and is counted.

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
        scores, pooled = np.zeros((len(predictions), len(_ORDERS))), np.zeros(2 + 2 * max(_ORDERS), dtype=int)
        pairs = zip(predictions, references, strict=True)
        for row, (prediction, reference) in enumerate(track(pairs, self.name, len(predictions))):
            read = reader.sentence_score(prediction, [reference])
            statistics = [read.sys_len, read.ref_len, *read.counts, *read.totals]
            scores[row] = self._scores(statistics)
            pooled += statistics
        counts: dict[str, float] = {**count_empty(predictions, references)}
        warn_of(counts, self.name, "scored 0")
        corpus = zip(_ORDERS, self._scores(pooled.tolist()), strict=True)
        counts |= {f"corpus_bleu_{order}": score for order, score in corpus}
        return {f"bleu_{order}": scores[:, i] for i, order in enumerate(_ORDERS)}, counts

    def _scores(self, statistics: list[int]) -> list[float]:
        """Return BLEU of each order from the two lengths, the matched and all n-grams of the prediction by order."""
        from sacrebleu.metrics import BLEU

        matched, total = statistics[2 : 2 + max(_ORDERS)], statistics[2 + max(_ORDERS) :]
        return [
            BLEU.compute_bleu(
                matched[:order],
                total[:order],
                *statistics[:2],
                smooth_method=self.smoothing,
                effective_order=self.effective_order,
                max_ngram_order=order,
            ).score
            for order in _ORDERS
        ]


METRIC = Bleu
