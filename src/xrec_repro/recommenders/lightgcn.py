"""LightGCN (He et al., 2020): embeddings propagated over the graph, in the forms of three published codes.

The configuration's entries say which: XRec's code, LightGCN's own, RecBole's. Of RecBole's 1e-7 beside each degree and
1e-10 inside the logarithm stay out: both are below float32's rounding (tests/unit/test_golden_recommenders.py).
"""

from dataclasses import dataclass
from typing import Any, Literal

from xrec_repro.plugins import Natural, Number
from xrec_repro.recommenders.pairwise import Pairwise, PairwiseSettings


@dataclass(frozen=True, kw_only=True)
class LightGCNSettings(PairwiseSettings):
    """Settings of LightGCN.

    Attributes:
        layers: Of propagation.
        combine: ``sum`` (XRec's code) or ``mean`` (LightGCN) of the layer outputs.
        regularise: Whose norms are penalised: ``propagated`` (XRec's code) or ``initial`` (LightGCN) embeddings.
        penalty: How norms make a penalty, see `factors.Factors.loss`.
        weight_decay: Factor of the penalty.
    """

    layers: Natural
    combine: Literal["sum", "mean"]
    regularise: Literal["propagated", "initial"]
    penalty: Literal["sum", "half_mean", "norms"]
    weight_decay: Number


class LightGCN(Pairwise):
    """LightGCN trained with Bayesian personalised ranking."""

    Settings = LightGCNSettings
    stream = "lightgcn"

    def shape(self) -> dict[str, Any]:
        """Return layers, combination and penalty."""
        names = ("layers", "combine", "regularise", "penalty", "weight_decay")
        return {name: getattr(self.settings, name) for name in names}


RECOMMENDER = LightGCN
