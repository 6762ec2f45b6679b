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
        """Train; a killed training goes on from its checkpoint (see `xrec_repro.training`).

        Returns:
            Epochs, reason of stopping (``patience`` or ``epochs``), best evaluation, and the history of loss and
            validation metrics.

        Raises:
            DataError: The graph has no val edges, fewer items than k, or a user with all items.
            ModelError: Training diverged, or the device is not there.
            StoppedError: A stop was asked for; what was done is in the checkpoint.
        """
        from functools import partial

        from torch.optim import Adam

        from xrec_repro.recommenders.factors import Factors
        from xrec_repro.recommenders.training import Ranking
        from xrec_repro.seeding import torch_generator
        from xrec_repro.training import Plan, train

        settings, run = self.settings, self.run
        generator = torch_generator(run.seed, self.stream, "init")
        sizes = graph.edges["train"], graph.n_users, graph.n_items
        model = Factors(*sizes, dim=settings.dim, generator=generator, **self.shape())
        plan = Plan(
            name=f"training {run.name}",
            rate_key=run.key("learning_rate"),
            seed=run.seed,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            optimizer=partial(Adam, lr=settings.learning_rate, fused=True),
            evaluate_every=settings.evaluate_every,
            patience=settings.patience,
            checkpoint=run.checkpoint,
            identity=run.identity,
            keep_curve=False,
            after_epoch=run.on_epoch,
        )
        progress = train(Ranking(graph, model, settings, run), plan)
        self._best = model.embeddings()
        return {
            "epochs_run": len(progress.history),
            "stopped_by": progress.stopped_by,
            "best_epoch": progress.best_epoch,
            "best_val_recall": progress.best,
            "history": progress.history,
        }

    def embeddings(self) -> "tuple[Tensor, Tensor]":
        """Return the final embeddings of the best evaluation."""
        return self._best
