"""Instruction tuning: the adapters learn through a frozen language model (XRec, section 3.4)."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xrec_repro.errors import DataError
from xrec_repro.examples import Example
from xrec_repro.explainer.activations import activation_checkpointing
from xrec_repro.explainer.batching import attention_mask, pad_left
from xrec_repro.explainer.explainer import Explainer, shared_opening
from xrec_repro.explainer.packing import packed_losses, packs
from xrec_repro.explainer.prompts import IGNORED_LABEL, Encoded
from xrec_repro.identity import digest_json
from xrec_repro.neutral import significant
from xrec_repro.training import Plan, Trainee, one_cycle, train


def example_losses(
    explainer: Explainer, examples: Sequence[Example], encoded: Sequence[Encoded], adapted: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of each example's targets, averaged over its own tokens, [B].

    What all prompts begin with, up to the first reserved token, is the same for a frozen model in every step: its keys
    and values are computed once (not with activation checkpointing, which can read no cache). On a GPU in half
    precision the prompts are packed, else padded.

    Args:
        explainer: Its parts; the language model may be within `activation_checkpointing`.
        examples: The batch.
        encoded: Its prompts with labels.
        adapted: Its adapted embeddings, [B, 2, hidden]; None to adapt them here.
    """
    adapted = explainer.adapt(examples) if adapted is None else adapted
    # One prompt has no padding, and a mask less to make than a pack.
    packed = len(encoded) > 1 and packs(explainer.llm.model, max(len(row.ids) for row in encoded))
    return (packed_losses if packed else padded_losses)(explainer, encoded, adapted)


def padded_losses(explainer: Explainer, encoded: Sequence[Encoded], adapted: Tensor) -> Tensor:
    """Compute the losses of a batch whose prompts are padded to one length, [B].

    Logits are computed from the first target on only: with padding on the left, all targets stand at the end.

    Args:
        explainer: Its parts.
        encoded: The prompts of the batch with labels.
        adapted: The adapted embeddings, [B, 2, hidden].
    """
    model = explainer.llm.model
    opening = () if model.is_gradient_checkpointing else shared_opening(encoded)
    batch = pad_left([row.without(len(opening)) for row in encoded], explainer.pad_id, explainer.llm.device)
    read = batch.ids.shape[1]
    first_target = int((batch.labels != IGNORED_LABEL).int().argmax(dim=1).min())
    keep = read - first_target + 1  # the logits that predict the first target stand one before it
    with explainer.injector.prompt(adapted, batch.positions, read):
        logits = model(
            input_ids=batch.ids,
            attention_mask=attention_mask(model, F.pad(batch.mask, (len(opening), 0), value=1), read),
            position_ids=batch.position_ids + len(opening),
            past_key_values=explainer.read(opening, len(encoded)),
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
    """Loss of each example with the adapters, if there are any, in evaluation mode."""
    if explainer.adapters is not None:
        explainer.adapters.eval()
    losses: list[float] = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        losses += example_losses(explainer, part, [explainer.encoder.train(e) for e in part]).tolist()
    return losses


class Adapters(Trainee):
    """The adapters of an explainer, whose language model takes no gradient."""

    def __init__(self, explainer: Explainer, examples: Sequence[Example]) -> None:
        self.explainer, self.examples = explainer, examples
        self.module, self.rows = explainer.adapters, len(examples)
        self.encoded = [explainer.encoder.train(example) for example in examples]

    def gradients(self, batch: Sequence[int], at_once: int | None) -> Tensor:
        """Add a batch's gradients (`add_gradients`)."""
        rows = [self.examples[row] for row in batch], [self.encoded[row] for row in batch]
        return add_gradients(self.explainer, *rows, at_once)


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
    trainee = Adapters(explainer, examples)
    dtype = str(next(explainer.llm.model.parameters()).dtype).removeprefix("torch.")
    decisive = significant({"tuning": settings, "llm": {"dtype": dtype}})
    plan = Plan(
        name="tuning",
        rate_key="tuning.learning_rate",
        seed=seed,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        optimizer=partial(torch.optim.Adam, lr=settings["learning_rate"]),
        schedule=one_cycle if settings["schedule"] == "one_cycle" else None,
        at_once=settings["micro_batch_size"],
        early_stopping=settings["early_stopping"],
        checkpoint=checkpoint,
        identity=digest_json([fingerprint, decisive, seed, [row.ids for row in trainee.encoded]]),
        save_every=settings["checkpoint_every"],
        after_step=after_step,
    )
    recomputing = settings["activation_checkpointing"]
    with activation_checkpointing(explainer.llm.model, explainer.injector) if recomputing else nullcontext():
        return train(trainee, plan).curve
