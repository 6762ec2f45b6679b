"""PEPLER's parts: the tokens of texts, the vectors of users and items, the rating, and the language model under them.

Facts of the authors' code: github.com/lileipisces/PEPLER at commit 5a2ca7f.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.examples import Example
from xrec_repro.explainer.llm import LanguageModel, load_llm
from xrec_repro.methods.base import Run
from xrec_repro.methods.pepler import PeplerSettings
from xrec_repro.seeding import torch_generator
from xrec_repro.special_tokens import special_tokens, speller

_ADDED = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
_REACH = 0.1  # all vectors of users and items, and the rating's weights, start uniform in +-0.1


def load_language_model(settings: PeplerSettings, run: Run) -> LanguageModel:
    """Load the language model in float32, as all of it is trained: the method's own, or that of the section ``llm``.

    Raises:
        ConfigError: The weights are to be quantised.
        ModelError: It is not there.
    """
    llm, folder = run.sections["llm"] | {"dtype": "float32"}, run.inputs.get("llm")
    if settings.repo is not None:
        llm |= {"source": "hub", "repo": settings.repo, "revision": settings.revision, "quantisation": "none"}
    elif settings.model is not None:
        llm, folder = llm | {"source": "local", "quantisation": "none"}, run.inputs["model"]
    if llm["quantisation"] != "none":
        raise ConfigError(
            "llm.quantisation: PEPLER trains the weights of its language model, which must not be quantised; set it to "
            "none, or give the method a model of its own (repo and revision, or model)"
        )
    return load_llm(llm, folder, run.device)


class Words:
    """The tokens of texts and prompts; a text that spells a special token stays text.

    Args:
        llm: Its tokenizer, and the word vectors of its model, get the three tokens of ``added``: rows from N(0, σ²), σ
            the model's own (GPT-2: 0.02), as transformers drew them in the authors' time.
        settings: Of the method.
        seed: Of the run.

    Raises:
        ModelError: ``own`` tokens that the tokenizer does not have.
    """

    def __init__(self, llm: LanguageModel, settings: PeplerSettings, seed: int) -> None:
        self.tokenizer, self.settings = llm.tokenizer, settings
        if settings.tokens == "added":
            self.tokenizer.add_special_tokens(dict(_ADDED))
            _add_rows(llm.model, len(self.tokenizer), seed)
        self.eos = self.tokenizer.eos_token_id
        self.bos = self.eos if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
        self.pad = self.eos if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        if self.eos is None:
            raise ModelError(f"{llm.name}: its tokenizer has no end token; set the method's tokens to added")
        self._spell = speller(special_tokens(self.tokenizer))

    def text(self, text: str) -> list[int]:
        """Return a text's ids, its first `words` tokens between the tokens of beginning and end.

        With ``added``, the cut tokens are written out, their spacing cleaned up, and read again between two spaces, as
        the authors do: the second is a token of its own.
        """
        ids = self._read(text)[: self.settings.words]
        if self.settings.tokens == "added":
            ids = self._read(f" {self.tokenizer.decode(ids, clean_up_tokenization_spaces=True)} ")
        return [self.bos, *ids, self.eos]

    def prompt(self, features: Iterable[str]) -> list[int]:
        """Return the ids of a discrete prompt, cut or padded to `prompt_words`; pads are read like words."""
        width = self.settings.prompt_words
        return (self._read(" ".join(features)) + [self.pad] * width)[:width]

    def written(self, ids: Sequence[int]) -> str:
        """Return the text of ids, up to the first end token."""
        end = list(ids).index(self.eos) if self.eos in ids else len(ids)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    def _read(self, text: str) -> list[int]:
        return self.tokenizer(self._spell(text), add_special_tokens=False)["input_ids"]


def _add_rows(model: Any, size: int, seed: int) -> None:
    old = model.get_input_embeddings().num_embeddings
    if size <= old:  # the matrices have rows to spare
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    for name, layer in (("output", model.get_output_embeddings()), ("input", model.get_input_embeddings())):
        rows = torch.randn(size - old, layer.weight.shape[1], generator=torch_generator(seed, "pepler rows", name))
        with torch.no_grad():  # where both are one matrix, the input's rows rule
            layer.weight[old:] = (rows * model.config.initializer_range).to(layer.weight)


@dataclass
class Batch:
    """Texts with their prompts.

    Attributes:
        users: Rows of the user table, [B].
        items: Rows of the item table, [B].
        prompt: Ids of the discrete prompts, [B, P]; None where prompts are continuous.
        ids: Of the texts, [B, T], padded on the right.
        mask: 1 for tokens, 0 for pads, [B, T].
        ratings: In stars, [B]; None where none are learnt.
    """

    users: Tensor
    items: Tensor
    prompt: Tensor | None
    ids: Tensor
    mask: Tensor
    ratings: Tensor | None = None


class Prompted(nn.Module):
    """A language model behind a prompt.

    Args:
        lm: A causal language model of transformers.
        users: Vectors of the users, [users, width]; None where prompts are discrete.
        items: Vectors of the items, [items, width]; None likewise.
        rating: Makes a rating of both: ``mf``, or a perceptron on [B, 2 width]; None for no rating.
        rating_weight: Of its loss.
    """

    def __init__(
        self,
        lm: nn.Module,
        users: Tensor | None = None,
        items: Tensor | None = None,
        rating: nn.Module | str | None = None,
        rating_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.lm, self.rating, self.rating_weight = lm, rating, rating_weight
        self.users, self.items = (None if table is None else nn.Parameter(table.clone()) for table in (users, items))

    def prefix(self, batch: Batch) -> Tensor:
        """Return the vectors of the prompts: user and item, [B, 2, width], or those of the words, [B, P, width]."""
        if batch.prompt is not None:
            return self.lm.get_input_embeddings()(batch.prompt)
        return torch.stack([self.users[batch.users], self.items[batch.items]], dim=1)

    def logits(self, prefix: Tensor, ids: Tensor, mask: Tensor, keep: int = 0) -> Tensor:
        """Return the logits at the last `keep` places of prompt and text (0: at all), [B, keep, V].

        The places of a prompt are all seen, also the pads of a discrete one.
        """
        embeds = torch.cat([prefix, self.lm.get_input_embeddings()(ids)], dim=1)
        seen = F.pad(mask, (prefix.shape[1], 0), value=1)
        return self.lm(inputs_embeds=embeds, attention_mask=seen, use_cache=False, logits_to_keep=keep).logits

    def text_losses(self, batch: Batch, prefix: Tensor) -> Tensor:
        """Return the texts' shares of the loss, [B], whose mean is the mean over all tokens of the batch.

        The last place of the prompt must say the token that begins a text: it counts like a word.
        """
        logits = self.logits(prefix, batch.ids, batch.mask, batch.ids.shape[1] + 1)[:, :-1].float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch.ids.flatten(), reduction="none").view_as(batch.mask)
        losses = losses * batch.mask
        return losses.sum(dim=1) * (len(losses) / batch.mask.sum())

    def ratings(self, prefix: Tensor) -> Tensor:
        """Return the ratings that continuous prompts predict, [B]; they are not clamped."""
        users, items = prefix.unbind(dim=1)
        return (users * items).sum(dim=1) if self.rating == "mf" else self.rating(prefix.flatten(1)).squeeze(1)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the losses of texts and of ratings (squared errors, unweighted; zeros without), [B] each."""
        prefix = self.prefix(batch)
        text = self.text_losses(batch, prefix)
        if batch.ratings is None:
            return text, torch.zeros_like(text)
        return text, (self.ratings(prefix) - batch.ratings).square()

    def train_only(self, part: str) -> None:
        """Choose what takes a gradient: ``vectors`` of users and items (and the rating), ``words`` too, or ``all``."""
        self.requires_grad_(part == "all")
        chosen = [self.users, self.items, *(self.rating.parameters() if isinstance(self.rating, nn.Module) else ())]
        if part == "words":
            chosen += [self.lm.get_input_embeddings().weight, self.lm.get_output_embeddings().weight]
        for parameter in chosen if part != "all" else ():
            parameter.requires_grad_(True)


