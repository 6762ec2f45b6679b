"""Instruction tuning of XRec: tune the adapters, measure them on held-out examples, keep them."""

from collections.abc import Sequence

import numpy as np

from xrec_repro.examples import Example
from xrec_repro.explainer.assemble import fresh_explainer
from xrec_repro.explainer.bundle import pack
from xrec_repro.explainer.llm import weights_digest
from xrec_repro.explainer.tuning import held_out_losses, tune
from xrec_repro.methods.base import Fitted
from xrec_repro.methods.xrec import XRec
from xrec_repro.seeding import numpy_rng
from xrec_repro.training import curve_rows

KEPT = ("prompt", "injection", "embeddings", "adapter", "tuning")


class Fitting(XRec):
    """XRec as it is tuned; its report has sizes, the loss of the last steps, and the mean validation loss per example.

    (Natural logarithm.) ``cut_prompts`` are those whose titles or profiles the context had no room for.
    """

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Tune on the train split, or on a draw of ``tuning.max_examples`` of it, by the run's seed."""
        explainer = fresh_explainer(**self.parts)
        tuning = self.run.sections["tuning"]
        train = _drawn([e for e in examples if e.split == "train"], tuning["max_examples"], self.run.seed)
        frozen = weights_digest(explainer.llm.model)
        steps = tune(explainer, train, tuning, self.run.seed, self.run.checkpoint, self.run.identity)
        curve = curve_rows(steps)
        unchanged = weights_digest(explainer.llm.model) == frozen
        validation = held_out_losses(explainer, [e for e in examples if e.split == "val"], tuning["batch_size"])
        kept = {"domain": self.run.domain} | {key: self.run.sections[key] for key in KEPT} | {"seed": self.run.seed}
        tensors, facts = pack(explainer.adapters, explainer.llm, kept)
        explainer.encoder.warn_of_cuts("tuning")
        cut = {"cut_prompts": len(explainer.encoder.cut)} if explainer.encoder.cut else {}
        report = cut | {
            "train_examples": len(train),
            "steps": len(curve),
            "stopped_early": curve[-1]["examples"] < len(train) * tuning["epochs"],
            "last_losses_mean": float(np.mean([row["loss"] for row in curve[-50:]])),
            "validation_loss": float(np.mean(validation)) if validation else None,
            "language_model_unchanged": unchanged,
        }
        return Fitted(tensors=tensors, facts=facts, curve=curve, report=report)


def _drawn(examples: list[Example], most: int | None, seed: int) -> list[Example]:
    """Return so many examples at most, drawn at random, in the order that they had."""
    if most is None or most >= len(examples):
        return examples
    chosen = numpy_rng(seed, "tuning", "examples").choice(len(examples), most, replace=False)
    return [examples[place] for place in np.sort(chosen)]


FIT = Fitting
