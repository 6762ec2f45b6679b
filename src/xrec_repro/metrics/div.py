"""DIV, feature diversity (Li et al., 2020): how many features do two texts have in common?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xrec_repro.errors import DataError
from xrec_repro.metrics._features import FeatureMetric, named_by_all
from xrec_repro.metrics.base import Features
from xrec_repro.metrics.columns import Column


@dataclass(frozen=True, kw_only=True)
class Div(FeatureMetric):
    """Mean over all pairs of texts of the number of features that both name; smaller is more diverse.

    Pairs are not visited: a feature that n texts name is common to n (n - 1) / 2 of them. An example holds the mean of
    its own pairs, the sum of (n - 1) over its features / (examples - 1). Each value depends on the other texts, so it
    is a score of the whole corpus.
    """

    name: ClassVar[str] = "div"
    needs: ClassVar[tuple[str, ...]] = ("feature",)
    columns: ClassVar[Mapping[str, Column]] = {"div": Column("DIV", smaller_is_better=True, whole=True)}

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str], features: Features
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        if len(predictions) < 2:
            raise DataError(f"{self.name}: one text has no other to compare it with; explain two examples or more")
        each, texts = named_by_all(predictions, features)
        others = {feature: count - 1 for feature, count in texts.items()}
        common = np.array([sum(map(others.__getitem__, one)) for one in each], dtype=np.float64)
        return {"div": common / (len(each) - 1)}, {}


METRIC = Div
