"""Token-by-token decoding of a padded batch, each row as if it were alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xrec_repro.explainer.batching import Batch
from xrec_repro.explainer.injection import Injector
from xrec_repro.seeding import torch_generator


@dataclass
class Decoded:
    """What was generated for one prompt.

    Attributes:
        ids: New token ids, the one that stopped it included.
        finish_reason: ``bracket`` (a token with "[" came), ``eos`` or ``length``.
    """

    ids: list[int]
    finish_reason: str


class Sampler:
    """Chooses the next token of each row.

    Sampling draws one uniform number a row and step from a generator of that row's own, so that a text depends
    neither on the batch it is in nor on the shard. Temperature, then top-k, then top-p, as transformers orders them.

    Args:
        settings: Section ``generation``.
        seed: The run's seed.
        keys: A name for each row, e.g. its example id.
    """

    def __init__(self, settings: dict[str, Any], seed: int, keys: Sequence[str]) -> None:
        self.settings = settings
        self.generators = [torch_generator(seed, "sampling", key) for key in keys]

    def choose(self, logits: Tensor) -> Tensor:
        """Return one token id a row, [B], for logits [B, V]."""
        if self.settings["decoding"] == "greedy":
            return logits.argmax(dim=-1)
        probabilities, tokens = nucleus(
            logits.double(), self.settings["temperature"], self.settings["top_k"], self.settings["top_p"]
        )
        draws = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in self.generators])
        cumulative = probabilities.cumsum(dim=-1)
        picked = (cumulative < draws.to(logits.device) * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        return tokens.gather(1, picked).squeeze(1)


def nucleus(logits: Tensor, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Filter next-token distributions by temperature, top-k and top-p.

    Args:
        logits: [B, V].
        temperature: Divides the logits.
        top_k: Keep this many; 0 keeps all.
        top_p: Keep the smallest set of likeliest tokens whose probability reaches this.

    Returns:
        Probabilities in falling order, zero where filtered (not renormalised), and the token ids they belong to.
    """
    logits, tokens = (logits / temperature).sort(dim=-1, descending=True, stable=True)
    if top_k:
        logits, tokens = logits[:, :top_k], tokens[:, :top_k]
    probabilities = logits.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    return probabilities.masked_fill(before >= top_p, 0.0), tokens


@torch.no_grad()
def decode(
    model: Any,
    injector: Injector,
    adapted: Tensor,
    batch: Batch,
    sampler: Sampler,
    max_new_tokens: int,
    stops: dict[int, str],
) -> list[Decoded]:
    """Generate for a batch of prompts until every row has stopped.

    Args:
        model: The causal language model.
        injector: Its hooks; they act in the prefill.
        adapted: Adapted embeddings, [B, 2, hidden].
        batch: The padded prompts.
        sampler: Chooses tokens.
        max_new_tokens: Upper limit a row.
        stops: Token id -> finish reason.
    """
    rows: list[list[int]] = [[] for _ in batch.ids]
    reasons: list[str | None] = [None] * len(rows)
    mask, position_ids, tokens = batch.mask, batch.position_ids, batch.ids
    cache = None
    with injector.prompt(adapted, batch.positions, batch.ids.shape[1]):
        for _ in range(max_new_tokens):
            output = model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            chosen = sampler.choose(output.logits[:, -1].float())
            for row, token in enumerate(chosen.tolist()):
                if reasons[row] is None:
                    rows[row].append(token)
                    reasons[row] = stops.get(token)
            if None not in reasons:
                break
            tokens = chosen.unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            position_ids = position_ids[:, -1:] + 1
    return [Decoded(ids, reason or "length") for ids, reason in zip(rows, reasons, strict=True)]


def stop_tokens(tokenizer: Any, at_bracket: bool) -> dict[int, str]:
    """Find the tokens that end a text.

    The original code cuts the text at its first "[": stopping at any token that holds one gives the same text.

    Args:
        tokenizer: The language model's.
        at_bracket: Whether "[" ends the text, as the template ``code`` has it.
    """
    stops = {}
    if at_bracket:
        vocabulary = tokenizer.get_vocab()
        stops = {index: "bracket" for piece, index in vocabulary.items() if "[" in piece}
    if tokenizer.eos_token_id is not None:
        stops[tokenizer.eos_token_id] = "eos"
    return stops
