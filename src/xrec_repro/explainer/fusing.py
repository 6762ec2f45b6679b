"""Fused element-wise work of a frozen language model: norms, MLPs and rotary embeddings are compiled.

A layer's matrix products leave a GPU little to gain; what lies between them reads and writes hidden states a dozen
times, where once would do. Each kind of part is compiled once, for any number of tokens, and serves all layers. The
projections that injection hooks into stay as they are.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

log = logging.getLogger("xrec_repro")

_ROTARY = "apply_rotary_pos_emb"  # what transformers calls it in the module of every family
_TOKENS = 64  # of the trial
_compiled: WeakKeyDictionary[nn.Module, dict[Any, Callable]] = WeakKeyDictionary()


@contextmanager
def fused(model: Any, backend: str = "inductor") -> Iterator[None]:
    """Let a model run its compiled parts within this block, on a CUDA device and where gradients are computed.

    A quantised model, whose products are kernels of their own, stays as it is; so does, for good, a model whose parts
    cannot be compiled, and the log says why.

    Args:
        model: A causal language model of transformers, frozen and in evaluation mode.
        backend: Of torch.compile; one that is not inductor is used on any device.
    """
    elsewhere = model.device.type != "cuda" and backend == "inductor"
    if elsewhere or not torch.is_grad_enabled() or getattr(model, "is_quantized", False):
        yield
        return
    if model not in _compiled:
        _compiled[model] = _compile(model, backend)
    family = sys.modules[type(model).__module__]
    rotary, parts = getattr(family, _ROTARY, None), []
    try:
        for part, function in _compiled[model].items():
            if part == _ROTARY:
                setattr(family, _ROTARY, function)
            else:
                part.forward = function
                parts.append(part)
        yield
    finally:
        for part in parts:
            del part.forward
        if rotary is not None:
            setattr(family, _ROTARY, rotary)


def replaced(model: Any) -> int:
    """Return how many parts of a model, the rotary embedding being one, ran compiled so far."""
    return len(_compiled.get(model, {}))


def _compile(model: Any, backend: str) -> dict[Any, Callable]:
    """Return what each part of a model, or the rotary embedding's name, is replaced by, after a trial of each.

    Random numbers are not drawn for it: they are the dropout's.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    parts = [part for layer in layers for part in layer.children() if not hasattr(part, "q_proj")]
    parts = [part for part in parts if "forward" not in vars(part)]  # others' replacements stay
    functions = {kind: torch.compile(kind.forward, backend=backend) for kind in {type(part) for part in parts}}
    rotary = getattr(sys.modules[type(model).__module__], _ROTARY, None)
    try:
        for kind, function in functions.items():
            part = next(part for part in parts if type(part) is kind)
            function(part, _like_hidden(model)).sum().backward()
        found: dict[Any, Callable] = {part: partial(functions[type(part)], part) for part in parts}
        if rotary is not None:
            rotate = torch.compile(rotary, backend=backend)
            sum(side.sum() for side in rotate(*_like_rotary(model), None, 2)).backward()
            found[_ROTARY] = partial(_by_token, rotate)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler, its own compilers or the driver: any of them may be absent or fail
        reason = " ".join(str(error).split())[:300]
        log.warning("tuning goes on without fused layers: %s: %s", type(error).__name__, reason)
        return {}
    return found


def _by_token(rotary: Callable, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Rotate [B, heads, T, width] as it lies, the heads of a token side by side, so that nothing has to be copied."""
    return tuple(side.transpose(1, 2) for side in rotary(query.transpose(1, 2), key.transpose(1, 2), cos, sin, None, 2))


def _any_length(tensor: Tensor) -> Tensor:
    torch._dynamo.mark_dynamic(tensor, 1)
    return tensor


def _like_hidden(model: Any) -> Tensor:
    shape = 1, _TOKENS, model.config.hidden_size
    return _any_length(torch.ones(shape, device=model.device, dtype=model.dtype, requires_grad=True))


def _like_rotary(model: Any) -> list[Tensor]:
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sides = []
    for heads in (config.num_attention_heads, config.num_key_value_heads):
        side = torch.ones(1, _TOKENS, heads * width, device=model.device, dtype=model.dtype, requires_grad=True)
        sides.append(side.view(1, _TOKENS, heads, width))
    angles = model.model.rotary_emb(sides[0], torch.arange(_TOKENS, device=model.device)[None])
    return [_any_length(tensor) for tensor in (*sides, *angles)]
