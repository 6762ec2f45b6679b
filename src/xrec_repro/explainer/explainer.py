"""The explainer: a frozen language model, the adapters that feed it, and what they read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor
from transformers import DynamicCache

from xrec_repro.errors import DataError
from xrec_repro.examples import Example
from xrec_repro.explainer.adapter import AdapterPair
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import LanguageModel
from xrec_repro.explainer.prompts import Encoded, PromptEncoder


@dataclass
class Explainer:
    """All parts that turn an example into logits.

    Attributes:
        llm: The frozen language model.
        adapters: User and item adapter; None where prompts have no records ("w/o embeddings").
        injector: The hooks on the language model.
        encoder: Prompts to token ids.
        user_embeddings: The recommender's, [users, inputs]; None without adapters.
        item_embeddings: Likewise, [items, inputs].
    """

    llm: LanguageModel
    adapters: AdapterPair | None
    injector: Injector
    encoder: PromptEncoder
    user_embeddings: Tensor | None
    item_embeddings: Tensor | None
    _openings: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = field(default_factory=dict, repr=False)

    @torch.no_grad()
    def read(self, opening: tuple[int, ...], rows: int) -> DynamicCache | None:
        """Return the keys and values of what all prompts begin with, for so many rows; None for no tokens."""
        if not opening:
            return None
        cache = DynamicCache()
        for index, sides in enumerate(self.keys_and_values(opening)):
            cache.update(*(side.expand(rows, -1, -1, -1) for side in sides), index)
        return cache

    @torch.no_grad()
    def keys_and_values(self, opening: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Return those of what all prompts begin with, [1, heads, T, width] in each layer; read at the first call."""
        if opening and opening not in self._openings:
            ids = torch.tensor([opening], device=self.llm.device)
            layers = self.llm.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values.layers
            self._openings[opening] = [(layer.keys, layer.values) for layer in layers]
        return self._openings[opening] if opening else []

    def adapt(self, examples: Sequence[Example]) -> Tensor:
        """Return the adapted embeddings of a batch, [B, 2, hidden]; [B, 0, hidden] without adapters.

        Raises:
            DataError: An example's user or item has no embedding.
        """
        if self.adapters is None:
            return torch.zeros(len(examples), 0, self.llm.hidden, device=self.llm.device)
        for example in examples:
            for kind, table in (("user", self.user_embeddings), ("item", self.item_embeddings)):
                index = getattr(example, kind)
                if not 0 <= index < len(table):
                    raise DataError(
                        f"example {example.example_id}: {kind} {index} is out of range, the recommender knows "
                        f"{len(table)} {kind}s; train it on the same split"
                    )
        device = self.llm.device
        users = self.user_embeddings[[e.user for e in examples]].to(device)
        items = self.item_embeddings[[e.item for e in examples]].to(device)
        return self.adapters(users, items)

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return self.llm.tokenizer.pad_token_id


def shared_opening(encoded: Sequence[Encoded]) -> tuple[int, ...]:
    """Return the tokens that all prompts begin with, before their first reserved token; none without records."""
    if not all(row.positions for row in encoded):
        return ()
    longest = min(row.positions[0] for row in encoded)
    columns = zip(*(row.ids[:longest] for row in encoded), strict=True)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
