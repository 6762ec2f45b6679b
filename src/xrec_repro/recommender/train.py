"""Training of LightGCN: epochs, early stopping, and a checkpoint from which it resumes bit for bit.

Every epoch derives its own seeds, so a checkpoint holds no state of a random generator.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xrec_repro.checkpoint import Checkpoint
from xrec_repro.contracts import GRAPH
from xrec_repro.errors import DataError, ModelError
from xrec_repro.identity import digest_json, sha256_file
from xrec_repro.interrupt import stoppable
from xrec_repro.io import read_table, write_json
from xrec_repro.progress import track
from xrec_repro.recommender.embeddings import save_embeddings
from xrec_repro.recommender.evaluate import original_recall, recall_ndcg
from xrec_repro.recommender.lightgcn import LightGCN
from xrec_repro.recommender.sampling import NegativeSampler
from xrec_repro.seeding import numpy_rng, torch_generator

log = logging.getLogger("xrec_repro")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class InteractionGraph:
    """A split interaction graph.

    Attributes:
        edges: Split name -> int64 [2, n], users above items.
        n_users: Largest user id of all splits, plus 1.
        n_items: Largest item id of all splits, plus 1.
    """

    edges: dict[str, Tensor]
    n_users: int
    n_items: int

    def zero_shot(self) -> dict[str, int]:
        """Count the users and the items of val and test that have no train edge."""
        counts = {}
        for row, name in enumerate(("users", "items")):
            train, held_out = self.edges["train"][row], torch.cat([self.edges[s][row] for s in SPLITS[1:]])
            counts[name] = int((~torch.isin(held_out.unique(), train)).sum())
        return counts


@dataclass
class Progress:
    """How far a training run is; what a checkpoint says beside its tensors."""

    epoch: int = 0
    best_epoch: int = 0
    best_recall: float = -1.0
    stale: int = 0  # evaluations since the best one
    history: list[dict[str, float | int]] = field(default_factory=list)


def read_graph(path: Path) -> InteractionGraph:
    """Read a split interaction graph.

    Args:
        path: A Parquet file under the contract `GRAPH`.

    Raises:
        DataError: A value is missing, an id is negative, a split is unknown, or there are no train edges.
    """
    table = read_table(path, GRAPH)
    for name in table.column_names:
        if table[name].null_count:
            raise DataError(f"{path}: column {name!r} has {table[name].null_count} empty values; make the file again")
    ids = torch.from_numpy(np.stack([table[name].to_numpy() for name in ("user", "item")]).astype(np.int64))
    split = table["split"].to_numpy()
    unknown = sorted(set(split) - set(SPLITS))
    if unknown:
        raise DataError(f"{path}: column 'split' holds {unknown[0]!r}; it may hold {', '.join(SPLITS)}")
    if not (split == "train").any():
        raise DataError(f"{path}: no train edges; check split.ratios and the k-core settings")
    if ids.min() < 0:
        row = int((ids < 0).any(0).nonzero()[0, 0])
        raise DataError(
            f"{path}: row {row}: user {ids[0, row]}, item {ids[1, row]}: ids start at 0; make the file again"
        )
    edges = {name: ids[:, torch.from_numpy(split == name)] for name in SPLITS}
    return InteractionGraph(edges, int(ids[0].max()) + 1, int(ids[1].max()) + 1)


class Trainer:
    """A model, its optimiser, and how far they are.

    Attributes:
        progress: Epochs done, best evaluation, history.
        best: The final embeddings of the best evaluation, [n_users, dim] and [n_items, dim].
    """

    def __init__(self, graph: InteractionGraph, settings: dict[str, Any], seed: int, device: str) -> None:
        """Draw the initial embeddings and index the edges.

        Args:
            graph: The split graph.
            settings: The configuration's ``recommender`` section.
            seed: The run's seed.
            device: ``cpu`` or ``cuda``.

        Raises:
            DataError: k exceeds the number of items, or a user has all train items.
            ModelError: A setting has an unknown value, or the device is not there.
        """
        if settings["k"] > graph.n_items:
            raise DataError(f"recommender.k is {settings['k']}, but there are {graph.n_items} items; lower it")
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ModelError("compute.device is cuda, but torch finds no CUDA device; set it to cpu or auto")
        self.settings, self.seed, self.device = settings, seed, device
        self.edges = {name: edges.to(device) for name, edges in graph.edges.items()}
        generator = torch_generator(seed, "lightgcn", "init")
        train = graph.edges["train"]
        self.model = LightGCN(train, graph.n_users, graph.n_items, settings, generator).to(device)
        self.optimizer = torch.optim.Adam([self.model.table], lr=settings["learning_rate"], fused=True)
        self.sampler = NegativeSampler(train[0].numpy(), train[1].numpy())
        self.progress = Progress()
        self.best = tuple(table.clone() for table in self.model.embeddings())

    def stop_reason(self) -> str | None:
        """Return why training is over: ``patience``, ``epochs``, or None while it is not."""
        if self.progress.stale >= self.settings["patience"]:
            return "patience"
        return "epochs" if self.progress.epoch >= self.settings["epochs"] else None

    def run_epoch(self) -> bool:
        """Train one epoch and evaluate if it is due.

        Returns:
            Whether it was evaluated.

        Raises:
            ModelError: The loss or an embedding is not finite.
        """
        epoch = self.progress.epoch + 1
        record: dict[str, float | int] = {"epoch": epoch, "loss": self._train_epoch(epoch)}
        due = epoch % self.settings["evaluate_every"] == 0 or epoch == self.settings["epochs"]
        if due:
            record |= self._evaluate(epoch)
        self.progress.history.append(record)
        self.progress.epoch = epoch
        return due

    def _train_epoch(self, epoch: int) -> float:
        """Pass once over the train edges; return the mean over steps of the loss."""
        users, items = self.edges["train"]
        drawn = self.sampler.draw_epoch(self.settings["negatives"], self.seed, epoch)
        negatives = torch.from_numpy(drawn).to(self.device)
        order = torch.from_numpy(numpy_rng(self.seed, "order", epoch).permutation(len(drawn))).to(self.device)
        losses = []
        for batch in order.split(self.settings["batch_size"]):
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
        scores = recall_ndcg(user, item, self.edges["train"], self.edges["val"], self.settings["k"])
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
                f"LightGCN diverged: the {what} is {value} in epoch {epoch} at "
                f"recommender.learning_rate {self.settings['learning_rate']:g}; lower it"
            )

    def test_scores(self) -> dict[str, dict[str, float | int]] | None:
        """Score the best embeddings on the test edges, the standard way and the original code's.

        Returns:
            ``standard`` (train and val items masked, averaged over users) and ``original`` (nothing masked,
            averaged over interactions), or None where the graph has no test edges.
        """
        if self.edges["test"].shape[1] == 0:
            log.warning("the graph has no test edges: LightGCN is not tested")
            return None
        known = torch.cat([self.edges["train"], self.edges["val"]], dim=1)
        k, test = self.settings["k"], self.edges["test"]
        return {
            "standard": recall_ndcg(*self.best, known, test, k),
            "original": original_recall(*self.best, test, k),
        }

    def checkpoint(self, path: Path, identity: str) -> Checkpoint:
        """Return the checkpoint of this training, and continue from it if it is whole and of this identity."""
        best = {"user": self.best[0], "item": self.best[1]}
        state = Checkpoint(path, identity, {"table": self.model.table}, self.optimizer, kept=best)
        if found := state.restore():
            self.progress = Progress(**found)
            log.info("%s: resumed after epoch %d", path, self.progress.epoch)
        return state


def train_lightgcn(
    graph: Path,
    settings: dict[str, Any],
    seed: int,
    out_embeddings: Path,
    out_metrics: Path,
    checkpoint: Path,
    device: str,
    on_epoch: Callable[[dict[str, float | int]], None] = lambda record: None,
    fingerprint: str = "",
) -> dict[str, Any]:
    """Train LightGCN with early stopping on the validation Recall@k and test its best embeddings.

    A run that is killed and started again continues from `checkpoint` and, on the CPU of the same machine
    with the same number of threads, ends with the same bytes as an undisturbed one. The checkpoint is removed
    on success.

    Args:
        graph: Parquet file under the contract `GRAPH`.
        settings: The configuration's ``recommender`` section.
        seed: The run's seed.
        out_embeddings: Safetensors to write: the final (propagated) embeddings of the best evaluation,
            ``user`` [n_users, dim] and ``item`` [n_items, dim], float32.
        out_metrics: JSON to write: what is returned.
        checkpoint: Where to keep the state of the run after each evaluation and when a stop is asked for
            (`xrec_repro.interrupt`).
        device: ``cpu`` or ``cuda``.
        on_epoch: Called after each epoch, and after its checkpoint, with the epoch's record.
        fingerprint: Of all else that the result depends on (code, libraries, kind of device): a checkpoint must match
            it to be resumed.

    Returns:
        Sizes, zero-shot counts, the history of loss and validation metrics, best epoch, reason of stopping
        (``patience`` or ``epochs``), and the test metrics, standard and as in the original code.

    Raises:
        DataError: The graph cannot be used: no train or val edges, negative ids, fewer items than k.
        ModelError: Training diverged, or a setting has an unknown value.
        StoppedError: A stop was asked for; what was done is in the checkpoint.
    """
    data = read_graph(graph)
    if data.edges["val"].shape[1] == 0:
        raise DataError(f"{graph}: no val edges, which early stopping needs; give split.ratios a validation share")
    digest = digest_json(settings)
    trainer = Trainer(data, settings, seed, device)
    _run_epochs(
        trainer,
        trainer.checkpoint(checkpoint, digest_json([fingerprint, settings, seed, sha256_file(graph)])),
        on_epoch,
    )
    metrics = _summary(trainer, data, digest)
    about = {"settings": digest, "seed": seed, "best_epoch": trainer.progress.best_epoch}
    save_embeddings(out_embeddings, *trainer.best, about)
    write_json(out_metrics, metrics)
    checkpoint.unlink(missing_ok=True)
    return metrics


def _run_epochs(trainer: Trainer, state: Checkpoint, on_epoch: Callable[[dict[str, float | int]], None]) -> None:
    with stoppable() as stop_requested:
        for _ in track(range(trainer.progress.epoch, trainer.settings["epochs"]), "LightGCN epochs"):
            if trainer.stop_reason():
                return
            due = trainer.run_epoch()
            state.keep(
                asdict(trainer.progress), due, stop_requested(), f"{trainer.progress.epoch} epochs of LightGCN are"
            )
            on_epoch(trainer.progress.history[-1])


def _summary(trainer: Trainer, data: InteractionGraph, digest: str) -> dict[str, Any]:
    progress = trainer.progress
    return {
        "settings": digest,
        "seed": trainer.seed,
        "users": data.n_users,
        "items": data.n_items,
        "edges": {name: edges.shape[1] for name, edges in data.edges.items()},
        "zero_shot": data.zero_shot(),
        "k": trainer.settings["k"],
        "epochs_run": progress.epoch,
        "stopped_by": trainer.stop_reason(),
        "best_epoch": progress.best_epoch,
        "best_val_recall": progress.best_recall,
        "test": trainer.test_scores(),
        "history": progress.history,
    }
