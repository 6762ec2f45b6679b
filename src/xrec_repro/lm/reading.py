"""A language model that reads for a fixed number of slots: packs of prompts, then one token a slot and step."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xrec_repro.explainer.injection import Injector
from xrec_repro.lm import kernels, torch_ops
from xrec_repro.lm.families import FAMILIES
from xrec_repro.lm.graphs import Replayed
from xrec_repro.lm.invariant import check, lay_out, matrices, multiplying, one_by_one, tiled

_FEW = 16
_INJECTED = 2  # reserved tokens of a prompt
Choose = Callable[[Tensor, Tensor], Tensor]


def unfit(llm: Any, room: int) -> str | None:
    """Return why a language model cannot be read in slots, with what mends it; None if it can.

    Args:
        llm: An `explainer.llm.LanguageModel`.
        room: Tokens of the longest text.
    """
    config, device = llm.model.config, llm.device
    if config.model_type not in FAMILIES:
        return f"the model is of family {config.model_type}; use one of {', '.join(FAMILIES)}"
    if getattr(llm.model, "is_quantized", False):
        return "llm.quantisation is on; set it to none"
    if config._attn_implementation != "sdpa":
        return f"llm.attention is {config._attn_implementation}; set it to sdpa"
    if problem := FAMILIES[config.model_type].unfit(config, room):
        return f"{problem}; use another model"
    if device.type == "cuda" and not kernels.TRITON:
        return "Triton is not installed; pip install triton"
    if {parameter.device for parameter in llm.model.parameters()} != {device}:
        return "its weights lie on several devices; use one that holds them all"
    return None


def sent(values: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """Return numbers on a device, without waiting for what it does."""
    held = torch.as_tensor(values)
    return held.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else held


@dataclass(frozen=True)
class Prompt:
    """A prompt to be read into a slot.

    Attributes:
        slot: Which.
        ids: Token ids, without the opening.
        adapted: Adapted embeddings, [2, hidden], or [0, hidden].
        positions: Where they stand in `ids`.
        draws: Uniform numbers for the tokens to come, [new tokens], float64, on the CPU.
    """

    slot: int
    ids: Sequence[int]
    adapted: Tensor
    positions: Sequence[int]
    draws: Tensor


class _Pack:
    """Prompts side by side: `size` rows, the last of which is none's, in memory that stays where it is."""

    def __init__(
        self, size: int, prompts: int, trash: int, room: int, hidden: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.size, self.trash, self.room = size, trash, room
        injected = _INJECTED * prompts
        blocks = size // kernels.QUERIES + prompts
        lengths = {"ids": size, "slots": size, "places": size, "last": prompts, "filled": prompts, "ends": prompts}
        self._lengths = lengths | {"positions": injected, "blocks": 4 * blocks}
        self.adapted = torch.zeros(1, injected, hidden, device=device, dtype=dtype)
        self._memory = torch.zeros(sum(self._lengths.values()), dtype=torch.long, device=device)
        self.fill([], 0, 0)
        views = dict(zip(self._lengths, self._memory.split(list(self._lengths.values())), strict=True))
        self.ids, self.slots, self.places = views["ids"], views["slots"], views["places"]
        self.last, self.filled, self.ends = views["last"], views["filled"], views["ends"]
        self.positions, self.blocks = views["positions"][None], views["blocks"].view(-1, 4)

    def fill(self, prompts: Sequence[Prompt], opening: int, block: int) -> None:
        """Lay prompts side by side, after an opening of so many tokens, in blocks of at most so many queries."""
        rows: dict[str, list[int]] = {name: [] for name in self._lengths}
        for prompt in prompts:
            start, count = len(rows["ids"]), len(prompt.ids)
            rows["ids"] += prompt.ids
            rows["slots"] += [prompt.slot] * count
            rows["places"] += range(opening, opening + count)
            rows["last"].append(start + count - 1)
            rows["filled"].append(prompt.slot)
            rows["ends"].append(opening + count)
            rows["positions"] += [start + place for place in prompt.positions]
            for first in range(0, count, block):
                rows["blocks"] += [start + first, min(block, count - first), opening + first, prompt.slot]
        # What is left over writes to the end of the slot that is none's, and injects nothing into the last row.
        empty = {"slots": self.trash, "places": self.room - 1, "filled": self.trash, "positions": self.size - 1}
        flat = [row + [empty.get(name, 0)] * (self._lengths[name] - len(row)) for name, row in rows.items()]
        self._memory.copy_(sent([value for row in flat for value in row], self._memory.device))
        if prompts:
            adapted = torch.cat([prompt.adapted for prompt in prompts]).to(self.adapted)
            self.adapted[0, : len(adapted)] = adapted
            self.adapted[0, len(adapted) :] = 0


class SlotModel:
    """A causal language model with a key-value cache of fixed shape, a row of it for each slot.

    On a GPU everything is a replayed CUDA graph. There, with ``exact``, a row has the same bits beside any others; on a
    CPU prompts are read one by one, and it has.

    Args:
        model: One that is not `unfit`.
        injector: Its hooks; they act on prompts.
        slots: How many texts at once.
        room: Tokens of the longest text, with its prompt.
        new_tokens: Upper limit of a text.
        choose: From logits [N, V] and uniform numbers [N] to token ids [N]; it may not wait for the device.
        exact: Whether products are to round in one way at all heights.
        sizes: On a GPU the rows of a pack, rising.

    Attributes:
        tokens: The token of each slot that was chosen last, [slots].
        opening: Tokens that all prompts begin with; `open` comes before anything else.
    """

    def __init__(
        self,
        model: Any,
        injector: Injector,
        slots: int,
        room: int,
        new_tokens: int,
        choose: Choose,
        exact: bool,
        sizes: Sequence[int] = (256, 1024, 4096),
    ) -> None:
        self.model, self.injector, self.slots, self.choose = model, injector, slots, choose
        weight = model.get_input_embeddings().weight
        self.device, self._gpu = weight.device, weight.is_cuda
        self.sizes = tuple(sizes) if self._gpu else ()
        self._ops: Any = kernels if self._gpu else torch_ops
        # Few texts are faster with fewer, longer parts of a sum; `exact` knows one way for any number of them.
        self._few = not exact and slots <= _FEW
        self._products = None
        if exact:
            self._products = tiled if self._gpu else one_by_one
        if exact and self._gpu:
            lay_out(model)
            check(matrices(model))
        self._parts = FAMILIES[model.config.model_type](model, self._ops)
        rows = slots + 1  # one more, to which is written what is no text's
        shape = len(self._parts.layers), rows, self._parts.heads, room, self._parts.width
        self._keys, self._values = (torch.zeros(shape, device=self.device, dtype=weight.dtype) for _ in range(2))
        self._angles = self._parts.angles(room)
        self._tokens, self._lengths, self._left = torch.zeros(3, rows, dtype=torch.long, device=self.device)
        self._limit = new_tokens
        self._draws = torch.zeros(rows, new_tokens + 1, dtype=torch.float64, device=self.device)
        self._rows = torch.arange(slots, device=self.device)
        self._pool = torch.cuda.graph_pool_handle() if self._gpu else None
        self._fills: dict[int, tuple[_Pack, Replayed]] = {}
        self.tokens = self._tokens[:slots]

    @torch.no_grad()
    def open(self, opening: Sequence[int]) -> None:
        """Read what all prompts begin with, for all slots, which are empty."""
        if opening:
            pack = self._pack(len(opening) + 1, 1)
            nothing = torch.zeros(0, pack.adapted.shape[2])
            pack.fill([Prompt(self.slots, opening, nothing, (), self._draws[0])], 0, self._block)
            with self._multiplying(alone=True):
                self._read(pack)
            for side in (self._keys, self._values):
                side[:, :-1, :, : len(opening)] = side[:, -1:, :, : len(opening)]
        self.opening = len(opening)
        self._lengths.fill_(self.opening)  # where a slot without a text writes what nobody reads
        self._step = Replayed(self._advance, self.device, self._pool)  # while there is nothing that it could advance

    @torch.no_grad()
    def fill(self, prompts: Sequence[Prompt]) -> None:
        """Read prompts into their slots, and choose the first token of each.

        Args:
            prompts: On a GPU no longer together than `most` says; on a CPU a single one.
        """
        draws = sent(torch.stack([prompt.draws for prompt in prompts]), self.device)
        self._draws[sent([prompt.slot for prompt in prompts], self.device), : draws.shape[1]] = draws
        rows = sum(len(prompt.ids) for prompt in prompts) + 1
        if self._gpu:
            size = next(size for size in self.sizes if size >= rows and self.most(size) >= len(prompts))
            if size not in self._fills:
                pack = self._pack(size, self.most(size))
                self._fills[size] = pack, Replayed(lambda: self._fill(pack), self.device, self._pool)
            pack, run = self._fills[size]
        else:
            pack = self._pack(rows, 1)
            run = lambda: self._fill(pack)  # noqa: E731
        pack.fill(prompts, self.opening, self._block)
        run()

    @torch.no_grad()
    def step(self) -> None:
        """Choose the next token of each slot."""
        self._step()

    def most(self, size: int) -> int:
        """Return how many prompts a pack of so many rows takes."""
        return size // 64 + 1

    def leave(self, slots: Sequence[int]) -> None:
        """Let slots idle that hold no text any more."""
        at = sent(slots, self.device)
        self._left.index_fill_(0, at, 0)
        self._lengths.index_fill_(0, at, self.opening)

    @property
    def _block(self) -> int:
        return kernels.QUERIES if self._gpu else self._keys.shape[3]

    def _multiplying(self, alone: bool) -> AbstractContextManager[None]:
        # On a CPU a prompt is read alone, so that its own shape decides how it rounds.
        return multiplying(self.model, None if alone and not self._gpu else self._products)

    def _pack(self, size: int, prompts: int) -> _Pack:
        hidden = self.model.config.hidden_size
        return _Pack(size, prompts, self.slots, self._keys.shape[3], hidden, self.device, self._keys.dtype)

    def _read(self, pack: _Pack) -> Tensor:
        """Return the hidden states after the last token of each prompt of a pack, [1, prompts, hidden]."""

        def attend(q: Tensor, layer: int) -> Tensor:
            return self._ops.attend_pack(q, pack.blocks, self._keys[layer], self._values[layer], self._parts.scale)

        with self.injector.prompt(pack.adapted, pack.positions, pack.size):
            return self._forward(pack.ids, (pack.slots, pack.places), attend)[:, pack.last]

    def _fill(self, pack: _Pack) -> None:
        with self._multiplying(alone=True):
            logits = self.model.get_output_embeddings()(self._read(pack))[0].float()
        chosen = self.choose(logits, self._draws[pack.filled, 0])
        self._tokens[pack.filled] = chosen
        self._lengths[pack.filled] = pack.ends
        self._left.index_fill_(0, pack.filled, self._limit - 1)

    def _advance(self) -> None:
        lengths, left = self._lengths[: self.slots], self._left[: self.slots]

        def attend(q: Tensor, layer: int) -> Tensor:
            cache = self._keys[layer], self._values[layer]
            return self._ops.attend_step(q, lengths, *cache, self._parts.scale, self._few)

        with self._multiplying(alone=False):
            hidden = self._forward(self.tokens, (self._rows, lengths), attend)
            logits = self.model.get_output_embeddings()(hidden)[0].float()
        draws = self._draws[: self.slots].gather(1, self._limit - left[:, None])[:, 0]
        self.tokens.copy_(self.choose(logits, draws))
        moves = left.clamp(max=1)  # a slot whose text is complete stays where it is
        lengths += moves
        left -= moves

    def _forward(self, ids: Tensor, at: tuple[Tensor, Tensor], attend: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Read tokens that lie side by side, [N], each at its slot and place; return hidden states, [1, N, hidden]."""
        parts = self._parts
        x, branch = parts.embed(ids, at[1]), None
        for index, layer in enumerate(parts.layers):
            before, between = parts.norms(layer)
            x, h = parts.norm(x, branch, before)
            cache = self._keys[index], self._values[index]
            q = self._ops.turn(*parts.project(layer, h), self._angles, at, *cache)
            x, h = parts.norm(x, parts.join(layer, attend(q, index)), between)
            branch = parts.mlp(layer, h)
        return parts.norm(x, branch, parts.last)[1]
