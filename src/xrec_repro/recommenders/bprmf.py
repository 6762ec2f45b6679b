"""BPR-MF (Rendle et al., 2009) in RecBole's form: two tables, no biases, no regulariser, Xavier's normal start."""

from typing import Any

from xrec_repro.recommenders.pairwise import Pairwise


class BPRMF(Pairwise):
    """Matrix factorisation trained with Bayesian personalised ranking: a graph model without layers."""

    stream = "bprmf"

    def shape(self) -> dict[str, Any]:
        """Return the start of the tables."""
        return {"start": "normal"}


RECOMMENDER = BPRMF
