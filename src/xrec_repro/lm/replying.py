"""Replies of a chat model in slots, where batches would not keep them apart: on a GPU, and in 16 bits on a CPU."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xrec_repro.errors import ModelError
from xrec_repro.examples import Example
from xrec_repro.explainer.decoding import Decoded
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import LanguageModel
from xrec_repro.explainer.prompts import Encoded
from xrec_repro.lm.reading import unfit
from xrec_repro.lm.slots import SlotDecoder

log = logging.getLogger("xrec_repro")


class Replying:
    """A chat model that replies to prompts of words alone; to slots it is a `xrec_repro.lm.slots.Explaining`.

    Args:
        model: In evaluation mode, on its device.
        settings: As section ``generation``, without ``invariance``; ``batch_size`` is the number of slots.
        seed: Of sampling.
        stops: Token id -> finish reason.

    Attributes:
        fit: Whether slots are needed and can read the model, with any prompt that its context has room for.
    """

    def __init__(self, model: Any, settings: dict[str, Any], seed: int, stops: dict[int, str]) -> None:
        self.llm, self.injector = LanguageModel(model, None, ""), Injector(model, "none")
        self._settings, self._seed, self._stops = settings, seed, stops
        exact = self.llm.device.type == "cpu" and model.dtype == torch.float32
        self.fit = not exact and unfit(self.llm, getattr(model.config, "max_position_embeddings", 0)) is None
        self._decoder: SlotDecoder | None = None
        self._room = (0, 0)  # slots, and tokens of the longest prompt

    def adapt(self, examples: Sequence[Any]) -> Tensor:
        """Return that nothing is injected, [B, 0, hidden]."""
        return torch.zeros(len(examples), 0, self.llm.hidden, device=self.llm.device)

    def in_slots(self, prompts: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Decoded]] | None:
        """Reply in slots, each reply as if it were alone; None where the caller is to reply in batches.

        Args:
            prompts: Name of the stream of sampling -> token ids.

        Returns:
            Names and replies, in any order.
        """
        rows = {name: Encoded(list(ids), [], ()) for name, ids in prompts.items()}
        if not rows or not self.fit or not self._make_room(rows):
            return None
        self._decoder.encoded = rows
        asked = [Example(name, 0, 0, "", "", "", None, None, "", "") for name in rows]
        return ((example.example_id, reply) for example, reply in self._decoder.decode(asked))

    def _make_room(self, rows: dict[str, Encoded]) -> bool:
        """Keep the decoder, which a GPU takes seconds to make, unless these need more; return whether there is one."""
        need = min(self._settings["batch_size"], len(rows)), max(len(row.ids) for row in rows.values())
        room = tuple(map(max, need, self._room))
        if room != self._room:
            self._decoder = None  # first of all its memory is given back
            largest = {str(n): Encoded([0] * room[1], [], ()) for n in range(room[0])}
            try:
                self._decoder = SlotDecoder(self, self._settings, self._seed, largest, self._stops)
            except ModelError:
                log.warning("products round by their tiles on this device: replies may depend on their batch")
                self.fit = False
            self._room = room
        return self.fit
