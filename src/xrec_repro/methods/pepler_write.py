"""Explanations by PEPLER: the prompt is read once, and then a token a step, by the one decoder of all methods."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from xrec_repro.errors import ModelError
from xrec_repro.examples import Example
from xrec_repro.explainer.batching import Batch as Padded
from xrec_repro.explainer.decoding import Decoded, Sampler, decode
from xrec_repro.explainer.injection import Injector
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
    """PEPLER as it writes."""

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
        self.module, self.width = module.eval(), llm.hidden
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
        generation, module = self.run.sections["generation"], self.module
        sampler = Sampler(generation, self.run.seed, [example.example_id for example in batch])
        prompt, stops = self._prompts(batch), {self.words.eos: "eos"}
        found = explain(module, prompt, self.words.bos, sampler, generation["max_new_tokens"], stops)
        ratings = [None] * len(batch)
        if module.rating is not None:  # each alone, as products may round by their height
            ratings = [module.ratings(one).item() for one in prompt.split(1)]
        read = self._before + 1
        return [
            Written(self.words.written(one.ids), read, len(one.ids), one.finish_reason, rating)
            for one, rating in zip(found, ratings, strict=True)
        ]

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
        return first_vectors(kind, [index], self.width, self.run.seed)[0].to(self.means[kind])

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
