"""Profiles and references without a language model: the most telling phrases of a text, in one sentence.

A phrase is a run of one to three words inside a clause, without stop words at its edges. Its salience is
TF-IDF: how often the entity's texts use it, times the smoothed logarithm of how few texts of the corpus do.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from xrec_repro.errors import ConfigError
from xrec_repro.profiles.records import ItemText, ReviewText, UserText

# Few on purpose: a profile hints at an entity's tastes and leaves the rest to the collaborative signal.
ITEM_TERMS = 3
USER_TERMS = 3
REFERENCE_TERMS = 3
LONGEST_PHRASE = 3
# Document frequencies settle long before: more texts would only cost memory.
CORPUS_DOCUMENTS = 20_000
# A phrase of one text alone is more often a name or a slip than a topic.
LEAST_DOCUMENTS = 2

_CLAUSES = re.compile(r"[^\w\s'’-]|\s-+\s|\n\s*\n")
_WORD = re.compile(r"[^\W\d_][\w'’]*(?:-\w+)*")
# Words of the sentences below (profiles are read again to profile users), and of all praise.
_GENERIC = _WORD.findall(
    "book books business businesses buy buys enjoy enjoyed enjoys kind like liked likes loved offer offers people "
    "read reader readers reading tend tends user users visitors would good great best nice really recommend "
    "recommended don't didn't doesn't i'm i've it's that's won't can't"
)
# scikit-learn's list has some words that carry meaning in reviews.
_CONTENT = _WORD.findall("bill cry detail fire interest mill mine serious sincere system thick")
_STOP_WORDS = ENGLISH_STOP_WORDS.difference(_CONTENT).union(_GENERIC)
# Singular, plural, who comes, what the user does: as in the prompts of the release.
_NOUNS = {
    "book": ("book", "books", "Readers", "buy"),
    "business": ("business", "businesses", "Visitors", "enjoy"),
}


class Phrase(NamedTuple):
    """A candidate phrase of a text and the positions of its words in that text."""

    text: str
    start: int
    stop: int


def candidate_phrases(text: str) -> list[str]:
    """Return every candidate phrase of a text in lower case, in order of position, the longer first."""
    return [phrase.text for phrase in _phrases(text)]


def _phrases(text: str) -> Iterator[Phrase]:
    start = 0
    for clause in _CLAUSES.split(text):
        tokens = [token.lower() for token in _WORD.findall(clause)]
        for first in range(len(tokens)):
            for length in range(min(LONGEST_PHRASE, len(tokens) - first), 0, -1):
                run = tokens[first : first + length]
                if _readable(run):
                    yield Phrase(" ".join(run), start + first, start + first + length)
        start += len(tokens)


def _readable(run: list[str]) -> bool:
    inner = [word for word in run[1:-1] if word in _STOP_WORDS]
    edges = {run[0], run[-1]}
    return not edges & _STOP_WORDS and inner in ([], ["of"]) and max(map(len, edges)) > 2


class ExtractiveBackend:
    """Writes profiles and references from salient phrases; offline, deterministic, no model.

    Args:
        corpus: The texts against which salience is measured; pass training texts only.
        domain: book | business: the nouns of the sentences and what describes an item.
        max_words: No text is longer than this many words, where its frame alone is not.

    Raises:
        ConfigError: The domain is unknown.
    """

    def __init__(self, corpus: Sequence[str], domain: str, max_words: int):
        if domain not in _NOUNS:
            raise ConfigError(f"domain {domain!r} is not one of {', '.join(_NOUNS)}")
        self.domain = domain
        self.max_words = max_words
        self.noun, self.nouns, self.people, self.verb = _NOUNS[domain]
        self._idf = _document_weights(corpus)

    def item_profile(self, item: ItemText) -> str:
        """Summarise what kind of people would enjoy an item."""
        frame = f"{self.people} who enjoy {{terms}} would like this {self.noun}."
        of_domain = {"book": [item.description], "business": [item.categories, *item.reviews]}
        texts = [text or "" for text in of_domain[self.domain]]
        return self._fill(frame, texts, ITEM_TERMS, item.title)

    def user_profile(self, user: UserText) -> str:
        """Summarise what a user tends to enjoy, from the profiles and reviews of items of the history."""
        frame = f"This user tends to enjoy {self.nouns} that offer {{terms}}."
        texts = [text or "" for entry in user.entries for text in (entry.item_profile, entry.review)]
        return self._fill(frame, texts, USER_TERMS)

    def reference(self, review: ReviewText) -> str:
        """Explain an interaction from its review."""
        frame = f"The user would {self.verb} the {self.noun} because it offers {{terms}}."
        return self._fill(frame, [review.review], REFERENCE_TERMS)

    def item_profiles(self, items: Sequence[ItemText]) -> list[str]:
        """Return `item_profile` of each."""
        return [self.item_profile(item) for item in items]

    def user_profiles(self, users: Sequence[UserText]) -> list[str]:
        """Return `user_profile` of each."""
        return [self.user_profile(user) for user in users]

    def references(self, reviews: Sequence[ReviewText]) -> list[str]:
        """Return `reference` of each."""
        return [self.reference(review) for review in reviews]

    def _fill(self, frame: str, texts: list[str], count: int, title: str = "") -> str:
        # Texts are joined by a full stop, so that no phrase spans two of them.
        terms = self.salient_phrases(". ".join(texts), count, title)
        while len(terms) > 1 and len(frame.format(terms=_listed(terms)).split()) > self.max_words:
            terms = terms[:-1]
        return frame.format(terms=_listed(terms or [f"{self.nouns} of this kind"]))

    def salient_phrases(self, text: str, count: int, title: str = "") -> list[str]:
        """Return the `count` most salient phrases of a text that share no word, in order of appearance.

        Args:
            text: The text.
            count: At most this many phrases.
            title: Phrases made of this title's words alone are left out: they tell nothing new.
        """
        known = {word.lower() for word in _WORD.findall(title)}
        places: dict[str, int] = {}
        counts: Counter[str] = Counter()
        for phrase in _phrases(text):
            if not known.issuperset(phrase.text.split()):
                places.setdefault(phrase.text, phrase.start)
                counts[phrase.text] += 1
        salience = {phrase: times * self._idf.get(phrase, 0.0) for phrase, times in counts.items()}
        ranked = sorted(counts, key=lambda p: (-salience[p], -len(p.split()), places[p]))
        chosen: list[str] = []
        used: set[str] = set()
        for phrase in ranked:
            if len(chosen) == count:
                break
            if used.isdisjoint(phrase.split()):
                chosen.append(phrase)
                used.update(phrase.split())
        return sorted(chosen, key=lambda phrase: (places[phrase], phrase))


def _document_weights(corpus: Sequence[str]) -> dict[str, float]:
    """Return ln((1 + n) / (1 + df)) + 1 of each phrase of the corpus: scikit-learn's smoothed idf."""
    stride = -(-len(corpus) // CORPUS_DOCUMENTS) or 1
    documents = corpus[::stride]
    frequencies: Counter[str] = Counter()
    for text in documents:
        frequencies.update(set(candidate_phrases(text)))
    return {
        phrase: math.log((1 + len(documents)) / (1 + frequency)) + 1
        for phrase, frequency in frequencies.items()
        if frequency >= LEAST_DOCUMENTS
    }


def _listed(terms: list[str]) -> str:
    return " and ".join(part for part in (", ".join(terms[:-1]), terms[-1]) if part)
