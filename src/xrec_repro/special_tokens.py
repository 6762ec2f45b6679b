"""Texts that spell a tokenizer's special tokens, and how they stay text."""

import re
from collections.abc import Callable, Iterable
from typing import Any

Speller = Callable[[str], str]


def special_tokens(tokenizer: Any) -> set[str]:
    """Return the special tokens of a tokenizer of transformers, slow or fast: named ones and all added ones."""
    added = tokenizer.added_tokens_decoder.values()
    return {*map(str, tokenizer.all_special_tokens), *(token.content for token in added if token.special)}


def speller(tokens: Iterable[str]) -> Speller:
    """Return a function that writes a text so that it spells none of the tokens: ``<s>`` becomes ``< s>``.

    All other text comes back as it is. Tokenizers can be told not to look for special tokens
    (``split_special_tokens``), but not for a part of a prompt; slow ones of BERT's kind and those with a Unigram model
    then find them all the same.

    Args:
        tokens: What no text may spell; a token of one character or of white space is left out, being no mark.
    """
    marks = sorted((token for token in tokens if len(token.strip()) > 1), key=lambda token: (-len(token), token))
    if not marks:
        return str
    pattern = re.compile("|".join(map(re.escape, marks)))

    def spell(text: str) -> str:
        while pattern.search(text):  # again, for a mark that begins within another
            text = pattern.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)
        return text

    return spell
