"""A key-value cache for decoding that takes its memory once and can drop rows.

transformers' DynamicCache copies all keys and values whenever a token is added: on a CPU, with a small model, that is
most of a step.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one attention layer, [B, heads, tokens, head width], at the front of a larger memory.

    Args:
        room: For how many tokens there is memory.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self._memory: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add the keys and values of further tokens; return those of all tokens so far."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        new = (key_states, value_states)
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self._memory = [side.new_empty(*side.shape[:2], self.room, side.shape[3]) for side in new]
        for memory, side in zip(self._memory, new, strict=True):
            memory[:, :, start:end] = side
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Sequence[int] | Tensor) -> None:
        """Keep these rows alone, in this order; only those that change their place are copied."""
        tokens, rows = self.get_seq_length(), torch.as_tensor(indices).tolist()
        moved = [place for place, row in enumerate(rows) if row != place]
        origins = [rows[place] for place in moved]
        for memory in self._memory if moved else ():
            memory[moved, :, :tokens] = memory[origins, :, :tokens]
        self._memory = [memory[: len(rows)] for memory in self._memory]
        self._show(tokens)

    def _show(self, tokens: int) -> None:
        self.keys, self.values = (memory[:, :, :tokens] for memory in self._memory)


def roomy_cache(opening: Cache | None, room: int) -> Cache:
    """Make a cache for a batch.

    Args:
        opening: Keys and values of tokens already read, of as many rows, copied to the front; or None.
        room: For how many tokens there is memory, the opening included.
    """
    cache = Cache(layer_class_to_replicate=partial(RoomyLayer, room))
    for index, layer in enumerate(opening.layers if opening is not None else ()):
        cache.update(layer.keys, layer.values, index)
    return cache
