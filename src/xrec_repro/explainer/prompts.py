"""Prompts of the study, and their token ids with the positions and labels that tuning needs.

Three templates:

* ``code`` is what XRec's public code feeds the model (HKUDS/XRec, commit 79e2cd4): the explanation stands inside
  ``[INST]``, the text of the test prompt is the same without it, and BOS occurs twice (the literal ``<s>`` plus the
  tokenizer's own).
* ``fixed`` is the sound form: the explanation follows ``[/INST]``, one BOS, and EOS is taught.
* ``chat`` is the sound form for models that were tuned on other marks than Llama 2's: system message and fields through
  the tokenizer's own chat template, the explanation being the assistant's turn, whose end is taught.

Special tokens are the templates' alone: a title, profile or explanation that spells one stays text. Titles and profiles
that the model's context has no room for are cut.
"""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from xrec_repro.errors import ModelError
from xrec_repro.examples import Example
from xrec_repro.lm.chat import ChatTemplate, Turns
from xrec_repro.special_tokens import Speller, special_tokens, speller

log = logging.getLogger("xrec_repro")

USER_EMBED, ITEM_EMBED, EXPLAIN_POS, PAD = "<USER_EMBED>", "<ITEM_EMBED>", "<EXPLAIN_POS>", "<pad>"
RESERVED_TOKENS = (USER_EMBED, ITEM_EMBED, EXPLAIN_POS, PAD)
IGNORED_LABEL = -100  # torch's cross entropy skips it

# System messages and nouns, word for word from the original code.
SYSTEM = {
    "book": "Explain why the user would buy with the book within 50 words.",
    "business": "Explain why the user would enjoy the business within 50 words.",
}


@dataclass(frozen=True)
class Encoded:
    """Token ids of one prompt.

    Attributes:
        ids: Token ids, length T.
        labels: Targets, length T, `IGNORED_LABEL` where there is none; empty for a test prompt.
        positions: Indices of the reserved user and item token; empty without records.
    """

    ids: list[int]
    labels: list[int]
    positions: tuple[int, ...]

    def without(self, count: int) -> "Encoded":
        """Return it without its first tokens."""
        return Encoded(self.ids[count:], self.labels[count:], tuple(place - count for place in self.positions))


def prompt_text(example: Example, domain: str, template: str, train: bool, records: bool = True) -> str:
    """Write the prompt of an example.

    Args:
        example: The interaction.
        domain: ``book`` or ``business``.
        template: ``code`` or ``fixed``; ``chat`` is the tokenizer's (`PromptEncoder`).
        train: Whether the reference explanation is part of the text.
        records: Whether the prompt has the reserved tokens at all; without them ("w/o embeddings") a model reads
            titles and profiles alone.

    Returns:
        The text that goes to the tokenizer, which adds its own BOS. The EOS of ``fixed`` is added as an id.
    """
    body = f"<<SYS>>{SYSTEM[domain]}<</SYS>>{_description(example, domain, records)}"
    explanation = f" {example.reference}" if train else ""
    if template == "code":
        return f"<s>[INST] {body}{explanation}[/INST]"
    return f"[INST] {body}[/INST]{explanation}"


def _description(example: Example, noun: str, records: bool) -> str:
    text = f"{noun} name: {example.title}"
    if example.user_profile is not None:
        text += f" user profile: {example.user_profile}"
    if example.item_profile is not None:
        text += f" {noun} profile: {example.item_profile}"
    return f"user record: {USER_EMBED} {noun} record: {ITEM_EMBED} {text} {EXPLAIN_POS}" if records else text


