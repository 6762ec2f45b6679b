"""FMR, the feature matching ratio (Li et al., 2020): does a text name the feature that its reference is about?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xrec_repro.metrics._features import FeatureMetric, named
from xrec_repro.metrics.base import Features
from xrec_repro.metrics.columns import Column


@dataclass(frozen=True, kw_only=True)
class Fmr(FeatureMetric):
    """1 where a text names the example's feature, else 0; an example without a feature has no score."""

    name: ClassVar[str] = "fmr"
    needs: ClassVar[tuple[str, ...]] = ("feature",)
    columns: ClassVar[Mapping[str, Column]] = {"fmr": Column("FMR")}
    may_miss: ClassVar[bool] = True

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str], features: Features
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        pairs = zip(predictions, features.true, strict=True)
        found = [np.nan if true is None else float(true in named(text, features)) for text, true in pairs]
        return {"fmr": np.array(found)}, {}


METRIC = Fmr
