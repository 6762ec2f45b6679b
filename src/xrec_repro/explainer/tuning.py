"""Instruction tuning: the adapters learn through a frozen language model (XRec, section 3.4)."""

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xrec_repro.checkpoint import Checkpoint
from xrec_repro.errors import DataError, ModelError
from xrec_repro.examples import Example
from xrec_repro.explainer.activations import activation_checkpointing
from xrec_repro.explainer.batching import attention_mask, pad_left
from xrec_repro.explainer.explainer import Explainer, shared_opening
from xrec_repro.explainer.prompts import IGNORED_LABEL, Encoded
from xrec_repro.identity import digest_json, significant
from xrec_repro.interrupt import stoppable
from xrec_repro.progress import track
from xrec_repro.seeding import derive_seed, numpy_rng

log = logging.getLogger("xrec_repro")


def example_losses(
    explainer: Explainer, examples: Sequence[Example], encoded: Sequence[Encoded], adapted: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of each example's targets, averaged over its own tokens, [B].

    What all prompts begin with, up to the first reserved token, is the same for a frozen model in every step: its keys
    and values are computed once (not with activation checkpointing, which can read no cache). Logits are computed from
    the first target on only: with padding on the left, all targets stand at the end.

    Args:
        explainer: Its parts; the language model may be within `activation_checkpointing`.
        examples: The batch.
        encoded: Its prompts with labels.
        adapted: Its adapted embeddings, [B, 2, hidden]; None to adapt them here.
    """
    model = explainer.llm.model
    opening = () if model.is_gradient_checkpointing else shared_opening(encoded)
    adapted = explainer.adapt(examples) if adapted is None else adapted
    batch = pad_left([row.without(len(opening)) for row in encoded], explainer.pad_id, explainer.llm.device)
    read = batch.ids.shape[1]
    first_target = int((batch.labels != IGNORED_LABEL).int().argmax(dim=1).min())
    keep = read - first_target + 1  # the logits that predict the first target stand one before it
    with explainer.injector.prompt(adapted, batch.positions, read):
        logits = model(
            input_ids=batch.ids,
            attention_mask=attention_mask(model, F.pad(batch.mask, (len(opening), 0), value=1), read),
            position_ids=batch.position_ids + len(opening),
            past_key_values=explainer.read(opening, len(examples)),
            use_cache=bool(opening),
            logits_to_keep=keep,
        ).logits[:, :-1]
    labels = batch.labels[:, first_target:]
    losses = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED_LABEL, reduction="none")
    return losses.sum(dim=1) / (labels != IGNORED_LABEL).sum(dim=1)


def add_gradients(
    explainer: Explainer, examples: Sequence[Example], encoded: Sequence[Encoded], at_once: int | None = None
) -> Tensor:
    """Add the gradients of the mean of a batch's losses to the adapters' parameters.

    The mean is over examples, each of which counts the same however many tokens it has. Taken in parts, the batch
    gives the same gradients up to rounding: all of it is adapted at once, with the same dropout and gate noise, and
    only the language model reads a part at a time. Parts are of like length, which leaves little padding.

    Args:
        explainer: Its adapters collect the gradients; the language model's weights have none.
        examples: The batch.
        encoded: Its prompts with labels.
        at_once: How many examples the language model reads at once; None for all.

    Returns:
        The losses of the examples, [B], without gradients.
    """
    adapted = explainer.adapt(examples)
    inputs = adapted.detach().requires_grad_()
    losses = inputs.new_empty(len(examples), dtype=torch.float32)
    for part in _parts(encoded, at_once):
        found = example_losses(explainer, [examples[i] for i in part], [encoded[i] for i in part], inputs[part])
        (found.sum() / len(examples)).backward()
        losses[part] = found.detach()
    adapted.backward(inputs.grad)
    return losses


def _parts(encoded: Sequence[Encoded], size: int | None) -> list[list[int]]:
    rows = list(range(len(encoded)))
    if size is None:
        return [rows]
    rows.sort(key=lambda row: len(encoded[row].ids))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@torch.no_grad()
def held_out_losses(explainer: Explainer, examples: Sequence[Example], batch_size: int) -> list[float]:
    """Loss of each example with the adapters in evaluation mode."""
    explainer.adapters.eval()
    losses: list[float] = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        losses += example_losses(explainer, part, [explainer.encoder.train(e) for e in part]).tolist()
    return losses


def tune(
    explainer: Explainer,
    examples: Sequence[Example],
    settings: dict[str, Any],
    seed: int,
    checkpoint: Path,
    fingerprint: str = "",
    after_step: Callable[[int], None] = lambda step: None,
) -> list[list[float]]:
    """Tune the adapters in place with Adam on the mean of the examples' losses (`add_gradients`).

    Each step draws its dropout and gate noise from a seed of its own, so that a resumed run needs no generator state
    and ends in the same bytes as an undisturbed one.

    Args:
        explainer: Its adapters are trained; the language model takes no gradient.
        examples: Train examples.
        settings: Section ``tuning``.
        seed: The run's seed.
        checkpoint: A file beside the outputs, written every ``checkpoint_every`` steps, after the last one, and when a
            stop is asked for (`xrec_repro.interrupt`); the caller removes it.
        fingerprint: Of everything else that the result depends on (inputs, language model): a checkpoint of another
            fingerprint is not resumed.
        after_step: Called with the number of steps done.

    Returns:
        Of every step, the losses of its examples in the order of the batch.

    Raises:
        DataError: There are no examples.
        ModelError: The loss is not finite.
        StoppedError: A stop was asked for; what was done is in the checkpoint.
    """
    if not examples:
        raise DataError("tuning: the train split has no examples with texts; check split.ratios and split.max_texts")
    encoded = [explainer.encoder.train(example) for example in examples]
    parameters = {name: p for name, p in explainer.adapters.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=settings["learning_rate"])
    dtype = str(next(explainer.llm.model.parameters()).dtype).removeprefix("torch.")
    decisive = significant({"tuning": settings, "llm": {"dtype": dtype}})
    identity = digest_json([fingerprint, decisive, seed, [row.ids for row in encoded]])
    state = Checkpoint(checkpoint, identity, parameters, optimizer)
    losses = state.restore() or []
    if losses:
        log.info("resumed tuning after step %d", len(losses))
    batches = _batches(len(examples), settings, seed)
    stopping = EarlyStopping(settings["early_stopping"], len(examples))
    explainer.adapters.train()
    if stopping.after(losses):
        batches = batches[: len(losses)]
    recomputing = settings["activation_checkpointing"]
    bounded = activation_checkpointing(explainer.llm.model, explainer.injector) if recomputing else nullcontext()
    with bounded, stoppable() as stop_requested:
        for step in track(range(len(losses), len(batches)), "tuning"):
            torch.manual_seed(derive_seed(seed, "tuning step", step))
            rows = batches[step]
            optimizer.zero_grad(set_to_none=True)
            per_example = add_gradients(
                explainer, [examples[i] for i in rows], [encoded[i] for i in rows], settings["micro_batch_size"]
            )
            _step(optimizer, per_example.mean(), step)
            losses.append(per_example.tolist())
            over = stopping.after(losses[-1:]) or len(losses) == len(batches)
            due = over or len(losses) % settings["checkpoint_every"] == 0
            state.keep(losses, due, stop_requested(), f"{len(losses)} of {len(batches)} steps of tuning are")
            after_step(len(losses))
            if over:
                break
    explainer.adapters.eval()
    return losses


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise ModelError(f"tuning: the loss of step {step + 1} is {loss.item()}; lower tuning.learning_rate")
    optimizer.step()


class EarlyStopping:
    """The study's rule (section 3.6): stop when the average train loss no longer improves.

    The average is over the last `window` examples. The rule wakes after `start` · N examples and stops once the
    average has not fallen below its best since then for `patience` · N examples. Its state is a function of the
    losses so far, so that a resumed run goes on exactly.

    Args:
        settings: ``start`` and ``patience`` (shares of N) and ``window`` (examples), or None for never.
        count: N, the number of train examples.
    """

    def __init__(self, settings: dict[str, Any] | None, count: int) -> None:
        self.settings, self.count = settings, count
        self._recent: deque[float] = deque(maxlen=settings["window"] if settings else 1)
        self._seen, self._best, self._best_at = 0, math.inf, 0

    def after(self, steps: Sequence[Sequence[float]]) -> bool:
        """Take in the losses of further steps; return whether tuning ends after them."""
        if self.settings is None:
            return False
        for loss in (loss for step in steps for loss in step):
            self._seen += 1
            self._recent.append(loss)
            if self._seen <= self.settings["start"] * self.count or len(self._recent) < self.settings["window"]:
                self._best_at = self._seen
                continue
            average = sum(self._recent) / len(self._recent)
            if average < self._best:
                self._best, self._best_at = average, self._seen
        return self._seen - self._best_at >= self.settings["patience"] * self.count


def _batches(count: int, settings: dict[str, Any], seed: int) -> list[list[int]]:
    size = settings["batch_size"]
    batches = []
    for epoch in range(settings["epochs"]):
        order = numpy_rng(seed, "tuning order", epoch).permutation(count).tolist()
        batches += [order[start : start + size] for start in range(0, count, size)]
    return batches
