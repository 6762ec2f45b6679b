"""FCR, the feature coverage ratio (Li et al., 2020): how many of the features do all texts together name?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xrec_repro.metrics._features import FeatureMetric, named_by_all
from xrec_repro.metrics.base import Features
from xrec_repro.metrics.columns import Column


@dataclass(frozen=True, kw_only=True)
class Fcr(FeatureMetric):
    """Features that any text names over all features of the data.

    A score of the whole corpus: it rises with the number of texts. An example holds, for each feature that it names,
    1 / (texts that name it), times examples / features, so that the mean is the score.
    """

    name: ClassVar[str] = "fcr"
    needs: ClassVar[tuple[str, ...]] = ("feature",)
    columns: ClassVar[Mapping[str, Column]] = {"fcr": Column("FCR", whole=True)}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str], features: Features
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        each, texts = named_by_all(predictions, features)
        part = {feature: 1 / count for feature, count in texts.items()}
        shares = np.array([sum(map(part.__getitem__, sorted(one))) for one in each])
        return {"fcr": shares * (len(each) / len(features.known))}, {"features_named": len(texts)}


METRIC = Fcr