def rating_head(settings: PeplerSettings, width: int, seed: int) -> nn.Module | str | None:
    """Make what predicts ratings: 2 width -> hidden, twice hidden -> hidden, a sigmoid after each, -> 1."""
    if settings.rating != "mlp":
        return None if settings.rating == "none" else "mf"
    hidden, layers, generator = settings.rating_hidden, [], torch_generator(seed, "pepler rating")
    for inputs in (2 * width, hidden, hidden):
        layers += [nn.Linear(inputs, hidden), nn.Sigmoid()]
    head = nn.Sequential(*layers, nn.Linear(hidden, 1))
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -_REACH, _REACH, generator=generator)
            nn.init.zeros_(layer.bias)
    return head


def first_vectors(kind: str, indices: Iterable[int], width: int, seed: int) -> Tensor:
    """Draw the first vectors of users or items, [n, width], uniform in ±0.1, each from a stream of its own.

    One that no training saw keeps this vector in the authors' code: it is drawn anew when a text needs it.
    """
    rows = [torch.rand(width, generator=torch_generator(seed, "pepler", kind, index)) for index in indices]
    return (torch.stack(rows) if rows else torch.zeros(0, width)) * 2 * _REACH - _REACH


class Features:
    """The features of the train split that discrete prompts are made of.

    Args:
        users: Index -> features, in order of first appearance.
        items: Likewise.
        shared: How often a feature of both stands in a prompt, ``twice`` or ``once``.
    """

    def __init__(self, users: dict[str, list[str]], items: dict[str, list[str]], shared: str) -> None:
        self.users, self.items, self.shared = users, items, shared

    @classmethod
    def of(cls, train: Sequence[Example], shared: str) -> "Features":
        """Collect the features of train examples."""
        found: tuple[dict, dict] = {}, {}
        for example in train:
            for side, index in zip(found, (example.user, example.item), strict=True):
                side.setdefault(str(index), {})[example.feature] = None
        return cls(*({index: list(words) for index, words in side.items()} for side in found), shared)

    def prompt(self, example: Example) -> list[str]:
        """Return the shared ones, then the others of the user and of the item.

        In the authors' code the others are ``user | item - shared``, which Python reads as ``user | (item - shared)``:
        the shared ones come again among those of the user.
        """
        users, items = self.users.get(str(example.user), []), self.items.get(str(example.item), [])
        shared = [word for word in users if word in items]
        again = users if self.shared == "twice" else [word for word in users if word not in shared]
        return [*shared, *again, *(word for word in items if word not in shared)]


