"""Embeddings of users and items that may be propagated over their graph, and the loss of their training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrec_repro.errors import ModelError
from xrec_repro.recommenders.propagation import combination_factor, normalised_adjacency, propagate

STARTS = {"uniform": nn.init.xavier_uniform_, "normal": nn.init.xavier_normal_}
PENALTIES = ("sum", "half_mean", "norms")


class Factors(nn.Module):
    """Factors of users and items, trained with Bayesian personalised ranking.

    Users and items share one table, users first, so that propagation and optimiser see a single matrix.

    Attributes:
        table: Layer-0 embeddings [n_users + n_items, dim].
        adjacency: Normalised adjacency of the train edges, sparse CSR, not part of the state dict; None without layers.
    """

    def __init__(
        self,
        train_edges: Tensor,
        n_users: int,
        n_items: int,
        *,
        dim: int,
        generator: torch.Generator,
        layers: int = 0,
        combine: str = "sum",
        regularise: str = "initial",
        penalty: str = "sum",
        weight_decay: float = 0.0,
        start: str = "uniform",
    ) -> None:
        """Build the adjacency and draw the initial embeddings.

        Args:
            train_edges: int64 [2, n_edges], users above items.
            n_users: Number of users.
            n_items: Number of items.
            dim: Width of the embeddings.
            generator: CPU generator of the first draws, users before items.
            layers: Of propagation; without any the final embeddings are the table.
            combine: ``sum`` or ``mean`` of the layer outputs.
            regularise: ``propagated`` or ``initial``: whose norms are penalised.
            penalty: How, see `loss`.
            weight_decay: Factor of the penalty.
            start: ``uniform`` or ``normal``: Xavier's distribution of the first draws.

        Raises:
            DataError: There are layers and no train edges.
            ModelError: An argument has an unknown value.
        """
        super().__init__()
        _known("regularise", regularise, ("propagated", "initial"))
        _known("penalty", penalty, PENALTIES)
        _known("start", start, STARTS)
        self.n_users, self.layers = n_users, layers
        self.factor = combination_factor(combine, layers)
        self.weight_decay, self.regularise, self.penalty = weight_decay, regularise, penalty
        halves = [torch.empty(n, dim) for n in (n_users, n_items)]
        for half in halves:
            STARTS[start](half, generator=generator)
        self.table = nn.Parameter(torch.cat(halves))
        adjacency = normalised_adjacency(train_edges, n_users, n_items) if layers else None
        self.register_buffer("adjacency", adjacency, persistent=False)

    def forward(self) -> Tensor:
        """Return the final (propagated) embeddings [n_users + n_items, dim]."""
        return propagate(self.adjacency, self.table, self.layers, self.factor)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return the final embeddings, [n_users, dim] and [n_items, dim], without gradients."""
        with torch.no_grad():
            final = self()
        return final[: self.n_users], final[self.n_users :]

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Compute the loss of a batch of B triples.

        ``mean_b softplus(u·n - u·p) + weight_decay * penalty``

        The first term is ``-log sigmoid`` in a form that cannot overflow. The penalty is over the triples' rows of the
        propagated or the initial embeddings; a node that occurs twice counts twice:

        * ``sum``: ``sum_b (|u|² + |p|² + |n|²)``, neither halved nor divided by B (HKUDS/XRec's encoder);
        * ``half_mean``: half of that over B (He et al., 2020; RecBole with ``require_pow``);
        * ``norms``: ``(‖U‖ + ‖P‖ + ‖N‖) / B`` with the Frobenius norms of the three matrices [B, dim] (RecBole).

        Args:
            users: int64 [B].
            positives: int64 [B], item ids with a train edge to the user.
            negatives: int64 [B], item ids without one.

        Returns:
            A scalar.
        """
        nodes = torch.cat([users, positives + self.n_users, negatives + self.n_users])
        rows = F.embedding(nodes, self())
        user, positive, negative = rows.view(3, len(users), -1)
        ranking = F.softplus((user * (negative - positive)).sum(1)).mean()
        if not self.weight_decay:
            return ranking
        penalised = rows if self.regularise == "propagated" else F.embedding(nodes, self.table)
        if self.penalty == "norms":
            norms = penalised.view(3, -1).norm(dim=1).sum()
            return ranking + self.weight_decay * norms / len(users)
        total = penalised.square().sum()
        return ranking + self.weight_decay * (total if self.penalty == "sum" else total / (2 * len(users)))


def _known(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise ModelError(f"{name}: {value!r} is not one of {', '.join(choices)}; correct the recommender's entry")
