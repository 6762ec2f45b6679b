"""Faithfulness: do explanations of the glassbox name the true reasons, all of them, and nothing else?"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xrec_repro.data.glassbox import ASPECT_NAMES, find_aspects
from xrec_repro.data.glassbox_words import ASPECTS
from xrec_repro.errors import DataError
from xrec_repro.identity import digest_json
from xrec_repro.metrics._batches import count_empty, warn_of
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Column

_PARTS = ("p", "r", "f1")


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Metric):
    """Precision, recall and F1 of the true reasons that a text names (`faithfulness_p`, `_r`, `_f1`), from 0 to 1.

    With N the aspects that a prediction names in any surface form and T all aspects that user and item share, an
    example has precision ``|N & T| / |N|``, recall ``|N & T| / |T|`` and their harmonic mean; a text that names nothing
    has 0 in all three. Naming is all that is seen: not order, emphasis or negation.

    Recall is against *all* shared reasons, though a reference names only the strongest (`glassbox.named_reasons`). A
    perfect imitation of the references thus stays below 1; what it would reach is measured from them and reported in
    `counts` as ``<column>_reference``. That is no upper bound: a text may name more than its reference. Beside it,
    ``<column>_chance`` is what the same references would have if they were dealt to the examples at random: the mean
    over all pairs of a reference and an example, which is the expectation over all permutations, in closed form. The
    other counts: predictions that name nothing, aspects named in all, and how many of those are not true.
    """

    name: ClassVar[str] = "faithfulness"
    needs: ClassVar[tuple[str, ...]] = ("reference", "truth")
    columns: ClassVar[Mapping[str, Column]] = {
        "faithfulness_p": Column("Faithfulness P", "Faith. P"),
        "faithfulness_r": Column("Faithfulness R", "Faith. R"),
        "faithfulness_f1": Column("Faithfulness F1", "Faith. F1"),
    }

    def facts(self) -> dict[str, Any]:
        """Return the digest of the surface forms and the definition; `v` rises when that changes."""
        return {"forms": f"sha256:{digest_json(ASPECTS)[:12]}", "recall": "all_reasons", "v": "1"}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str], truths: Sequence[Collection[str]]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        values = np.zeros((len(predictions), len(_PARTS)))
        counts: dict[str, float] = {"named_nothing": 0, "named": 0, "named_wrongly": 0}
        checked = [_check(reasons, row) for row, reasons in enumerate(truths)]
        for row, (prediction, true) in enumerate(zip(predictions, checked, strict=True)):
            named = find_aspects(prediction)
            values[row] = _precision_recall_f1(named, true)
            counts["named_nothing"] += not named
            counts["named"] += len(named)
            counts["named_wrongly"] += len(named - true)
        counts |= _bounds(references, checked)
        empty = count_empty(predictions, references)
        warn_of(empty, self.name, "name nothing")
        return {f"faithfulness_{part}": values[:, i] for i, part in enumerate(_PARTS)}, empty | counts


def _precision_recall_f1(named: set[str], true: set[str]) -> tuple[float, float, float]:
    hits = len(named & true)
    return hits / max(len(named), 1), hits / len(true), 2 * hits / (len(named) + len(true))


def _bounds(references: Sequence[str], truths: Sequence[set[str]]) -> dict[str, float]:
    """Return the mean scores of the references where they stand, and dealt to the examples at random."""
    named, true = (_indicators(sets) for sets in (map(find_aspects, references), truths))
    sizes, own, dealt = true.sum(axis=1), np.zeros(len(_PARTS)), np.zeros(len(_PARTS))
    for row, aspects in enumerate(named):  # one reference on all examples at a time: all at once may not fit in memory
        hits, count = true @ aspects, aspects.sum()
        scores = np.stack([hits / max(count, 1), hits / sizes, 2 * hits / (count + sizes)])
        own += scores[:, row] / len(named)
        dealt += scores.mean(axis=1) / len(named)
    kinds = {"reference": own, "chance": dealt}
    return {
        f"faithfulness_{part}_{kind}": float(means[i]) for kind, means in kinds.items() for i, part in enumerate(_PARTS)
    }


def _indicators(sets: Iterable[Collection[str]]) -> np.ndarray:
    """Return which aspects are in each set: shape ``(sets, aspects)``, of 0 and 1."""
    return np.array([[name in one for name in ASPECT_NAMES] for one in sets], dtype=np.float64)


def _check(reasons: Collection[str], row: int) -> set[str]:
    true = set(reasons)
    if not true:
        raise DataError(f"faithfulness: example {row + 1} has no true reason; generate the world again")
    unknown = sorted(true.difference(ASPECT_NAMES))
    if unknown:
        raise DataError(
            f"faithfulness: example {row + 1}: the true reason {unknown[0]!r} is no aspect of the glassbox; "
            "generate the world again"
        )
    return true


METRIC = Faithfulness
