"""Activation checkpointing: layers of the frozen model keep their inputs alone, and compute again going backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from xrec_repro.errors import ModelError
from xrec_repro.explainer.injection import Injector


@contextmanager
def activation_checkpointing(model: Any, injector: Injector) -> Iterator[None]:
    """Checkpoint each layer within this block, with the hooks of injection; gradients are the same.

    Beside one hidden state a layer and token, activations of one layer at a time are in memory; each layer is computed
    twice. Caches cannot be read meanwhile.

    Args:
        model: The causal language model, frozen and in evaluation mode.
        injector: Its hooks.

    Raises:
        ModelError: The model's layers cannot be checkpointed.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no layers that transformers can checkpoint; set "
            "tuning.activation_checkpointing to false"
        )
    # A frozen model in evaluation mode draws no random numbers whose state would have to be kept.
    options = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": injector.recomputation}
    model.gradient_checkpointing_enable(options)
    for layer in layers:
        layer.training = True  # the layer alone, which checkpoints in no other mode; dropout in its modules stays off
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        model.gradient_checkpointing_disable()
