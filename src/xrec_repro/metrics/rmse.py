"""RMSE, the root of the mean squared error of the ratings that a method predicts beside its texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xrec_repro.metrics._ratings import RatingMetric, errors
from xrec_repro.metrics.base import Ratings
from xrec_repro.metrics.columns import Column


@dataclass(frozen=True, kw_only=True)
class Rmse(RatingMetric):
    """Root mean squared difference of predicted and true ratings, in stars.

    A score of the whole corpus: an example's value is its squared error over the RMSE, so that the mean is the RMSE.
    """

    name: ClassVar[str] = "rmse"
    needs: ClassVar[tuple[str, ...]] = ("rating",)
    columns: ClassVar[Mapping[str, Column]] = {"rmse": Column("RMSE", smaller_is_better=True, whole=True)}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str], ratings: Ratings
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        error, counts = errors(ratings)
        known = error[~np.isnan(error)]
        rmse = np.sqrt(np.mean(known**2)) if known.size else np.nan
        return {"rmse": error**2 / rmse if rmse else np.abs(error)}, counts


METRIC = Rmse
