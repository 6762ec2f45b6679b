"""Texts as numbered words, and back."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

BOS, EOS, PAD, UNK = range(4)
SPECIALS = ("<bos>", "<eos>", "<pad>", "<unk>")
_JOINED = "\uffed"  # before a token that follows without a space
_PIECES = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def split(text: str, tokens: str) -> list[str]:
    """Cut a text into words.

    Args:
        text: Any.
        tokens: ``whitespace`` (the authors), or ``punctuation``: punctuation is a word of its own, and a mark on words
            that follow without a space lets `join` return the text as it was, its white space as single spaces.
    """
    if tokens == "whitespace":
        return text.split()
    text = " ".join(text.replace(_JOINED, "").split())
    found = _PIECES.finditer(text)
    return [f"{_JOINED if one.start() and text[one.start() - 1] != ' ' else ''}{one[0]}" for one in found]


def join(words: Sequence[str]) -> str:
    """Make a text of words, whichever way they were cut."""
    return " ".join(words).replace(f" {_JOINED}", "").replace(_JOINED, "")


class Vocabulary:
    """Numbered words: `SPECIALS`, then the known ones.

    Attributes:
        words: By number.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Number words, which have no special one among them."""
        self.words = [*SPECIALS, *words]
        self._numbers = {word: number for number, word in enumerate(words, start=len(SPECIALS))}

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], size: int) -> "Vocabulary":
        """Take all words in order of first appearance; of more than `size`, the most frequent, falling.

        A word that is spelt like a special one is none: it reads as ``<unk>``.
        """
        counts = Counter(word for words in texts for word in words if word not in SPECIALS)
        return cls(list(counts) if len(counts) <= size else [word for word, _ in counts.most_common(size)])

    def __len__(self) -> int:
        return len(self.words)

    def numbers(self, words: Sequence[str]) -> list[int]:
        """Return the words' numbers, `UNK` for unknown ones."""
        return [self._numbers.get(word, UNK) for word in words]

    def sequence(self, words: Sequence[str], length: int) -> list[int]:
        """Return ``<bos>``, at most so many words, ``<eos>``, and ``<pad>`` up to length + 2 numbers."""
        found = [BOS, *self.numbers(words[:length]), EOS]
        return found + [PAD] * (length + 2 - len(found))

    def text(self, numbers: Sequence[int]) -> str:
        """Return the text of numbers up to the first ``<eos>``."""
        end = numbers.index(EOS) if EOS in numbers else len(numbers)
        return join([self.words[number] for number in numbers[:end]])
