"""USR, the unique sentence ratio: how many of the generated texts differ from each other."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xrec_repro.metrics._batches import count_empty, warn_of
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Column


@dataclass(frozen=True, kw_only=True)
class Usr(Metric):
    """Unique token sequences (split at white space) over all texts; references are not read.

    The per-example column holds 1 where a text is the first with its tokens and 0 where it repeats an earlier
    one, so that its mean is USR. Its standard deviation is a function of the mean and is not reported.
    """

    name: ClassVar[str] = "usr"
    needs: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, Column]] = {"usr": Column("USR", whole=True)}

    def facts(self) -> dict[str, Any]:
        """Return the definition's parts; `v` rises when the definition changes."""
        return {"tokens": "whitespace", "v": "1"}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        seen: set[bytes] = set()
        first = np.zeros(len(predictions))
        for row, text in enumerate(predictions):
            # 16 bytes a text instead of its tokens: memory does not depend on how long the texts are.
            key = hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16)
            if key.digest() not in seen:
                seen.add(key.digest())
                first[row] = 1.0
        empty = count_empty(predictions)
        warn_of(empty, self.name, "count as one text")
        return {"usr": first}, empty


METRIC = Usr
