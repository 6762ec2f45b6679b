"""Token-by-token decoding of a padded batch, each row as if it were alone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache

from xrec_repro.end_tokens import end_ids
from xrec_repro.explainer.batching import Batch, attention_mask
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.kv_cache import roomy_cache
from xrec_repro.seeding import torch_generator

_DRAWN_AHEAD = 64
_LEAVE_AT = 7 / 8


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
        self._steps = 0
        self._ahead = torch.empty(0)

    def choose(self, logits: Tensor) -> Tensor:
        """Return one token id a row, [B], for logits [B, V]."""
        sampled = self.settings["decoding"] == "sampled"
        return chosen_tokens(logits, self._draw(logits.device) if sampled else None, self.settings)

    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but these, which go on with their own draws, in this order."""
        self.generators = [self.generators[place] for place in places]
        self._ahead = self._ahead[places] if len(self._ahead) else self._ahead

    def _draw(self, device: torch.device) -> Tensor:
        # In blocks: a call of the generator costs more than its numbers, and these are the same either way.
        step = self._steps % _DRAWN_AHEAD
        if step == 0:
            blocks = [drawn(g, _DRAWN_AHEAD) for g in self.generators]
            self._ahead = torch.stack(blocks).to(device)
        self._steps += 1
        return self._ahead[:, step]


def drawn(generator: torch.Generator, count: int) -> Tensor:
    """Return the next uniform numbers of a text's generator, in float64: the same however many are drawn at once."""
    return torch.rand(count, generator=generator, dtype=torch.float64)


