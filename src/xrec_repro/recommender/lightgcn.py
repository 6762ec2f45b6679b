"""The LightGCN model and its loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrec_repro.errors import ModelError
from xrec_repro.recommender.propagation import combination_factor, normalised_adjacency, propagate


class LightGCN(nn.Module):
    """LightGCN (He et al., 2020) trained with Bayesian personalised ranking.

    Users and items share one table, users first, so that propagation and optimiser see a single matrix.

    Attributes:
        table: Layer-0 embeddings [n_users + n_items, dim].
        adjacency: Normalised adjacency of the train edges, sparse CSR, not part of the state dict.
    """

    def __init__(
        self, train_edges: Tensor, n_users: int, n_items: int, settings: dict, generator: torch.Generator
    ) -> None:
        """Build the adjacency and draw the initial embeddings.

        Args:
            train_edges: int64 [2, n_edges], users above items.
            n_users: Number of users.
            n_items: Number of items.
            settings: The configuration's ``recommender`` section, of which ``dim``, ``layers``, ``combine``,
                ``regularise`` and ``weight_decay`` are used.
            generator: CPU generator of the Xavier-uniform draws, users before items.

        Raises:
            DataError: There are no train edges.
            ModelError: A setting has an unknown value.
        """
        super().__init__()
        self.n_users = n_users
        self.layers = settings["layers"]
        self.factor = combination_factor(settings["combine"], self.layers)
        self.weight_decay = settings["weight_decay"]
        self.regularise = settings["regularise"]
        if self.regularise not in ("propagated", "initial"):
            raise ModelError(f"recommender.regularise: {self.regularise!r} is not one of propagated, initial")
        halves = [torch.empty(n, settings["dim"]) for n in (n_users, n_items)]
        for half in halves:
            nn.init.xavier_uniform_(half, generator=generator)
        self.table = nn.Parameter(torch.cat(halves))
        adjacency = normalised_adjacency(train_edges, n_users, n_items)
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

        ``mean_b softplus(u·n - u·p) + weight_decay * sum_b (|u|² + |p|² + |n|²)``

        The first term is ``-log sigmoid`` in a form that cannot overflow. The second follows the encoder of
        HKUDS/XRec: a sum over the batch, neither halved nor divided by B, of the squared norms of the
        propagated embeddings; a node that occurs twice counts twice. With ``regularise: initial`` the norms
        are those of the triples' table rows, summed the same way.

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
        penalised = rows if self.regularise == "propagated" else F.embedding(nodes, self.table)
        return ranking + self.weight_decay * penalised.square().sum()
