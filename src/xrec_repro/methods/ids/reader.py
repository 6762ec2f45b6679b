"""Examples as tensors: numbered users, items, words, ratings, and what else a model is given."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xrec_repro.errors import DataError
from xrec_repro.methods.ids.words import PAD, SPECIALS, Vocabulary, split

if TYPE_CHECKING:
    from xrec_repro.examples import Example

log = logging.getLogger("xrec_repro")

MOST_RATINGS = 1000  # steps of a scale, of which NRT has a row each


@dataclass(frozen=True)
class Rows:
    """N examples.

    Attributes:
        user: Rows of the user table, int64 [N].
        item: Rows of the item table, int64 [N].
        text: ``<bos>``, words, ``<eos>``, ``<pad>``…, int64 [N, L].
        rating: float32 [N]; None where there are none.
        given: Words that are given beside the ids (PETER+), int64 [N, F]; F may be 0.
    """

    user: Tensor
    item: Tensor
    text: Tensor
    rating: Tensor | None
    given: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Sequence[int] | slice) -> "Rows":
        """Return some rows; texts end with the longest of them, which changes no loss."""
        chosen = rows if isinstance(rows, slice) else torch.as_tensor(rows, device=self.user.device)
        text = self.text[chosen]
        length = int((text != PAD).sum(1).max()) if len(text) else 2
        rating = None if self.rating is None else self.rating[chosen]
        return Rows(self.user[chosen], self.item[chosen], text[:, :length], rating, self.given[chosen])

    def batches(self, size: int) -> "list[Rows]":
        """Cut the rows into batches, in their order."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self), size)]


@dataclass(frozen=True)
class Reader:
    """What numbers examples; of JSON types but for the vocabulary.

    Attributes:
        tokens: How texts are cut, see `words.split`.
        words: How many of a text's are kept.
        vocabulary: The known words.
        users: Ids of known users, in the order of their rows; all others share the row behind them.
        items: Ids of known items, likewise.
        scale: The lowest and the highest rating; None where ratings are not learnt.
        given: ``feature``, ``item_profile``, ``user_profile``, or None.
        given_words: F, how many words that has, padded; longer ones are cut.
    """

    tokens: str
    words: int
    vocabulary: Vocabulary
    users: Mapping[str, int]
    items: Mapping[str, int]
    scale: tuple[float, float] | None = None
    given: str | None = None
    given_words: int = 0

    @classmethod
    def of(
        cls,
        seen: "Sequence[Example]",
        *,
        counted: "Sequence[Example] | None" = None,
        tokens: str,
        words: int,
        vocabulary_size: int,
        rated: "Sequence[Example]" = (),
        given: str | None = None,
        given_words: int = 1,
    ) -> "Reader":
        """Number what some examples have.

        Args:
            seen: Whose users and items get rows, in order of first appearance.
            counted: Whose words are known; None for the same.
            tokens: See the attributes.
            words: See the attributes.
            vocabulary_size: Words beside the special ones, at most.
            rated: Whose ratings span the scale; none for no ratings.
            given: See the attributes.
            given_words: At most so many, and no more than the longest of `seen` has.

        Raises:
            DataError: There is no word, or a rating that is none.
        """
        counted = seen if counted is None else counted
        texts = ([given_of(example, given, tokens), split(example.reference, tokens)] for example in counted)
        vocabulary = Vocabulary.of(chain.from_iterable(texts), vocabulary_size)
        if len(vocabulary) == len(SPECIALS):
            raise DataError(
                f"examples: the references of {len(counted)} examples have no word to learn; check profiles.references"
            )
        longest = max((len(given_of(example, given, tokens)) for example in seen), default=0)
        return cls(
            tokens=tokens,
            words=words,
            vocabulary=vocabulary,
            users=_numbered(example.user_id for example in seen),
            items=_numbered(example.item_id for example in seen),
            scale=_scale(rated) if rated else None,
            given=given,
            given_words=min(given_words, longest) if given else 0,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What `of_facts` makes it of again, of JSON types."""
        named = {"vocabulary": self.vocabulary.words[len(SPECIALS) :]}
        return vars(self) | named | {"users": list(self.users), "items": list(self.items)}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "Reader":
        """Return the reader that had these facts."""
        tables = {name: _numbered(facts[name]) for name in ("users", "items")}
        scale = None if facts["scale"] is None else tuple(facts["scale"])
        return cls(**dict(facts) | tables | {"vocabulary": Vocabulary(facts["vocabulary"]), "scale": scale})

    @property
    def grades(self) -> int:
        """How many whole steps the scale of ratings has, both ends counted; 1 without ratings."""
        return 1 if self.scale is None else math.floor(self.scale[1] - self.scale[0]) + 1

    def rows(self, examples: "Sequence[Example]", device: str = "cpu") -> Rows:
        """Return examples as tensors; an unknown user or item has the row behind the known ones."""
        users = [self.users.get(example.user_id, len(self.users)) for example in examples]
        items = [self.items.get(example.item_id, len(self.items)) for example in examples]
        texts = [self.vocabulary.sequence(split(example.reference, self.tokens), self.words) for example in examples]
        given = [self._given(example) for example in examples]
        rated = self.scale is not None and all(example.rating is not None for example in examples)
        return Rows(
            torch.tensor(users, dtype=torch.long, device=device),
            torch.tensor(items, dtype=torch.long, device=device),
            torch.tensor(texts, dtype=torch.long, device=device).view(len(examples), self.words + 2),
            torch.tensor([example.rating for example in examples], device=device) if rated else None,
            torch.tensor(given, dtype=torch.long, device=device).view(len(examples), self.given_words),
        )

    def _given(self, example: "Example") -> list[int]:
        found = self.vocabulary.numbers(given_of(example, self.given, self.tokens)[: self.given_words])
        return found + [PAD] * (self.given_words - len(found))

    def unseen(self, examples: "Iterable[Example]") -> dict[str, Any]:
        """Count users and items that training has not seen, and name the examples that have one."""
        users = {e.example_id for e in examples if e.user_id not in self.users}
        items = {e.example_id for e in examples if e.item_id not in self.items}
        return {"unseen_user": len(users), "unseen_item": len(items), "unseen": sorted(users | items)}


def given_of(example: "Example", given: str | None, tokens: str) -> list[str]:
    """Return the words that a model is given beside the ids: a feature is one, also where it has spaces."""
    text = (getattr(example, given) if given else None) or ""
    return ([text] if text else []) if given == "feature" else split(text, tokens)


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: row for row, name in enumerate(dict.fromkeys(names))}


def _scale(examples: "Iterable[Example]") -> tuple[float, float]:
    ratings = {}
    for example in examples:
        if not math.isfinite(example.rating):
            raise DataError(f"example {example.example_id}: its rating is {example.rating}; mend the data")
        ratings[example.rating] = example.example_id
    low, high = min(ratings), max(ratings)
    if high - low >= MOST_RATINGS:
        raise DataError(
            f"examples: ratings from {low:g} ({ratings[low]}) to {high:g} ({ratings[high]}) are on no scale of fewer "
            f"than {MOST_RATINGS} steps; mend the data, or set the method's rating_weight to 0"
        )
    return low, high
