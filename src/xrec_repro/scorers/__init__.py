"""Small scorers trained from seeds, for machines that cannot download the published ones."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xrec_repro.scorers.training import Settings


def train_scorer(
    name: str, texts: Sequence[str], settings: Settings, out_folder: Path, fingerprint: str = ""
) -> dict[str, Any]:
    """Train a scorer on explanations of the train split.

    A run that was killed continues from its checkpoint beside the folder and ends in the same bytes.

    Args:
        name: ``bart`` | ``bleurt`` | ``judge``.
        texts: The explanations.
        settings: Section ``scorers.<name>``.
        out_folder: Where the model goes.
        fingerprint: Of all else that the result depends on; a checkpoint must match it to be resumed.

    Returns:
        Sizes and the loss over the training.
    """
    module = importlib.import_module(f"xrec_repro.scorers.{name}")
    return getattr(module, f"train_{name}")(texts, settings, out_folder, fingerprint)
