"""PEPLER's training: what stands before the words first, then all weights, each stage to its own best epoch."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from xrec_repro.errors import DataError
from xrec_repro.examples import Example
from xrec_repro.explainer.llm import LanguageModel
from xrec_repro.methods.base import Fitted
from xrec_repro.methods.pepler import Pepler
from xrec_repro.methods.pepler_model import (
    Features,
    Prompted,
    Words,
    check_indices,
    check_room,
    collate,
    first_vectors,
    load_language_model,
    rating_head,
)
from xrec_repro.seeding import numpy_rng
from xrec_repro.training import Plan, Progress, Trainee, curve_rows, train

CHECKPOINT_EVERY = 100  # steps from one saved state to the next
EPSILON = 1e-6
POOL = 50  # batches


class AdamW(torch.optim.AdamW):
    """AdamW as transformers had it until 2024: without weight decay, ε added before the bias of √v is corrected.

    θ -= lr √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε), which is torch's with ε / √(1 - β₂ᵗ) for ε at step t.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, lr=lr, eps=EPSILON, weight_decay=0.0, fused=True)
        for group in self.param_groups:
            group["taken"] = 0

    def step(self, closure: Any = None) -> Any:
        """Take a step."""
        for group in self.param_groups:
            group["taken"] += 1
            group["eps"] = EPSILON / math.sqrt(1 - group["betas"][1] ** group["taken"])
        return super().step(closure)


class Prompting(Trainee):
    """A prompted language model, and the rows that train and choose it (see `collate`).

    The loss is that of the texts plus the weighted one of ratings; epochs are chosen by the sum without the weight.
    """

    def __init__(
        self, module: Prompted, shown: Sequence[tuple], kept: Sequence[tuple], size: int, pad: int, pools: bool = False
    ) -> None:
        self.module, self.shown, self.kept, self.rows, self.size = module, shown, kept, len(shown), size
        self.pools = pools
        self.collate = partial(collate, pad=pad, device=next(module.parameters()).device)

    def batches(self, epoch: int, plan: Plan) -> list[list[int]]:
        """Return batches of random rows; with pools, of like length among those of `POOL` batches, in random order."""
        batches = super().batches(epoch, plan)
        if not self.pools:
            return batches
        order, sorted_rows = list(chain.from_iterable(batches)), []
        for start in range(0, len(order), POOL * self.size):
            pool = order[start : start + POOL * self.size]
            sorted_rows += sorted(pool, key=lambda row: len(self.shown[row][3]))
        places = numpy_rng(plan.seed, f"{plan.name} batches", epoch).permutation(len(batches)) * self.size
        return [sorted_rows[place : place + self.size] for place in places]

    def loss(self, batch: Sequence[int]) -> Tensor:
        """Return the losses of a batch's rows, [B]."""
        text, rating = self.module.losses(self.collate([self.shown[row] for row in batch]))
        return text + self.module.rating_weight * rating

    def held_out(self) -> dict[str, float]:
        """Return the losses of the validation split: the mean of its batches', each weighed by its rows."""
        parts = [self.kept[start : start + self.size] for start in range(0, len(self.kept), self.size)]
        found = [self.module.losses(self.collate(part)) for part in parts]
        text, rating = (torch.cat(side).mean().item() for side in zip(*found, strict=True))
        return {"val_loss": text + rating, "val_text": text, "val_rating": rating}


class Fitting(Pepler):
    """PEPLER as it is trained; its report has sizes, and of each stage the epochs and the best validation loss."""

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Train on the train split; the validation split says when to stop.

        Raises:
            DataError: There is no validation example, or one without an index of user or item.
            ModelError: A text has more tokens than the model's context.
        """
        check_indices(examples)
        shown, kept = ([e for e in examples if e.split == split] for split in ("train", "val"))
        shown = shown[: self.settings.max_examples]
        if not kept:
            raise DataError("tuning: PEPLER stops by its validation loss, and the split val is empty; see split.ratios")
        llm = load_language_model(self.settings, self.run)
        words = Words(llm, self.settings, self.run.seed)
        features = Features.of(shown, self.settings.shared) if self.settings.prompt == "discrete" else None
        rows = [[self._row(e, words, features) for e in side] for side in (shown, kept)]
        longest = max(len(row[2] or (0, 0)) + len(row[3]) for side in rows for row in side)
        check_room(longest, "the longest text with its prompt", "words", llm)
        module = self._module(examples, llm)
        stages = [self._stage(part, module, rows, words) for part in self._parts]
        known = {kind: sorted({getattr(e, kind) for e in shown}) for kind in ("user", "item")}
        facts = {"llm": llm.identity, "known": known, "features": features and [features.users, features.items]}
        curve = curve_rows([losses for _, found in stages for losses in found.curve])
        report = {
            "train_examples": len(shown),
            "parameters": sum(p.numel() for p in module.parameters()),
            "longest": longest,
            "stages": {part: _told(found) for part, found in stages},
        }
        return Fitted(tensors=dict(module.named_parameters()), facts=facts, curve=curve, report=report)

    @property
    def _parts(self) -> list[str]:
        return ["all"] if self.settings.stage1 == "none" else [self.settings.stage1, "all"]

    def _row(self, example: Example, words: Words, features: Features | None) -> tuple:
        prompt = words.prompt(features.prompt(example)) if features else None
        rating = example.rating if self.settings.rating != "none" else None
        return example.user, example.item, prompt, words.text(example.reference), rating

    def _module(self, examples: Sequence[Example], llm: LanguageModel) -> Prompted:
        """Return the model as it begins; its tables reach to the last index seen."""
        tables, seed = [], self.run.seed
        for kind in ("user", "item") if self.settings.prompt == "continuous" else ():
            count = max(getattr(example, kind) for example in examples) + 1
            tables.append(first_vectors(kind, range(count), llm.hidden, seed))
        head = rating_head(self.settings, llm.hidden, seed)
        return Prompted(llm.model, *tables or (None, None), head, self.settings.rating_weight).to(self.run.device)

    def _stage(self, part: str, module: Prompted, rows: list[list[tuple]], words: Words) -> tuple[str, Progress]:
        """Train a part of the model with an optimiser of its own; leave the best epoch's weights."""
        module.train_only(part)
        checkpoint, first = self.run.checkpoint, part == self._parts[0]
        if checkpoint and not first:
            checkpoint = checkpoint.with_name(f"{checkpoint.name}.second")
        plan = Plan(
            name="tuning" if part == "all" else "prompt tuning",
            rate_key="the method's learning_rate",
            seed=self.run.seed,
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
            optimizer=partial(AdamW, lr=self.settings.learning_rate),
            evaluate_every=1,
            patience=self.settings.patience,
            endured=self.settings.stopping == "endured",
            checkpoint=checkpoint,
            identity=self.run.identity,
            save_every=CHECKPOINT_EVERY,
        )
        return part, train(Prompting(module, *rows, plan.batch_size, words.pad, self.settings.order == "pools"), plan)


def _told(stage: Progress) -> dict[str, Any]:
    return {"epochs": len(stage.history), "best_epoch": stage.best_epoch, "stopped_by": stage.stopped_by} | {
        key: value for key, value in stage.history[stage.best_epoch - 1].items() if key.startswith("val_")
    }


FIT = Fitting
