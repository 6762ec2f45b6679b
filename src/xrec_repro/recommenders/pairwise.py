"""Recommenders trained with Bayesian personalised ranking: what they share of settings and training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from xrec_repro.plugins import Positive, PositiveNumber
from xrec_repro.recommenders.base import Recommender, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from xrec_repro.recommenders.graph import InteractionGraph


@dataclass(frozen=True, kw_only=True)
class PairwiseSettings(Settings):
    """Settings of the training; Adam with one negative a train edge.

    Attributes:
        learning_rate: Of Adam.
        batch_size: Train edges a step.
        negatives: ``fixed``, drawn once before the first epoch, or ``redrawn`` every epoch.
        epochs: At most.
        patience: Evaluations without a better validation Recall@k before it stops.
        evaluate_every: Epochs.
    """

    learning_rate: PositiveNumber
    batch_size: Positive
    negatives: Literal["fixed", "redrawn"]
    epochs: Positive
    patience: Positive
    evaluate_every: Positive


class Pairwise(Recommender):
    """Embeddings trained with Bayesian personalised ranking and stopped early on the validation Recall@k.

    Attributes:
        stream: Name of the seed's stream of the first embeddings; another name gives other embeddings.
    """

    Settings = PairwiseSettings
    gpu = True
    stream: ClassVar[str]

    def shape(self) -> dict[str, Any]:
        """Return the arguments of `factors.Factors` that are this recommender's own."""
        return {}

    def fit(self, graph: "InteractionGraph") -> dict[str, Any]:
        """Train; a killed training goes on from its checkpoint (see `training.train_factors`).

        Raises:
            DataError: The graph has no val edges, fewer items than k, or a user with all items.
            ModelError: Training diverged, or the device is not there.
            StoppedError: A stop was asked for; what was done is in the checkpoint.
        """
        from xrec_repro.recommenders.factors import Factors
        from xrec_repro.recommenders.training import train_factors
        from xrec_repro.seeding import torch_generator

        generator = torch_generator(self.run.seed, self.stream, "init")
        sizes = graph.edges["train"], graph.n_users, graph.n_items
        model = Factors(*sizes, dim=self.settings.dim, generator=generator, **self.shape())
        self._best, told = train_factors(graph, model, self.settings, self.run)
        return told

    def embeddings(self) -> "tuple[Tensor, Tensor]":
        """Return the final embeddings of the best evaluation."""
        return self._best
