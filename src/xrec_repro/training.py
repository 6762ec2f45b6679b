"""The one training loop; all that learns step by step goes through it.

A `Trainee` says what is trained and what the loss of a batch is, a `Plan` how; `train` owns order, seeds, optimiser,
schedule, checkpoint, stop on request, evaluation, early stopping, curve and progress. A method of one's own takes it
like this, here as PETER is trained (the fifth epoch that does not improve the validation loss ends it, each of those
before quarters the learning rate, the weights of the best epoch are kept)::

    class Words(Trainee):
        def __init__(self, model, train, val):
            self.module, self.train, self.val, self.rows = model, train, val, len(train)

        def loss(self, batch):  # row numbers
            return self.module.losses([self.train[row] for row in batch])

        def held_out(self):
            return {"val_loss": self.module.losses(self.val).mean().item()}

    plan = Plan(
        name="tuning", rate_key="methods.words.learning_rate", seed=run.seed, epochs=100, batch_size=128, clip=1.0,
        optimizer=partial(torch.optim.SGD, lr=1.0), evaluate_every=1, patience=5, endured=True, decay=0.25,
        checkpoint=run.checkpoint, identity=run.identity,
    )
    found = train(Words(model, train, val), plan)
    return Fitted(tensors=model.state_dict(), curve=curve_rows(found.curve), report={"epochs": len(found.history)})

No generator state is saved: every epoch and step derives its own seed, so that a resumed training ends in the same
bytes as an undisturbed one (on the same machine with the same number of threads).
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xrec_repro.checkpoint import Checkpoint
from xrec_repro.errors import ModelError
from xrec_repro.interrupt import stoppable
from xrec_repro.progress import track
from xrec_repro.seeding import derive_seed, numpy_rng

log = logging.getLogger("xrec_repro")

LOOK_EVERY = 20  # steps between looks at the losses, each of which waits for a GPU


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How something is trained.

    Attributes:
        name: Of the training, for messages and the seed's streams: ``<name> order`` of an epoch, ``<name> step``.
        rate_key: Where the learning rate stands in the configuration, for messages.
        seed: Of the run.
        epochs: At most.
        batch_size: Rows a step.
        optimizer: From the parameters to their optimiser.
        schedule: From the optimiser and the number of all steps to what is stepped after each step; has a state.
        clip: Global norm that gradients are clipped to.
        at_once: How many rows of a batch are taken at once; their gradients add up to the batch's.
        early_stopping: The study's rule on the train losses, see `EarlyStopping`.
        evaluate_every: Epochs between evaluations of the trainee (`Trainee.held_out`), of which the last epoch has one
            too; the parameters of the best one are what remains. None for no evaluation.
        patience: Evaluations without a better one after which training ends.
        endured: Whether these are counted over all the training, not since the best.
        decay: Factor of the learning rate after each of them; not together with a schedule.
        checkpoint: A file beside the outputs that keeps an unfinished training; the caller removes it. (Two trainings
            in a row take two files.) None for none: a request to stop then ends the process at once.
        identity: Digest of all that the result depends on: a checkpoint of another one is not resumed.
        save_every: Steps between two states of the checkpoint, which is written at evaluations and in the end anyway.
        keep_curve: Whether the losses of the steps are kept beyond their epoch.
        after_step: Called with the number of steps done, after the checkpoint.
        after_epoch: Called with the epoch's record, after the checkpoint.
    """

    name: str
    rate_key: str
    seed: int
    epochs: int
    batch_size: int
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None = None
    clip: float | None = None
    at_once: int | None = None
    early_stopping: Mapping[str, Any] | None = None
    evaluate_every: int | None = None
    patience: int | None = None
    endured: bool = False
    decay: float = 1.0
    checkpoint: Path | None = None
    identity: str = ""
    save_every: int | None = None
    keep_curve: bool = True
    after_step: Callable[[int], None] = lambda done: None
    after_epoch: Callable[[dict[str, Any]], None] = lambda record: None


