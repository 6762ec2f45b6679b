"""Explanations by PEPLER: the prompt is read once, and then a token a step, by XRec's decoders."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from xrec_repro.errors import ModelError
from xrec_repro.examples import Example
from xrec_repro.explainer.batching import Batch as Padded
from xrec_repro.explainer.decoding import Decoded, Sampler, decode
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.prompts import Encoded
from xrec_repro.lm.slots import SlotDecoder, in_slots
from xrec_repro.methods.base import Fitted, Written
from xrec_repro.methods.pepler import Pepler
from xrec_repro.methods.pepler_model import (
    Features,
    Prompted,
    Words,
    check_indices,
    check_room,
    first_vectors,
    load_language_model,
    rating_head,
)


@torch.no_grad()
def explain(
    module: Prompted,
    prompt: Tensor,
    bos: int,
    sampler: Sampler,
    max_new_tokens: int,
    stops: dict[int, str],
) -> list[Decoded]:
    """Decode texts behind prompts, all of one length: nothing is padded, and no row sees another.

    Args:
        module: In evaluation mode.
        prompt: Vectors of continuous prompts, [B, 2, width], or ids of discrete ones, [B, P].
        bos: The token that begins a text.
        sampler: Chooses tokens, for as many rows.
        max_new_tokens: Upper limit of a text.
        stops: Token id -> finish reason.
    """
    cache: Cache = DynamicCache()
    given = {"inputs_embeds": prompt} if prompt.is_floating_point() else {"input_ids": prompt}
    module.lm(**given, past_key_values=cache, use_cache=True, logits_to_keep=1)
    ids = torch.full((len(prompt), 1), bos, device=prompt.device)
    begin = Padded(ids, torch.ones_like(ids), torch.zeros_like(ids), None, ids[:, :0])
    injector = Injector(module.lm, "none")
    try:
        nothing = torch.zeros(len(prompt), 0, module.lm.get_input_embeddings().embedding_dim, device=prompt.device)
        return decode(module.lm, injector, nothing, begin, sampler, max_new_tokens, stops, cache)
    finally:
        injector.remove()


class Writing(Pepler):
    """PEPLER as it writes; to slots it is a `xrec_repro.lm.slots.Explaining`."""

    def load(self, fitted: Fitted | None) -> None:
        """Put the model together.

        Raises:
            ModelError: It was trained with another language model, or the context has no room for a text.
        """
        settings, run = self.settings, self.run
        llm = load_language_model(settings, run)
        if fitted.facts["llm"] != llm.identity:
            raise ModelError(f"PEPLER was trained with another language model than {llm.name}; train it again")
        self.words = Words(llm, settings, run.seed)
        tables = [fitted.tensors.get(name) for name in ("users", "items")]
        module = Prompted(llm.model, *tables, rating_head(settings, llm.hidden, run.seed)).to(run.device)
        _take(module, fitted.tensors)
        self.module, self.llm, self.injector = module.eval(), llm, Injector(llm.model, "none")
        self.known = {kind: set(indices) for kind, indices in fitted.facts["known"].items()}
        rows = {kind: torch.tensor(indices, device=run.device) for kind, indices in fitted.facts["known"].items()}
        named = {"user": module.users, "item": module.items}
        self.means = {kind: table[rows[kind]].mean(dim=0) for kind, table in named.items() if table is not None}
        features = fitted.facts["features"]
        self.features = Features(*features, settings.shared) if features else None
        self._before = settings.prompt_words if features else 2
        new = run.sections["generation"]["max_new_tokens"]
        check_room(self._before + 1 + new, f"a prompt with {new} new tokens", "generation.max_new_tokens", llm)

    @torch.no_grad()
    def write(self, batch: Sequence[Example]) -> list[Written]:
        """Explain a batch; no text depends on the others."""
        check_indices(batch)
        if decoder := self._slots(batch):
            found = dict(decoder.decode(batch))
            return [self._written(example, found[example]) for example in batch]
        generation = self.run.sections["generation"]
        sampler = Sampler(generation, self.run.seed, [example.example_id for example in batch])
        new_tokens = generation["max_new_tokens"]
        found = explain(self.module, self._prompts(batch), self.words.bos, sampler, new_tokens, self._stops)
        return [self._written(*one) for one in zip(batch, found, strict=True)]

    @torch.no_grad()
    def stream(
        self, batches: Sequence[Sequence[Example]], done: Collection[str] = ()
    ) -> Iterator[list[tuple[Example, Written]]]:
        """Explain all batches, in slots where batches cannot keep their texts apart (`xrec_repro.lm.slots`)."""
        waiting = [example for batch in batches for example in batch if example.example_id not in done]
        check_indices(waiting)
        if decoder := self._slots(waiting):
            for some in decoder.groups(waiting):
                yield [(example, self._written(example, result)) for example, result in some]
        else:
            yield from super().stream(batches)

    def adapt(self, examples: Sequence[Example]) -> Tensor:
        """Return the vectors of users and items, [B, 2, width]; [B, 0, width] where prompts are words."""
        if self.features:
            return torch.zeros(len(examples), 0, self.llm.hidden, device=self.llm.device)
        return self._prompts(examples)

    def _slots(self, examples: Sequence[Example]) -> SlotDecoder | None:
        """Return what decodes examples in slots, if slots do."""
        generation = self.run.sections["generation"]
        encoded = {example.example_id: self._encoded(example) for example in examples}
        if not encoded or not in_slots(self, generation, list(encoded.values())):
            return None
        return SlotDecoder(self, generation, self.run.seed, encoded, self._stops)

    def _encoded(self, example: Example) -> Encoded:
        """Return a prompt with the token that begins a text; the tokens of user and item say nothing themselves."""
        if self.features:
            return Encoded([*self.words.prompt(self.features.prompt(example)), self.words.bos], [], ())
        return Encoded([self.words.bos] * 3, [], (0, 1))

    @property
    def _stops(self) -> dict[int, str]:
        return {self.words.eos: "eos"}

    def _written(self, example: Example, result: Decoded) -> Written:
        rating = None
        if self.module.rating is not None:  # each alone, as products may round by their height
            rating = self.module.ratings(self._prompts([example])).item()
        text = self.words.written(result.ids)
        return Written(text, self._before + 1, len(result.ids), result.finish_reason, rating)

    def _prompts(self, batch: Sequence[Example]) -> Tensor:
        device = self.module.lm.device
        if self.features:
            return torch.tensor([self.words.prompt(self.features.prompt(e)) for e in batch], device=device)
        sides = [[self._vector(kind, getattr(e, kind)) for e in batch] for kind in ("user", "item")]
        return torch.stack([torch.stack(side) for side in sides], dim=1)

    def _vector(self, kind: str, index: int) -> Tensor:
        """Return the vector of a user or an item; of one that training did not see, the mean or that of its start."""
        if index in self.known[kind]:
            return (self.module.users if kind == "user" else self.module.items)[index]
        if self.settings.unseen == "mean":
            return self.means[kind]
        return first_vectors(kind, [index], self.llm.hidden, self.run.seed)[0].to(self.means[kind])

    def report(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return of how many examples training saw no text of the user, or of the item."""
        return {
            f"unseen_{kind}s": sum(getattr(e, kind) not in seen for e in examples) for kind, seen in self.known.items()
        }


def _take(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[name])


WRITE = Writing
