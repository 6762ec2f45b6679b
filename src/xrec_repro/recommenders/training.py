"""Training with Bayesian personalised ranking: epochs, early stopping, and a checkpoint that resumes bit for bit.

Every epoch derives its own seeds, so a checkpoint holds no state of a random generator.
"""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xrec_repro.checkpoint import Checkpoint
from xrec_repro.errors import DataError, ModelError
from xrec_repro.interrupt import stoppable
from xrec_repro.progress import track
from xrec_repro.recommenders.base import Run
from xrec_repro.recommenders.evaluate import inner_product, recall_ndcg
from xrec_repro.recommenders.factors import Factors
from xrec_repro.recommenders.graph import InteractionGraph
from xrec_repro.recommenders.pairwise import PairwiseSettings
from xrec_repro.recommenders.sampling import NegativeSampler
from xrec_repro.seeding import numpy_rng

log = logging.getLogger("xrec_repro")


@dataclass
class Progress:
    """How far a training run is; what a checkpoint says beside its tensors."""

    epoch: int = 0
    best_epoch: int = 0
    best_recall: float = -1.0
    stale: int = 0  # evaluations since the best one
    history: list[dict[str, float | int]] = field(default_factory=list)


class Trainer:
    """A model, its optimiser, and how far they are.

    Attributes:
        progress: Epochs done, best evaluation, history.
        best: The final embeddings of the best evaluation, [n_users, dim] and [n_items, dim].
    """

    def __init__(self, graph: InteractionGraph, model: Factors, settings: PairwiseSettings, run: Run) -> None:
        """Index the edges.

        Args:
            graph: The split graph.
            model: With its initial embeddings.
            settings: Of the training.
            run: Name, seed, device and checkpoint.

        Raises:
            DataError: No val edges, or a user has all train items.
            ModelError: The device is not there.
        """
        if graph.edges["val"].shape[1] == 0:
            raise DataError(
                f"no val edges, by which recommenders.{run.name} stops early; give split.ratios a validation share"
            )
        if torch.device(run.device).type == "cuda" and not torch.cuda.is_available():
            raise ModelError("compute.device is cuda, but torch finds no CUDA device; set it to cpu or auto")
        self.settings, self.run = settings, run
        self.edges = {name: edges.to(run.device) for name, edges in graph.edges.items()}
        train = graph.edges["train"]
        self.model = model.to(run.device)
        self.optimizer = torch.optim.Adam([self.model.table], lr=settings.learning_rate, fused=True)
        self.sampler = NegativeSampler(train[0].numpy(), train[1].numpy())
        self.progress = Progress()
        self.best = tuple(table.clone() for table in self.model.embeddings())

    def stop_reason(self) -> str | None:
        """Return why training is over: ``patience``, ``epochs``, or None while it is not."""
        if self.progress.stale >= self.settings.patience:
            return "patience"
        return "epochs" if self.progress.epoch >= self.settings.epochs else None

    def run_epoch(self) -> bool:
        """Train one epoch and evaluate if it is due.

        Returns:
            Whether it was evaluated.

        Raises:
            ModelError: The loss or an embedding is not finite.
        """
        epoch = self.progress.epoch + 1
        record: dict[str, float | int] = {"epoch": epoch, "loss": self._train_epoch(epoch)}
        due = epoch % self.settings.evaluate_every == 0 or epoch == self.settings.epochs
        if due:
            record |= self._evaluate(epoch)
        self.progress.history.append(record)
        self.progress.epoch = epoch
        return due

    def _train_epoch(self, epoch: int) -> float:
        """Pass once over the train edges; return the mean over steps of the loss."""
        users, items = self.edges["train"]
        drawn = self.sampler.draw_epoch(self.settings.negatives, self.run.seed, epoch)
        negatives = torch.from_numpy(drawn).to(self.run.device)
        order = torch.from_numpy(numpy_rng(self.run.seed, "order", epoch).permutation(len(drawn))).to(self.run.device)
        losses = []
        for batch in order.split(self.settings.batch_size):
            self.optimizer.zero_grad()
            loss = self.model.loss(users[batch], items[batch], negatives[batch])
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean().item()
        self._require_finite(mean, "loss", epoch)
        return mean

    def _evaluate(self, epoch: int) -> dict[str, float | int]:
        user, item = self.model.embeddings()
        self._require_finite((user.sum() + item.sum()).item(), "sum of the embeddings", epoch)
        scores = recall_ndcg(*inner_product(user, item), self.edges["train"], self.edges["val"], self.settings.k)
        if scores["recall"] > self.progress.best_recall:
            for best, table in zip(self.best, (user, item), strict=True):
                best.copy_(table)
            self.progress.best_recall, self.progress.best_epoch, self.progress.stale = (
                scores["recall"],
                epoch,
                0,
            )
        else:
            self.progress.stale += 1
        return {"val_recall": scores["recall"], "val_ndcg": scores["ndcg"]}

    def _require_finite(self, value: float, what: str, epoch: int) -> None:
        if not np.isfinite(value):
            raise ModelError(
                f"{self.run.name} diverged: the {what} is {value} in epoch {epoch} at "
                f"{self.run.key('learning_rate')} {self.settings.learning_rate:g}; lower it"
            )

    def restore(self) -> Checkpoint | None:
        """Return the checkpoint of this training, if it is to keep one, and go on from what is whole and its own."""
        if self.run.checkpoint is None:
            return None
        best = {"user": self.best[0], "item": self.best[1]}
        place = self.run.checkpoint, self.run.identity
        state = Checkpoint(*place, {"table": self.model.table}, self.optimizer, kept=best)
        if found := state.restore():
            self.progress = Progress(**found)
            log.info("%s: resumed after epoch %d", self.run.checkpoint, self.progress.epoch)
        return state


def train(
    graph: InteractionGraph, model: Factors, settings: PairwiseSettings, run: Run
) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
    """Train with early stopping on the validation Recall@k.

    A run that is killed and started again continues from `run.checkpoint`, which is kept after each evaluation and when
    a stop is asked for (`xrec_repro.interrupt`), and, on the CPU of the same machine with the same number of threads,
    ends with the same bytes as an undisturbed one.

    Args:
        graph: The split graph.
        model: With its initial embeddings.
        settings: Of the training.
        run: Name, seed, device and checkpoint.

    Returns:
        The final embeddings of the best evaluation, [n_users, dim] and [n_items, dim], float32; and epochs, reason of
        stopping (``patience`` or ``epochs``), best evaluation, and the history of loss and validation metrics.

    Raises:
        DataError: The graph cannot be used: no val edges, fewer items than k, a user with all items.
        ModelError: Training diverged, or the device is not there.
        StoppedError: A stop was asked for; what was done is in the checkpoint.
    """
    trainer = Trainer(graph, model, settings, run)
    state = trainer.restore()
    with stoppable() as stop_requested:
        for _ in track(range(trainer.progress.epoch, settings.epochs), f"epochs of {run.name}"):
            if trainer.stop_reason():
                break
            due = trainer.run_epoch()
            if state:
                done = f"{trainer.progress.epoch} epochs of {run.name} are"
                state.keep(asdict(trainer.progress), due, stop_requested(), done)
            run.on_epoch(trainer.progress.history[-1])
    progress = trainer.progress
    return trainer.best, {
        "epochs_run": progress.epoch,
        "stopped_by": trainer.stop_reason(),
        "best_epoch": progress.best_epoch,
        "best_val_recall": progress.best_recall,
        "history": progress.history,
    }
