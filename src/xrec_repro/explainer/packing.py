"""Tuning without padding: the prompts of a batch stand one after the other in a single row.

On a GPU in half precision every token that is read is a real one. Attention keeps to the tokens of a prompt
(FlashAttention over sequences of several lengths, `torch.nn.attention.varlen`); elsewhere each prompt is attended to in
turn, which is slower than padding but lets a CPU check all but the kernel. What all prompts begin with is read once:
its keys and values are put before those of each prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from xrec_repro.explainer.explainer import Explainer, shared_opening
from xrec_repro.explainer.fusing import fused
from xrec_repro.explainer.prompts import IGNORED_LABEL, Encoded

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None

_FAMILIES = ("llama", "mistral", "qwen2", "gemma")  # whose layers look their attention up by name
_NAME = "xrec_packed"
_MANY = 4096  # tokens; with fewer it takes longer to call compiled parts than they save


def packs(model: Any, longest: int) -> bool:
    """Whether a causal language model reads packed prompts of up to so many tokens faster than padded ones."""
    config = model.config
    if varlen_attn is None or not torch.backends.cuda.is_flash_attention_available():
        return False
    if model.device.type != "cuda" or model.dtype not in (torch.bfloat16, torch.float16):
        return False
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    window = getattr(config, "sliding_window", None)
    return (
        config.model_type in _FAMILIES
        and config._attn_implementation == "sdpa"
        and not model.is_gradient_checkpointing
        and (window is None or window >= longest)
        and width % 8 == 0
        and width <= 256
        and torch.cuda.get_device_capability(model.device) >= (8, 0)
        and len({parameter.device for parameter in model.parameters()}) == 1
    )


def packed_losses(explainer: Explainer, encoded: Sequence[Encoded], adapted: Tensor) -> Tensor:
    """Negative log-likelihood of each example's targets, averaged over its own tokens, [B].

    Args:
        explainer: Its parts.
        encoded: The prompts of the batch with labels.
        adapted: The adapted embeddings, [B, 2, hidden].
    """
    model = explainer.llm.model
    opening = shared_opening(encoded)
    batch = pack([row.without(len(opening)) for row in encoded], explainer.llm.device)
    attention = PackedAttention(batch.lengths, explainer.keys_and_values(opening), explainer.llm.device)
    adapted = adapted.reshape(1, -1, adapted.shape[2])
    read = batch.ids.shape[1]
    with (
        attention.within(model),
        fused(model) if read >= _MANY else nullcontext(),
        explainer.injector.prompt(adapted, batch.positions, read),
    ):
        logits = model(
            input_ids=batch.ids,
            position_ids=batch.position_ids + len(opening),
            use_cache=False,
            logits_to_keep=batch.predicting,
        ).logits[0]
    losses = F.cross_entropy(logits.float(), batch.targets, reduction="none")
    return torch.segment_reduce(losses, "mean", lengths=batch.counts, unsafe=True)  # unsafe: lengths are not checked


@dataclass
class Packed:
    """Prompts one after the other in a row of N tokens.

    Attributes:
        ids: Token ids, [1, N].
        position_ids: Index of each token within its own prompt, [1, N].
        positions: Indices of the reserved tokens in the row, [1, 2B]; [1, 0] without records.
        targets: Targets of all prompts, [L].
        predicting: Indices of the tokens before them, [L].
        counts: Number of each prompt's targets, [B].
        lengths: Number of each prompt's tokens.
    """

    ids: Tensor
    position_ids: Tensor
    positions: Tensor
    targets: Tensor
    predicting: Tensor
    counts: Tensor
    lengths: list[int]


def pack(rows: Sequence[Encoded], device: torch.device | str) -> Packed:
    """Put encoded prompts with labels one after the other."""
    lengths = [len(row.ids) for row in rows]
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    owner = torch.arange(len(rows)).repeat_interleave(sizes)
    labels = torch.tensor([label for row in rows for label in row.labels])
    places = (labels != IGNORED_LABEL).nonzero()[:, 0]
    on_device = (
        torch.tensor([[token for row in rows for token in row.ids]]),
        (torch.arange(len(labels)) - starts[owner])[None],
        (torch.tensor([row.positions for row in rows], dtype=torch.long) + starts[:, None]).reshape(1, -1),
        labels[places],
        places - 1,
        owner[places].bincount(minlength=len(rows)),
    )
    return Packed(*(tensor.to(device) for tensor in on_device), lengths)


class PackedAttention:
    """Causal attention within each of several sequences that stand one after the other.

    Args:
        lengths: Numbers of their tokens; their sum is N.
        opening: Keys and values of tokens that stand before each of them, [1, heads, P, width] a layer; none: P is 0.
        device: Where the model lies.
    """

    def __init__(self, lengths: Sequence[int], opening: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> None:
        before = opening[0][0].shape[2] if opening else 0
        self._opening = opening
        self._lengths = list(lengths), [before + length for length in lengths]
        bounds = [torch.tensor([0, *accumulate(sizes)], dtype=torch.int32) for sizes in self._lengths]
        own = torch.arange(int(bounds[0][-1])) + before * torch.arange(1, len(lengths) + 1).repeat_interleave(
            torch.tensor(self._lengths[0])
        )
        shared = (bounds[1][:-1, None] + torch.arange(before)).flatten().long()
        self._bounds = [bound.to(device) for bound in bounds]
        self._own, self._shared = own.to(device), shared.to(device)

    @contextmanager
    def within(self, model: Any) -> Iterator[None]:
        """Let a model of transformers attend so within this block; it is given no mask."""
        before = model.config._attn_implementation
        ALL_ATTENTION_FUNCTIONS[_NAME] = self.attend
        model.config._attn_implementation = _NAME
        try:
            yield
        finally:
            model.config._attn_implementation = before
            del ALL_ATTENTION_FUNCTIONS[_NAME]

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, **unused: Any
    ) -> tuple[Tensor, None]:
        """Attend in one layer, as transformers calls it.

        Args:
            module: The layer's attention, which knows its index.
            query: [1, heads, N, width].
            key: [1, heads or fewer, N, width].
            value: Likewise.
            mask: None.
            scaling: Factor of the products of queries and keys.
            unused: What other kernels need.

        Returns:
            [1, N, heads, width], and no weights.
        """
        query, key, value = (side.squeeze(0).transpose(0, 1) for side in (query, key, value))
        if self._opening:
            openings = self._opening[module.layer_idx]
            key, value = (self._with_opening(side, start) for side, start in zip((key, value), openings, strict=True))
        kernel: Callable = self._at_once if query.is_cuda and query.dtype != torch.float32 else self._in_turn
        return kernel(query, key, value, scaling)[None], None

    def _with_opening(self, side: Tensor, opening: Tensor) -> Tensor:
        rows = opening[0].transpose(0, 1).repeat(len(self._lengths[0]), 1, 1)
        both = side.new_empty(len(side) + len(rows), *side.shape[1:])
        return both.index_copy_(0, self._shared, rows).index_copy_(0, self._own, side)

    def _at_once(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        options: dict[str, Any] = {"scale": scaling}
        if query.shape[1] != key.shape[1] and "enable_gqa" in signature(varlen_attn).parameters:
            options["enable_gqa"] = True  # earlier versions need not be told
        longest = map(max, self._lengths)
        return varlen_attn(query, key, value, *self._bounds, *longest, window_size=(-1, 0), **options)

    def _in_turn(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        own, all_ = self._lengths
        attended = []
        for one in zip(query.split(own), key.split(all_), value.split(all_), strict=True):
            sides = [side.transpose(0, 1)[None] for side in one]
            seen = torch.ones(len(one[0]), len(one[1]), dtype=torch.bool, device=query.device)
            seen = seen.tril(len(one[1]) - len(one[0]))
            gqa = query.shape[1] != key.shape[1]
            read = F.scaled_dot_product_attention(*sides, attn_mask=seen, scale=scaling, enable_gqa=gqa)
            attended.append(read[0].transpose(0, 1))
        return torch.cat(attended)
