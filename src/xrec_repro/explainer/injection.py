"""Injection of adapted embeddings into a stock transformers model, by forward hooks alone.

The adapted embedding replaces the input row at its reserved position and is added in every attention layer, before
the rotary embedding, at that position, in the prefill only. Two forms:

* ``output`` (original code): added to the outputs of q_proj, k_proj and v_proj; needs projections as wide as the
  model, so it cannot serve grouped-query models.
* ``input`` (XRec, eq. 12: f(x) += W·a): added to their inputs; serves grouped-query models too.
* ``none`` (the study's "w/o injection"): the embeddings stay in the prompt, nothing is added in the layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from xrec_repro.errors import ModelError

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class Injector:
    """Hooks on one model; they act only inside `prompt`, and only on a forward pass over the whole prompt.

    Args:
        model: A causal language model with separate q_proj, k_proj and v_proj (Llama, Mistral, Qwen2, Gemma, …).
        form: ``output``, ``input`` or ``none``.
        layers: ``all``, or the indices of the attention layers that are added to, 0 is the first.
        scale: Factor of what is added; the papers and the original code have none, 1.

    Raises:
        ModelError: The model cannot take that form, or has no such layer.
    """

    def __init__(self, model: nn.Module, form: str, layers: str | Sequence[int] = "all", scale: float = 1.0) -> None:
        self.form, self.scale = form, scale
        self._active: tuple[Tensor, Tensor, Tensor, int] | None = None
        attentions = [m for m in model.modules() if all(hasattr(m, name) for name in PROJECTIONS)]
        _check_form(model, attentions, form)
        self._handles = [model.get_input_embeddings().register_forward_hook(self._replace_rows)]
        for attention in _chosen(attentions, form, layers):
            for name in PROJECTIONS:
                projection = getattr(attention, name)
                if form == "output":
                    self._handles.append(projection.register_forward_hook(self._add_to_output))
                else:
                    self._handles.append(projection.register_forward_pre_hook(self._add_to_input))

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def prompt(self, adapted: Tensor, positions: Tensor, length: int) -> Iterator[None]:
        """Inject in forward passes of `length` tokens within this block; single decoding steps are left alone.

        Args:
            adapted: Adapted embeddings, [B, 2, hidden]: user, item; [B, 0, hidden] injects nothing.
            positions: Their indices in the (padded) prompt, [B, 2] or [B, 0].
            length: Number of tokens of the (padded) prompt.
        """
        rows = torch.arange(len(positions), device=positions.device).unsqueeze(1).expand_as(positions)
        with self._injecting((adapted, rows, positions, length)):
            yield

    def recomputation(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Return the contexts of a forward pass and of its recomputation, which injects the same.

        For ``context_fn`` of `torch.utils.checkpoint.checkpoint`: the recomputation runs in the backward pass, after
        the block of `prompt` has ended.
        """
        return nullcontext(), self._injecting(self._active)

    @contextmanager
    def _injecting(self, active: tuple[Tensor, Tensor, Tensor, int] | None) -> Iterator[None]:
        before, self._active = self._active, active
        try:
            yield
        finally:
            self._active = before

    def _acts_on(self, hidden: Tensor) -> bool:
        return self._active is not None and hidden.shape[1] == self._active[3]

    def _values(self, hidden: Tensor) -> Tensor:
        values = self._active[0].to(hidden.device, hidden.dtype)
        return values * self.scale if self.scale != 1 else values

    def _scatter(self, hidden: Tensor, accumulate: bool) -> Tensor:
        adapted, rows, positions, _ = self._active
        rows, positions = rows.to(hidden.device), positions.to(hidden.device)
        values = self._values(hidden) if accumulate else adapted.to(hidden.device, hidden.dtype)
        if accumulate and not torch.is_grad_enabled():  # no place comes twice; to add them up, a GPU sorts them first
            values, accumulate = hidden[rows, positions] + values, False
        return hidden.index_put((rows, positions), values, accumulate=accumulate)

    def _replace_rows(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return self._scatter(output, accumulate=False) if self._acts_on(output) else output

    def _add_to_output(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if not self._acts_on(output):
            return output
        positions = self._active[2]
        if len(positions) > 1 or not torch.is_grad_enabled() or type(module) is not nn.Linear:
            return self._scatter(output, accumulate=True)
        # A single row, which packing makes of a batch: no copy is needed, going forward or backward. The product is
        # nobody else's, and its gradient does not depend on it.
        return output.index_add_(1, positions[0].to(output.device), self._values(output))

    def _add_to_input(self, module: nn.Module, args: tuple) -> tuple:
        return (self._scatter(args[0], accumulate=True), *args[1:]) if self._acts_on(args[0]) else args


def _chosen(attentions: list[nn.Module], form: str, layers: str | Sequence[int]) -> list[nn.Module]:
    if form == "none":
        return []
    if layers == "all":
        return attentions
    for layer in layers:
        if not 0 <= layer < len(attentions):
            raise ModelError(f"injection.layers: {layer}, but the model's layers are 0 to {len(attentions) - 1}")
    return [attentions[layer] for layer in layers]


def _check_form(model: nn.Module, attentions: list[nn.Module], form: str) -> None:
    name = type(model).__name__
    if form not in ("output", "input", "none"):
        raise ModelError(f"injection.form: {form!r} is not one of output, input, none")
    if not attentions and form != "none":
        raise ModelError(
            f"{name} has no separate q_proj, k_proj and v_proj, so nothing can be injected; use a model such as "
            f"Llama, Mistral, Qwen2 or Gemma"
        )
    if form != "output":
        return
    hidden = model.get_input_embeddings().embedding_dim
    widths = {p: getattr(attentions[0], p).out_features for p in PROJECTIONS}
    if set(widths.values()) != {hidden}:
        shown = ", ".join(f"{p} {width}" for p, width in widths.items())
        raise ModelError(
            f"{name} cannot take injection.form 'output': its projections ({shown}) are not as wide as the model "
            f"({hidden}), as with grouped-query attention; set injection.form to 'input'"
        )