class PromptEncoder:
    """Turns examples into token ids for one tokenizer, domain and template, with or without records.

    Attributes:
        cut: Example id -> item id, of the examples whose title or profiles were cut to fit the context.

    Raises:
        ModelError: The template is ``chat``, and the tokenizer's does not serve.
    """

    def __init__(self, tokenizer: Any, domain: str, template: str, context: int, records: bool = True) -> None:
        self.tokenizer = tokenizer
        self.domain = domain
        self.template = template
        self.context = context
        self.records = records
        self.cut: dict[str, str] = {}
        self._turns = Turns(ChatTemplate(tokenizer, "the language model")) if template == "chat" else None
        self._reserved = {token: tokenizer.convert_tokens_to_ids(token) for token in RESERVED_TOKENS}
        self._spell = speller({*RESERVED_TOKENS, *special_tokens(tokenizer)})

    @property
    def end(self) -> int | None:
        """Id of the token that the template ends an explanation with; None for the model's own EOS alone."""
        return self._turns and self._turns.end

    def train(self, example: Example) -> Encoded:
        """Encode prompt and explanation with labels.

        With ``code`` the targets are <EXPLAIN_POS>, the explanation and the pieces of ``[/INST]``; with ``fixed``
        the explanation and EOS; with ``chat`` the explanation and what ends the turn.

        Raises:
            ModelError: The explanation is longer than the model's context has room for.
        """
        ends = 1 if self.template == "fixed" else 0  # EOS
        example, ids = self._fit(example, True, ends, "with its explanation")
        if self.template == "code":
            start = ids.index(self._reserved[EXPLAIN_POS])
        else:
            ids += [self.tokenizer.eos_token_id] * ends
            start = _common_prefix(ids, self._tokenize(example, train=False))
        labels = [IGNORED_LABEL] * start + ids[start:]
        return Encoded(ids, labels, self._positions(ids))

    def test(self, example: Example, new_tokens: int) -> Encoded:
        """Encode the prompt without explanation.

        Args:
            example: The interaction.
            new_tokens: How many tokens will be generated; they must fit the context too.

        Raises:
            ModelError: The new tokens are more than the model's context has room for.
        """
        _, ids = self._fit(example, False, new_tokens, f"with {new_tokens} new tokens")
        return Encoded(ids, [], self._positions(ids))

    def warn_of_cuts(self, stage: str) -> None:
        """Log which examples were cut, if any."""
        if self.cut:
            shown = ", ".join(f"{example} (item {item})" for example, item in list(self.cut.items())[:5])
            log.warning(
                "%s: cut the title or profiles of %d prompts to the model's context of %d tokens: %s%s",
                *(stage, len(self.cut), self.context, shown, ", …" if len(self.cut) > 5 else ""),
            )

    def _fit(self, example: Example, train: bool, more: int, what: str) -> tuple[Example, list[int]]:
        """Return the example as it is encoded and its ids; with `more` tokens they fit the context."""
        example = spelled(example, self._spell)
        ids = self._tokenize(example, train)
        if len(ids) + more <= self.context:
            return example, ids
        shorter = self._shorten(example, train, self.context - more)
        if shorter is None:
            raise ModelError(
                f"example {example.example_id} (item {example.item_id}): the prompt {what} has {len(ids) + more} "
                f"tokens, the model's context is {self.context}, and cutting its title and profiles is not enough; "
                f"shorten explanations (profiles.max_words) or generation.max_new_tokens, or use a model with a longer "
                f"context"
            )
        self.cut[example.example_id] = example.item_id
        return shorter, self._tokenize(shorter, train)

    def _shorten(self, example: Example, train: bool, room: int) -> Example | None:
        """Cut the longest of title and profiles, the others only if that is not enough; None if nothing is."""
        texts = {name: getattr(example, name) for name in ("title", "user_profile", "item_profile")}
        for name, text in sorted(texts.items(), key=lambda entry: -len(entry[1] or "")):
            if not text:
                continue

            def tokens(size: int, name: str = name, text: str = text, others: Example = example) -> int:
                return len(self._tokenize(replace(others, **{name: _start(text, size)}), train))

            size = bisect_right(range(len(text)), room, key=tokens) - 1
            while size > 0 and tokens(size) > room:  # a longer text may have fewer tokens, if rarely
                size -= 1
            example = replace(example, **{name: _start(text, max(size, 0))})
            if tokens(max(size, 0)) <= room:
                return example
        return None

    def _tokenize(self, example: Example, train: bool) -> list[int]:
        if self._turns:
            asked = _description(example, self.domain, self.records)
            return self._turns.ids(SYSTEM[self.domain], asked, example.reference if train else None)
        return self.tokenizer(prompt_text(example, self.domain, self.template, train, self.records))["input_ids"]

    def _positions(self, ids: Sequence[int]) -> tuple[int, ...]:
        if not self.records:
            return ()
        return ids.index(self._reserved[USER_EMBED]), ids.index(self._reserved[ITEM_EMBED])


def spelled(example: Example, spell: Speller) -> Example:
    """Return the example with its texts rewritten."""
    texts = {name: getattr(example, name) for name in ("title", "user_profile", "item_profile", "reference")}
    return replace(example, **{name: text and spell(text) for name, text in texts.items()})


def _start(text: str, size: int) -> str:
    """Return the first characters of a text, without half a word at their end unless that is all there is."""
    start = text[:size]
    whole = start if text[size : size + 1].isspace() else start.rpartition(" ")[0]
    return (whole or start).rstrip()


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
