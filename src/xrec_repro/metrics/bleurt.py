"""BLEURT (Sellam, Das and Parikh, 2020): a regression on pairs of texts, by the package bleurt-pytorch.

XRec's authors score with the checkpoint that the BLEURT repository ships for its tests (XRec issue 11): BLEURT-Tiny,
2 layers, 512 tokens, which that repository recommends against. On the hub it is lucadiliello/bleurt-tiny-512, and the
published numbers are of it; lucadiliello/BLEURT-20-D12 is the sound one to report beside it. Checkpoints that were
ported to plain BERT (such as Elron/bleurt-tiny-512) are of another architecture and are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from xrec_repro.identity import versions
from xrec_repro.lm.load import load_pretrained, local_folder, require_revision, shown_model
from xrec_repro.metrics._batches import count_empty, score_pairs, warn_of
from xrec_repro.metrics._models import load_network, torch_device, torch_dtype
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Column
from xrec_repro.special_tokens import special_tokens, speller

LIBRARIES = ("bleurt-pytorch", "transformers")
_KEY = "metrics.bleurt"
_UNREADABLE = ("unreadable_references", "unreadable_predictions")  # of unknown tokens alone


@dataclass(frozen=True, kw_only=True)
class Bleurt(Metric):
    """The rating that BLEURT gives a prediction in the light of its reference (`bleurt`), without bounds.

    The model reads ``[CLS] reference [SEP] prediction [SEP]``. A pair of more than `max_length` tokens loses the last
    ones of its longer text, as in BLEURT's own code; such pairs are counted, and so are texts that are empty or all
    unknown tokens, which are scored like any other. In float32, values depend on neither the batch size nor the order
    of the rows.

    Attributes:
        model: A folder or hub repository of a checkpoint for bleurt-pytorch.
        revision: The 40-digit commit of the hub repository; None for a folder.
        max_length: Tokens of a pair, three special ones included.
        dtype: ``float32`` | ``float16`` | ``bfloat16``.
        batch_size: Pairs at once.
    """

    name: ClassVar[str] = "bleurt"
    columns: ClassVar[Mapping[str, Column]] = {"bleurt": Column("BLEURT")}
    files: ClassVar[tuple[str, ...]] = ("model",)

    model: str
    revision: str | None
    max_length: int
    dtype: str
    batch_size: int

    def __post_init__(self) -> None:
        require_revision(self.model, self.revision, self._folder, _KEY)
        torch_dtype(self.dtype, _KEY)

    def facts(self) -> dict[str, Any]:
        """Return the model's digest and the versions of bleurt-pytorch and transformers."""
        return {
            "model": shown_model(self.model, None, self._folder),
            **versions(*LIBRARIES),
        }

    @cached_property
    def _folder(self) -> Path | None:
        return local_folder(self.model, _KEY)

    @cached_property
    def _network(self) -> nn.Module:
        from bleurt_pytorch import BleurtForSequenceClassification

        network = load_network(
            BleurtForSequenceClassification,
            self._folder or self.model,
            self.revision,
            _KEY,
            self.max_length,
            dtype=torch_dtype(self.dtype, _KEY),
        )
        layers = network.bleurt.encoder.layer
        layers[-1] = _FirstToken(layers[-1])
        return network.to(torch_device(self.device))

    @cached_property
    def _tokenizer(self) -> Any:
        from bleurt_pytorch import BleurtTokenizer

        return load_pretrained(BleurtTokenizer, self._folder or self.model, self.revision, _KEY)

    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        found = score_pairs(references, predictions, self.batch_size, self.name, self._score)
        empty = count_empty(predictions, references)
        cut, *unknown = (int(number) for number in found[:, 1:].sum(axis=0))
        cut, unread = {"truncated_pairs": cut}, dict(zip(_UNREADABLE, unknown, strict=True))
        warn_of(empty, self.name, "scored as they are")
        warn_of(cut, self.name, f"cut to {self.max_length} tokens")
        warn_of(unread, self.name, "scored by unknown tokens alone: any two of them may be equal to it")
        return {"bleurt": found[:, 0]}, empty | cut | unread

    @torch.inference_mode()
    def _score(self, references: list[str], predictions: list[str]) -> np.ndarray:
        """Return score, whether the pair was cut, and whether each of the two is unreadable, shape ``(pairs, 4)``."""
        network, tokenizer = self._network, self._tokenizer  # the model first: its errors say more
        spell = speller(special_tokens(tokenizer))
        sides = [
            tokenizer([spell(text) for text in texts], add_special_tokens=False, verbose=False)["input_ids"]
            for texts in (references, predictions)
        ]
        room = self.max_length - tokenizer.num_special_tokens_to_add(pair=True)
        pairs = [_fit(*pair, room) for pair in zip(*sides, strict=True)]
        ids = [torch.tensor(tokenizer.build_inputs_with_special_tokens(*pair)) for pair in pairs]
        segments = [torch.tensor(tokenizer.create_token_type_ids_from_sequences(*pair)) for pair in pairs]
        masks = [torch.ones_like(row) for row in ids]
        inputs = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
            "token_type_ids": pad_sequence(segments, batch_first=True),
            "attention_mask": pad_sequence(masks, batch_first=True),
        }
        logits = network(**{name: rows.to(network.device) for name, rows in inputs.items()}).logits
        cut = [len(left) + len(right) > room for left, right in zip(*sides, strict=True)]
        unread = [[bool(ids) and set(ids) == {tokenizer.unk_token_id} for ids in side] for side in sides]
        return np.column_stack([logits[:, 0].double().cpu().numpy(), cut, *unread])


class _FirstToken(nn.Module):
    """The last layer, computed at the first token alone: no other output of it reaches the score."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: Tensor, mask: Tensor, *_: Any) -> tuple[Tensor]:
        heads, first = self.layer.attention.self, states[:, :1]
        query, key, value = (
            heads.transpose_for_scores(project(given))
            for project, given in ((heads.query, first), (heads.key, states), (heads.value, states))
        )
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = self.layer.attention.output(seen.transpose(1, 2).flatten(2), first)
        return (self.layer.feed_forward_chunk(attended),)


def _fit(reference: list[int], prediction: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut a pair to `room` tokens as BLEURT does: one by one from the longer text, of equal ones from the prediction.

    The fast tokenizers of transformers settle ties the other way, which changes scores.
    """
    kept = min(len(reference), max(room - len(prediction), (room + 1) // 2))
    return reference[:kept], prediction[: room - kept]


METRIC = Bleurt
