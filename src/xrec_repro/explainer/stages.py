"""The tuning stage as the workflow runs it: tune, measure on held-out examples, save."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from xrec_repro.examples import Example
from xrec_repro.explainer.bundle import save_adapter
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.llm import weights_digest
from xrec_repro.explainer.tuning import held_out_losses, tune
from xrec_repro.io import write_table

# One row a step: examples seen so far, and the mean loss of the step's own.
TRAINING = pa.schema({"step": pa.int32(), "examples": pa.int64(), "loss": pa.float64()})
KEPT = ("domain", "prompt", "injection", "embeddings", "adapter", "tuning")


def tune_and_save(
    explainer: Explainer,
    examples: Sequence[Example],
    settings: dict[str, Any],
    seed: int,
    folder: Path,
    checkpoint: Path,
    fingerprint: str,
) -> dict[str, Any]:
    """Tune on the train split, and save the adapters with their training curve.

    Args:
        explainer: With fresh adapters.
        examples: All splits; at most ``tuning.max_examples`` of train are used, in the file's order.
        settings: All settings of the experiment, and ``domain``.
        seed: The run's seed.
        folder: Receives ``adapter.safetensors``, ``adapter.json`` and ``training.parquet``.
        checkpoint: Where to keep the state of an unfinished run; removed at the end.
        fingerprint: What a checkpoint must match to be resumed.

    Returns:
        Sizes, the loss of the last steps and the mean validation loss per example (natural logarithm); ``cut_prompts``
        if the context had no room for all titles and profiles.
    """
    tuning = settings["tuning"]
    train = [e for e in examples if e.split == "train"][: tuning["max_examples"]]
    frozen = weights_digest(explainer.llm.model)
    steps = tune(explainer, train, tuning, seed, checkpoint, fingerprint)
    losses = [float(np.mean(step)) for step in steps]
    seen = np.cumsum([len(step) for step in steps])
    unchanged = weights_digest(explainer.llm.model) == frozen
    validation = held_out_losses(explainer, [e for e in examples if e.split == "val"], tuning["batch_size"])
    curve = {"step": range(1, len(losses) + 1), "examples": seen, "loss": losses}
    write_table(folder / "training.parquet", curve, TRAINING)
    save_adapter(folder, explainer.adapters, explainer.llm, {key: settings[key] for key in KEPT} | {"seed": seed})
    checkpoint.unlink(missing_ok=True)
    explainer.encoder.warn_of_cuts("tuning")
    cut = {"cut_prompts": len(explainer.encoder.cut)} if explainer.encoder.cut else {}
    return cut | {
        "train_examples": len(train),
        "steps": len(losses),
        "stopped_early": int(seen[-1]) < len(train) * tuning["epochs"],
        "last_losses_mean": float(np.mean(losses[-50:])),
        "validation_loss": float(np.mean(validation)) if validation else None,
        "language_model_unchanged": unchanged,
    }