class Trainee:
    """What is trained; a class of its own gives at least `module`, `rows` and `loss`.

    Attributes:
        module: In training mode for steps, in evaluation mode for `held_out` and in the end.
        rows: How many train examples there are.
        higher: Whether a higher `held_out` is better.
    """

    module: nn.Module
    rows: int
    higher: bool = False

    def parameters(self) -> dict[str, Tensor]:
        """Return what is trained by name; a parameter of two names once."""
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    def steps(self, plan: Plan) -> int:
        """Return how many batches an epoch has; each has as many."""
        return math.ceil(self.rows / plan.batch_size)

    def batches(self, epoch: int, plan: Plan) -> Sequence[Any]:
        """Return the batches of an epoch, counted from 0, in their order; here lists of row numbers in random order."""
        order = numpy_rng(plan.seed, f"{plan.name} order", epoch).permutation(self.rows).tolist()
        return [order[start : start + plan.batch_size] for start in range(0, self.rows, plan.batch_size)]

    def loss(self, batch: Any) -> Tensor:
        """Return the losses of a batch's rows, [B], or their mean; its gradients are those of the mean."""
        raise NotImplementedError

    def gradients(self, batch: Any, at_once: int | None) -> Tensor:
        """Add a batch's gradients to the parameters', so many rows at once; return the losses without gradients."""
        found, size = [], at_once or len(batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            losses = self.loss(part)
            (losses.mean() * (len(part) / len(batch))).backward()
            found.append(losses.detach().reshape(-1))
        return torch.cat(found)

    def held_out(self) -> dict[str, float]:
        """Return scores on held-out examples by name, of which the first decides; called without gradients."""
        raise NotImplementedError


@dataclass
class Progress:
    """How far a training is: what `train` returns, and what a checkpoint says beside its tensors.

    Attributes:
        done: Steps.
        curve: The losses of each step.
        history: Of each epoch: its number from 1, its mean loss, and the scores of its evaluation.
        best: The best score, of epoch `best_epoch`.
        best_epoch: 0 before the first evaluation.
        stale: Evaluations without a better one.
        stopped_by: ``epochs`` (all done), ``patience``, ``losses`` (the study's rule), or None while it goes on.
        schedule: State of the schedule.
    """

    done: int = 0
    curve: list[list[float]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    stopped_by: str | None = None
    schedule: dict[str, Any] | None = None


def train(trainee: Trainee, plan: Plan) -> Progress:
    """Train by a plan, going on from its checkpoint if there is one.

    Raises:
        ModelError: A loss or a held-out score is not finite.
        StoppedError: A stop was asked for; what was done is in the checkpoint.
    """
    loop = _Loop(trainee, plan)
    with stoppable() if plan.checkpoint else nullcontext(lambda: False) as stop_requested:
        for batch in track(loop.left(), plan.name, loop.total - loop.progress.done):
            loop.step(batch)
            if loop.is_over(stop_requested):
                break
    loop.finish()
    return loop.progress


class _Loop:
    """A trainee, its optimiser, and how far they are."""

    def __init__(self, trainee: Trainee, plan: Plan) -> None:
        self.trainee, self.plan, self.progress = trainee, plan, Progress()
        self.parameters = trainee.parameters()
        self.epoch_steps = trainee.steps(plan)
        self.total = plan.epochs * self.epoch_steps
        self.optimizer = plan.optimizer(list(self.parameters.values()))
        self.schedule = plan.schedule(self.optimizer, self.total) if plan.schedule else None
        self.best = {n: p.detach().clone() for n, p in self.parameters.items()} if plan.evaluate_every else {}
        self.rule = EarlyStopping(plan.early_stopping, trainee.rows) if plan.early_stopping else None
        self.state, self._unseen = None, []
        if plan.checkpoint:
            self.state = Checkpoint(plan.checkpoint, plan.identity, self.parameters, self.optimizer, self.best)
            if found := self.state.restore():
                self.progress = Progress(**found)
                log.info("resumed %s after step %d", plan.name, self.progress.done)
                if self.schedule:
                    self.schedule.load_state_dict(self.progress.schedule)
                if self.rule:
                    self.rule.after(self.progress.curve)
        trainee.module.train()

    def left(self) -> Iterator[Any]:
        """Yield the batches that are still to be taken."""
        while not self.progress.stopped_by:
            epoch, place = divmod(self.progress.done, self.epoch_steps)
            yield from self.trainee.batches(epoch, self.plan)[place:]

    def step(self, batch: Any) -> None:
        """Take a batch: draw from a seed of its own, add up gradients, clip them, and step."""
        plan = self.plan
        torch.manual_seed(derive_seed(plan.seed, f"{plan.name} step", self.progress.done))
        self.optimizer.zero_grad(set_to_none=True)
        self._unseen.append(self.trainee.gradients(batch, plan.at_once))
        if plan.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), plan.clip)
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()
        self.progress.done += 1

    def is_over(self, stop_requested: Callable[[], bool]) -> bool:
        """Do what is due after a step: look at the losses, evaluate, save, stop; return whether training is over."""
        plan, progress, stop = self.plan, self.progress, stop_requested()
        due = bool(plan.save_every) and progress.done % plan.save_every == 0
        epoch, place = divmod(progress.done, self.epoch_steps)
        if due or stop or not place or self.rule or len(self._unseen) == LOOK_EVERY:
            self._look()
        if self.rule and self.rule.after(progress.curve[-1:]):
            progress.stopped_by = "losses"
        if not place:
            due |= self._end_epoch(epoch)
        if progress.done == self.total and not progress.stopped_by:
            progress.stopped_by = "epochs"
        due |= bool(progress.stopped_by)
        if self.state and (due or stop):
            progress.schedule = self.schedule.state_dict() if self.schedule else None
            done = f"{progress.done} of {self.total} steps of {plan.name} are"
            self.state.keep(vars(progress), due, stop, done)
        plan.after_step(progress.done)
        if not place:
            plan.after_epoch(progress.history[-1])
        return bool(progress.stopped_by)

    def _look(self) -> None:
        """Take in the losses since the last look."""
        first = self.progress.done - len(self._unseen) + 1
        for step, losses in enumerate(self._unseen, start=first):
            found = losses.tolist()
            self._require_finite(sum(found) / len(found), f"loss of step {step}")
            self.progress.curve.append(found)
        self._unseen = []

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise ModelError(f"{self.plan.name}: the {what} is {value}; lower {self.plan.rate_key}")

    def _end_epoch(self, epoch: int) -> bool:
        """Record an epoch; return whether it was evaluated."""
        plan, progress = self.plan, self.progress
        losses = torch.tensor(list(chain.from_iterable(progress.curve[-self.epoch_steps :])))
        record = {"epoch": epoch, "loss": losses.mean().item()}
        due = bool(plan.evaluate_every) and (epoch % plan.evaluate_every == 0 or epoch == plan.epochs)
        if due:
            record |= self._evaluate(epoch)
        progress.history.append(record)
        if not plan.keep_curve:
            progress.curve.clear()
        return due

    @torch.no_grad()
    def _evaluate(self, epoch: int) -> dict[str, float]:
        plan, progress = self.plan, self.progress
        self.trainee.module.eval()
        found = self.trainee.held_out()
        self.trainee.module.train()
        name, score = next(iter(found.items()))
        self._require_finite(score, f"{name} of epoch {epoch}")
        if progress.best is None or (score > progress.best if self.trainee.higher else score < progress.best):
            for each, parameter in self.parameters.items():
                self.best[each].copy_(parameter)
            progress.best, progress.best_epoch = score, epoch
            progress.stale = progress.stale if plan.endured else 0
        else:
            progress.stale += 1
            for group in self.optimizer.param_groups:
                group["lr"] *= plan.decay
        if plan.patience and progress.stale >= plan.patience:
            progress.stopped_by = "patience"
        return found

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the best parameters, or the last where none were evaluated, in evaluation mode."""
        for name, value in self.best.items() if self.progress.best_epoch else ():
            self.parameters[name].copy_(value)
        self.trainee.module.eval()


class EarlyStopping:
    """The study's rule (section 3.6): stop when the average train loss no longer improves.

    The average is over the last `window` examples. The rule wakes after `start` · N examples and stops once the
    average has not fallen below its best since then for `patience` · N examples. Its state is a function of the
    losses so far, so that a resumed run goes on exactly.

    Args:
        settings: ``start`` and ``patience`` (shares of N) and ``window`` (examples).
        count: N, the number of train examples.
    """

    def __init__(self, settings: Mapping[str, Any], count: int) -> None:
        self.settings, self.count = settings, count
        self._recent: deque[float] = deque(maxlen=settings["window"])
        self._seen, self._best, self._best_at = 0, math.inf, 0

    def after(self, steps: Sequence[Sequence[float]]) -> bool:
        """Take in the losses of further steps; return whether training ends after them."""
        for loss in chain.from_iterable(steps):
            self._seen += 1
            self._recent.append(loss)
            if self._seen <= self.settings["start"] * self.count or len(self._recent) < self.settings["window"]:
                self._best_at = self._seen
                continue
            average = sum(self._recent) / len(self._recent)
            if average < self._best:
                self._best, self._best_at = average, self._seen
        return self._seen - self._best_at >= self.settings["patience"] * self.count


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, warm_up: float = math.inf) -> Any:
    """Return the one-cycle schedule up to the optimiser's learning rate; its warm-up is a tenth, or so many steps."""
    # With a warm-up of one step, which has no length, the schedule divides by zero.
    share = min(0.1, warm_up / steps) if steps != 10 else 0.0
    rate = optimizer.param_groups[0]["lr"]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=share)


def curve_rows(curve: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Return the losses of steps as rows of contract `TRAINING`: step, examples seen so far, mean loss of the step."""
    rows, seen = [], 0
    for step, losses in enumerate(curve, start=1):
        seen += len(losses)
        rows.append({"step": step, "examples": seen, "loss": float(np.mean(losses))})
    return rows