def chosen_tokens(logits: Tensor, draws: Tensor | None, settings: dict[str, Any]) -> Tensor:
    """Choose one token a row.

    Args:
        logits: [B, V].
        draws: A uniform number a row, [B], of float64; greedy decoding reads none.
        settings: Section ``generation``.

    Returns:
        Token ids, [B].
    """
    if settings["decoding"] == "greedy":
        return logits.argmax(dim=-1)
    probabilities, tokens = nucleus(logits, settings["temperature"], settings["top_k"], settings["top_p"])
    cumulative = _running_sum(probabilities)
    picked = (cumulative < draws.unsqueeze(1) * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
    return tokens.gather(1, picked).squeeze(1)


def nucleus(logits: Tensor, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Filter next-token distributions by temperature, top-k and top-p.

    Args:
        logits: [B, V]; of equal ones the smaller token id comes first.
        temperature: Divides the logits.
        top_k: Keep this many; 0 keeps all.
        top_p: Keep the smallest set of likeliest tokens whose probability reaches this.

    Returns:
        Probabilities (float64) in falling order, zero where filtered (not renormalised), and the token ids they
        belong to.
    """
    if not 0 < top_k < logits.shape[-1]:
        logits, tokens = logits.sort(dim=-1, descending=True, stable=True)
    elif logits.is_cuda:
        logits, tokens = _largest_by_key(logits, top_k)
    else:
        logits, tokens = _largest(logits, top_k)
    probabilities = (logits.double() / temperature).softmax(dim=-1)
    before = _running_sum(probabilities) - probabilities
    return probabilities.masked_fill(before >= top_p, 0.0), tokens


def _largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return what a stable sort in falling order begins with; sorting whole vocabularies takes longer than a step."""
    values, tokens = logits.topk(count + 1, dim=-1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=-1)  # topk promises nothing about the order of equals
    if tied.any():
        ordered = logits[tied].sort(dim=-1, descending=True, stable=True)
        values[tied], tokens[tied] = (side[:, : count + 1] for side in ordered)
    return values[:, :count], tokens[:, :count]


def _largest_by_key(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the same without asking whether any are equal, which a GPU would have to be waited for.

    Keys are the bits of the logits, ordered as these are, then the falling token id: no two are equal.
    """
    bits = (logits + 0.0).view(torch.int32).long()  # no zero is negative
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    places = torch.arange(logits.shape[-1] - 1, -1, -1, device=logits.device)
    tokens = logits.shape[-1] - 1 - ((ordered << 32) | places).topk(count, dim=-1).values.bitwise_and(0xFFFFFFFF)
    return logits.gather(1, tokens), tokens


def _running_sum(values: Tensor) -> Tensor:
    """Add up along rows: on a GPU in an order that does not depend on how many rows there are, as its own does."""
    if not values.is_cuda:
        return values.cumsum(dim=-1)
    shift = 1
    while shift < values.shape[-1]:
        values = values + F.pad(values[:, :-shift], (shift, 0))
        shift *= 2
    return values


class _Reader:
    """The language model reading on: the padded prompts first, then one token a row and step."""

    def __init__(self, model: Any, batch: Batch, opening: Cache | None, new_tokens: int) -> None:
        self.model = model
        self.length = opening.get_seq_length() if opening is not None else 0
        self.position_ids = batch.position_ids + self.length
        # Ones for the opening and, in advance, for all tokens to come.
        self.mask = F.pad(F.pad(batch.mask, (self.length, 0), value=1), (0, new_tokens), value=1)
        self.padded = not self.mask.all()  # asked once: every step would wait for a GPU's answer
        self.cache = roomy_cache(opening, self.mask.shape[1])

    def read(self, tokens: Tensor) -> Tensor:
        """Read further tokens, [B, T]; return the logits after the last one, [B, V]."""
        self.length += tokens.shape[1]
        logits = self.model(
            input_ids=tokens,
            attention_mask=attention_mask(self.model, self.mask[:, : self.length], tokens.shape[1], self.padded),
            position_ids=self.position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self.position_ids = self.position_ids[:, -1:] + 1
        return logits[:, -1].float()

    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but these, which stand in this order from now on."""
        self.cache.batch_select_indices(places)
        self.mask, self.position_ids = self.mask[places], self.position_ids[places]
        self.padded = not self.mask.all()


@torch.no_grad()
def decode(
    model: Any,
    injector: Injector,
    adapted: Tensor,
    batch: Batch,
    sampler: Sampler,
    max_new_tokens: int,
    stops: dict[int, str],
    opening: Cache | None = None,
) -> list[Decoded]:
    """Generate for a batch of prompts until every row has stopped.

    Rows that have stopped leave the batch as soon as they are an eighth of it.

    Args:
        model: The causal language model.
        injector: Its hooks; they act in the prefill.
        adapted: Adapted embeddings, [B, 2, hidden].
        batch: The padded prompts, without what `opening` holds.
        sampler: Chooses tokens; it goes on with the rows that leave last.
        max_new_tokens: Upper limit a row.
        stops: Token id -> finish reason.
        opening: Keys and values, of B rows, of the tokens that all prompts begin with (`Explainer.read`).
    """
    results = [Decoded([], "length") for _ in batch.ids]
    reader = _Reader(model, batch, opening, max_new_tokens)
    with injector.prompt(adapted, batch.positions, batch.ids.shape[1]):
        logits = reader.read(batch.ids)
    live = dict(enumerate(results))  # place in the model's batch -> a result that has not stopped
    size = len(results)
    for step in range(max_new_tokens):
        chosen = sampler.choose(logits)
        tokens = chosen.tolist()
        for place, result in list(live.items()):
            result.ids.append(tokens[place])
            if tokens[place] in stops:
                result.finish_reason = stops[tokens[place]]
                del live[place]
        if not live or step + 1 == max_new_tokens:
            break
        if len(live) <= size * _LEAVE_AT:
            places = _closed_up(live)
            chosen = chosen[places]
            reader.keep(places)
            sampler.keep(places)
            live, size = {new: live[old] for new, old in enumerate(places)}, len(places)
        logits = reader.read(chosen.unsqueeze(1))
    return results


def _closed_up(live: Collection[int]) -> list[int]:
    """Fill the gaps between live places with the last of them: few rows have to be moved."""
    last = iter([place for place in live if place >= len(live)])
    return [place if place in live else next(last) for place in range(len(live))]


def stop_tokens(tokenizer: Any, at_bracket: bool, eos: int | Sequence[int] | None = None) -> dict[int, str]:
    """Find the tokens that end a text.

    The original code cuts the text at its first "[": stopping at any token that holds one gives the same text.

    Args:
        tokenizer: The language model's.
        at_bracket: Whether "[" ends the text, as the template ``code`` has it.
        eos: The end tokens of the model's generation configuration, which may be several.
    """
    stops = {}
    if at_bracket:
        vocabulary = tokenizer.get_vocab()
        stops = {index: "bracket" for piece, index in vocabulary.items() if "[" in piece}
    return stops | dict.fromkeys(end_ids(eos, tokenizer.eos_token_id), "eos")
