"""MAE, the mean absolute error of the ratings that a method predicts beside its texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xrec_repro.metrics._ratings import RatingMetric, errors
from xrec_repro.metrics.base import Ratings
from xrec_repro.metrics.columns import Column


@dataclass(frozen=True, kw_only=True)
class Mae(RatingMetric):
    """Absolute difference of predicted and true rating, in stars; the mean over the examples is MAE."""

    name: ClassVar[str] = "mae"
    needs: ClassVar[tuple[str, ...]] = ("rating",)
    columns: ClassVar[Mapping[str, Column]] = {"mae": Column("MAE", smaller_is_better=True)}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str], ratings: Ratings
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        error, counts = errors(ratings)
        return {"mae": np.abs(error)}, counts


METRIC = Mae
