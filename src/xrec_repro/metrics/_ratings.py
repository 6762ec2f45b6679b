"""What RMSE and MAE share: errors of predicted ratings, in stars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xrec_repro.metrics.base import Metric, Ratings, Scored


@dataclass(frozen=True, kw_only=True)
class RatingMetric(Metric):
    """A metric of the ratings that a method predicts; no text is read.

    Predictions are clamped to the range of all ratings of the data, train, validation and test, as the published codes
    do. An example without a true or without a predicted rating has no score.
    """

    may_miss: ClassVar[bool] = True

    def facts(self) -> dict[str, Any]:
        """Return the definition's parts; `v` rises when the definition changes."""
        return {"clamped": True, "v": "1"}

    def scored(self, predictions: Sequence[str], references: Sequence[str], ratings: Ratings) -> Scored:
        """Return `_columns`, and for the signature the range to which predictions were clamped."""
        found = self._columns(predictions, references, ratings)
        return Scored(*found, {"range": f"{ratings.low:g}-{ratings.high:g}"})


def errors(ratings: Ratings) -> tuple[np.ndarray, dict[str, float]]:
    """Return predicted less true rating of each example, NaN where one is absent, and how many were clamped."""
    predicted, true = (np.array(side, dtype=np.float64) for side in (ratings.predicted, ratings.true))
    clamped = np.clip(predicted, ratings.low, ratings.high)
    return clamped - true, {"clamped": int((clamped != predicted)[~np.isnan(predicted)].sum())}
