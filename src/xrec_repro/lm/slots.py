"""Decoding in a fixed number of slots: a text that ends makes room for the next prompt.

Every step has one shape, so that a GPU replays it whole, and no text waits for the longest of its batch. Tokens are
looked at one step late there: the device has its next step before the last one is read.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from xrec_repro.errors import ConfigError
from xrec_repro.examples import Example
from xrec_repro.explainer.decoding import Decoded, chosen_tokens, drawn
from xrec_repro.explainer.explainer import shared_opening
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import LanguageModel
from xrec_repro.explainer.prompts import Encoded
from xrec_repro.lm.reading import Prompt, SlotModel, unfit
from xrec_repro.seeding import torch_generator

_ADAPTED_AT_ONCE = 256  # always, as products may round by their height
_PACKS = (256, 512, 1024, 2048, 4096)  # rows of prompts that a GPU reads at once
_WAIT = 8  # on a GPU prompts are read when an eighth of the slots are free


class Explaining(Protocol):
    """What slots need of what explains: an `Explainer`, or another way to say users and items to a language model."""

    llm: LanguageModel
    injector: Injector

    def adapt(self, examples: Sequence[Example]) -> Tensor:
        """Return the vectors at the reserved tokens of prompts, [B, 2, hidden]; [B, 0, hidden] where there are none."""


@dataclass
class _Text:
    """A text in the making: the tokens that were launched for it, and those of them that were looked at."""

    example: Example
    launched: int = 0
    done: bool = False
    result: Decoded = field(default_factory=lambda: Decoded([], "length"))


def in_slots(explainer: Explaining, settings: dict[str, Any], encoded: Sequence[Encoded]) -> bool:
    """Say whether slots decode these prompts: on a GPU wherever they can, on a CPU where 16 bits are to be exact.

    Args:
        explainer: With its language model.
        settings: Section ``generation``.
        encoded: All prompts.

    Raises:
        ConfigError: ``invariance`` is ``exact``, batches cannot keep that, and slots cannot decode the model.
    """
    exact = settings.get("invariance", "exact") == "exact"
    gpu, wide = explainer.llm.device.type == "cuda", explainer.llm.model.dtype == torch.float32
    if not gpu and (wide or not exact):
        return False
    problem = unfit(explainer.llm, _room(settings, encoded))
    if problem and exact:
        raise ConfigError(f"generation.invariance: 'exact' needs what is not here: {problem}, or set it to fast")
    return problem is None


def _room(settings: dict[str, Any], encoded: Sequence[Encoded]) -> int:
    return max(len(row.ids) for row in encoded) + settings["max_new_tokens"]


class SlotDecoder:
    """Decodes examples in slots.

    Args:
        explainer: In evaluation mode.
        settings: Section ``generation``; ``batch_size`` is the number of slots.
        seed: The run's seed.
        encoded: All prompts by example id.
        stops: Token id -> finish reason.
    """

    def __init__(
        self,
        explainer: Explaining,
        settings: dict[str, Any],
        seed: int,
        encoded: dict[str, Encoded],
        stops: dict[int, str],
    ) -> None:
        self.explainer, self.settings, self.seed, self.stops = explainer, settings, seed, stops
        self.encoded = encoded
        self.limit = settings["max_new_tokens"]
        rows = list(encoded.values())
        self.opening = shared_opening(rows)
        self.model = SlotModel(
            explainer.llm.model,
            explainer.injector,
            min(settings["batch_size"], len(rows)),
            _room(settings, rows),
            self.limit,
            partial(chosen_tokens, settings=settings),
            settings.get("invariance", "exact") == "exact",
            *([self._sizes(rows)] if explainer.llm.device.type == "cuda" else ()),
        )
        self.model.open(self.opening)
        self._late = int(explainer.llm.device.type == "cuda")
        self._adapted: dict[str, Tensor] = {}

    def decode(self, examples: Sequence[Example]) -> Iterator[tuple[Example, Decoded]]:
        """Decode examples, of those that were encoded; yields each as its text ends, in any order."""
        waiting, held, free, idle = deque(examples), {}, list(range(self.model.slots)), 0
        pending: deque[tuple[dict[int, _Text], Tensor, Any]] = deque()
        while waiting or held or pending:
            if len(free) * _WAIT >= self.model.slots or not held:
                while waiting and free:
                    pending.append(self._fill(waiting, held, free))
            if held:
                self.model.step()
                pending.append(self._launched(dict(held)))
            for slot, text in list(held.items()):
                if text.launched == self.limit:  # whatever its tokens are
                    free.append(slot)
                    del held[slot]
            while len(pending) > self._late * bool(held):
                for slot, text in self._look(*pending.popleft()):
                    if held.get(slot) is text:
                        free.append(slot)
                        del held[slot]
                    yield text.example, text.result
            if held and not waiting and len(free) > idle:  # they read no cache any more
                idle = len(free)
                self.model.leave(free)

    def groups(self, examples: Sequence[Example]) -> Iterator[list[tuple[Example, Decoded]]]:
        """Decode examples; yields as many at a time as there are texts at once."""
        found = self.decode(examples)
        while some := list(islice(found, self.settings["batch_size"])):
            yield some

    def _fill(self, waiting: deque[Example], held: dict[int, _Text], free: list[int]) -> Any:
        """Read the next prompts into free slots, as many as a pack takes."""
        size = max(self.model.sizes, default=0)
        most = min(len(free), self.model.most(size)) if size else 1
        prompts, filled, rows = [], {}, 1
        while waiting and len(prompts) < most:
            row = self.encoded[waiting[0].example_id].without(len(self.opening))
            rows += len(row.ids)
            if prompts and rows > size:
                break
            example, slot = waiting.popleft(), free.pop(0)
            draws = drawn(torch_generator(self.seed, "sampling", example.example_id), self.limit)
            prompts.append(Prompt(slot, row.ids, self._adapt(example, waiting), row.positions, draws))
            held[slot] = filled[slot] = _Text(example)
        self.model.fill(prompts)
        return self._launched(filled)

    def _launched(self, texts: dict[int, _Text]) -> tuple[dict[int, _Text], Tensor, Any]:
        """Note whose tokens the device is choosing, and have them copied when it has."""
        for text in texts.values():
            text.launched += 1
        if not self._late:
            return texts, self.model.tokens.clone(), None
        tokens = torch.empty(self.model.slots, dtype=torch.long, pin_memory=True)
        tokens.copy_(self.model.tokens, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return texts, tokens, event

    def _look(self, texts: dict[int, _Text], tokens: Tensor, event: Any) -> Iterator[tuple[int, _Text]]:
        """Read what was chosen; yields slots and texts that ended."""
        if event is not None:
            event.synchronize()
        read = tokens.tolist()
        for slot, text in texts.items():
            if text.done:
                continue
            text.result.ids.append(read[slot])
            reason = self.stops.get(read[slot])
            text.result.finish_reason = reason or "length"
            text.done = reason is not None or len(text.result.ids) == self.limit
            if text.done:
                yield slot, text

    @torch.no_grad()
    def _adapt(self, example: Example, waiting: Sequence[Example]) -> Tensor:
        """Return an example's adapted embeddings: on a CPU made alone, on a GPU in batches of one height."""
        if example.example_id not in self._adapted:
            count = _ADAPTED_AT_ONCE if self._late else 1
            some = [example, *list(waiting)[: count - 1]]
            found = self.explainer.adapt([*some, *[example] * (count - len(some))])
            self._adapted = dict(zip((one.example_id for one in some), found, strict=False))
        return self._adapted[example.example_id]

    def _sizes(self, rows: Sequence[Encoded]) -> Sequence[int]:
        """Return the rows of packs: the last takes any prompt, and several where there are slots for them."""
        longest = max(len(row.ids) for row in rows) - len(self.opening) + 1
        top = max(longest, min(longest * min(self.settings["batch_size"], len(rows)), _PACKS[-1]))
        return (*(size for size in _PACKS if size < top), -(-top // _PACKS[0]) * _PACKS[0])