def collate(rows: Sequence[tuple[Any, ...]], pad: int, device: torch.device | str) -> Batch:
    """Make a batch of rows: user, item, prompt's ids or None, text's ids, rating or None."""
    users, items, prompts, texts, ratings = zip(*rows, strict=True)
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long()
    prompt = None if prompts[0] is None else torch.tensor(prompts).to(device)
    stars = None if ratings[0] is None else torch.tensor(ratings, dtype=torch.float32).to(device)
    users, items, ids, mask = (torch.as_tensor(value).to(device) for value in (users, items, ids, mask))
    return Batch(users, items, prompt, ids, mask, stars)


def check_indices(examples: Sequence[Example]) -> None:
    """Refuse examples without an index of user or item.

    Raises:
        DataError: There is one.
    """
    for example in examples:
        for kind in ("user", "item"):
            index = getattr(example, kind)
            if not isinstance(index, int) or index < 0:
                raise DataError(
                    f"example {example.example_id}: {kind} {index} is no index, and PEPLER knows users and items by "
                    "theirs; give examples of the data set's split"
                )


def check_room(tokens: int, what: str, key: str, llm: LanguageModel) -> None:
    """Refuse what the language model's context has no room for.

    Raises:
        ModelError: There is not enough.
    """
    if tokens > llm.context:
        raise ModelError(f"{what} has {tokens} tokens, the context of {llm.name} is {llm.context}; lower {key}")
