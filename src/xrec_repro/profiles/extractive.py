"""Profiles and references without a language model: the most telling phrases of a text, in one sentence.

Phrases are found in two steps. A run of two or three words is a collocation if it occurs in a good share of the
documents that have its rarest word; each clause is then cut, from the left, into the longest collocations and
the single words between them. A phrase's salience in a document is its TF-IDF,
(1 + ln tf) ln((1 + n) / (1 + df)), over the n documents that are summarised together.

Salience alone lets filler through ("ingenious spellcraft and translated"). What is said of an item must therefore be
something that its readers' reviews speak of too, and what is said of a user must describe items.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from xrec_repro.errors import ConfigError
from xrec_repro.profiles.records import ItemText, ReviewText, UserText

# Few on purpose: a profile hints at an entity's tastes and leaves the rest to the collaborative signal.
MOST_TERMS = 3
# Terms are kept while they are this salient, relative to the best one.
LEAST_SALIENCE = 0.6
LONGEST_PHRASE = 3
COHESION = 0.25
# A phrase of one document alone is more often a name or a slip than a topic.
LEAST_DOCUMENTS = 2
# Document frequencies settle long before: more documents would only cost memory.
CORPUS_DOCUMENTS = 20_000

_CLAUSES = re.compile(r"[^\w\s'’-]|\s-+\s|\n\s*\n")
_WORD = re.compile(r"[^\W\d_][\w'’]*(?:-\w+)*")
# Words of the sentences below (profiles are read again to profile users), and of all praise.
_GENERIC = _WORD.findall(
    "book books business businesses buy buys enjoy enjoyed enjoys kind like liked likes loved offer offers people "
    "read reader readers reading tend tends user users visitors would page pages come comes stay stays good great "
    "best nice quite really recommend recommended don't didn't doesn't i'm i've it's that's won't can't"
)
# scikit-learn's list has some words that carry meaning in reviews.
_CONTENT = _WORD.findall("bill cry detail fire interest mill mine serious sincere system thick")
_STOP_WORDS = ENGLISH_STOP_WORDS.difference(_CONTENT).union(_GENERIC)
# Singular, plural, who comes, what the user does: as in the prompts of the release.
_NOUNS = {
    "book": ("book", "books", "Readers", "buy"),
    "business": ("business", "businesses", "Visitors", "enjoy"),
}


class PhraseModel:
    """The phrases of a collection of documents and how telling each of them is.

    Args:
        documents: The collection; of a large one an even sample is counted.
        least: A phrase of fewer documents does not count.
    """

    def __init__(self, documents: Sequence[str], least: int = LEAST_DOCUMENTS):
        stride = -(-len(documents) // CORPUS_DOCUMENTS) or 1
        sample = documents[::stride]
        self._size = len(sample)
        least = min(least, self._size)
        counts: Counter[str] = Counter()
        for document in sample:
            counts.update({" ".join(run) for clause in _clauses(document) for run in _runs(clause)})
        self._frequency = {phrase: count for phrase, count in counts.items() if count >= least}

    def segment(self, text: str) -> list[str]:
        """Return the phrases of a text, in order and without overlap, in lower case."""
        return [phrase for clause in _clauses(text) for phrase in self._cut(clause)]

    def _cut(self, clause: list[str]) -> Iterator[str]:
        start = 0
        while start < len(clause):
            run = next(filter(self._is_phrase, _runs_from(clause, start)), None)
            if run:
                yield " ".join(run)
            start += len(run or [0])

    def _is_phrase(self, run: list[str]) -> bool:
        rarest = min(self._frequency.get(word, 0) for word in run if word not in _STOP_WORDS)
        return len(run) == 1 or self._frequency.get(" ".join(run), 0) >= max(COHESION * rarest, 1)

    def __contains__(self, phrase: str) -> bool:
        return phrase in self._frequency

    def salient_phrases(self, text: str, title: str = "", among: "PhraseModel | None" = None) -> list[str]:
        """Return the most salient phrases of a text, in order of appearance.

        Args:
            text: The text; it need not be of the collection.
            title: Phrases made of this title's words alone are left out: they tell nothing new.
            among: Phrases that are none of this other collection are left out, too.
        """
        known = set(_words(title))
        counts = Counter(
            phrase
            for phrase in self.segment(text)
            if not known.issuperset(phrase.split()) and (among is None or phrase in among)
        )
        salience = {phrase: (1 + math.log(tf)) * self._idf(phrase) for phrase, tf in counts.items()}
        # `counts` keeps the order of appearance, which settles what remains equal.
        ranked = sorted(counts, key=lambda phrase: (-salience[phrase], -len(phrase.split())))[:MOST_TERMS]
        kept = [phrase for phrase in ranked if salience[phrase] >= LEAST_SALIENCE * salience[ranked[0]]]
        return [phrase for phrase in counts if phrase in kept]

    def _idf(self, phrase: str) -> float:
        # A phrase seen in too few documents says nothing certain: it comes after all others.
        frequency = self._frequency.get(phrase, self._size)
        return math.log((1 + self._size) / (1 + frequency))


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _clauses(text: str) -> Iterator[list[str]]:
    return (_words(clause) for clause in _CLAUSES.split(text))


def _runs(clause: list[str]) -> Iterator[list[str]]:
    return (run for start in range(len(clause)) for run in _runs_from(clause, start))


def _runs_from(clause: list[str], start: int) -> Iterator[list[str]]:
    """Yield the readable runs of words from a position, the longest first."""
    for length in range(min(LONGEST_PHRASE, len(clause) - start), 0, -1):
        run = clause[start : start + length]
        inner = [word for word in run[1:-1] if word in _STOP_WORDS]
        if _STOP_WORDS.isdisjoint((run[0], run[-1])) and inner in ([], ["of"]) and len(run[0]) > 2:
            yield run


class ExtractiveBackend:
    """Writes profiles and references from salient phrases; offline, deterministic, no model.

    Documents given together are compared with each other, so one call should have all of them.

    Args:
        domain: book | business: the nouns of the sentences, and whether reviews describe an item.
        max_words: Terms are dropped while a text is longer than this many words and has more than one.
        reviews: What people say of all items; a phrase of an item's profile is one of theirs. Without any, every
            phrase may stand there.

    Raises:
        ConfigError: The domain is unknown.
    """

    def __init__(self, domain: str, max_words: int, reviews: Sequence[str] = ()):
        if domain not in _NOUNS:
            raise ConfigError(f"domain {domain!r} is not one of {', '.join(_NOUNS)}")
        self._domain = domain
        self._max_words = max_words
        self._reviews = reviews
        self._noun, self._nouns, self._people, self._verb = _NOUNS[domain]

    def item_profiles(self, items: Sequence[ItemText]) -> list[str]:
        """Summarise what kind of people would enjoy each item."""
        documents = [_join(self._describe(item)) for item in items]
        frame = f"{self._people} who enjoy {{terms}} would like this {self._noun}."
        among = PhraseModel(self._reviews) if self._reviews else None
        return self._fill(frame, documents, [item.title for item in items], among)

    def user_profiles(self, users: Sequence[UserText]) -> list[str]:
        """Summarise what each user tends to enjoy, from the profiles and reviews of items of the history."""
        documents = [_join(t for e in user.entries for t in (e.item_profile, e.review)) for user in users]
        described = list(dict.fromkeys(entry.item_profile for user in users for entry in user.entries))
        frame = f"This user tends to enjoy {self._nouns} that offer {{terms}}."
        return self._fill(frame, documents, [""] * len(users), PhraseModel(described, least=1))

    def report(self) -> dict[str, str]:
        """Return what provenance says of the writing: nothing more than that it was extractive."""
        return {}

    def references(self, reviews: Sequence[ReviewText]) -> list[str]:
        """Explain each interaction from its review."""
        frame = f"The user would {self._verb} the {self._noun} because it offers {{terms}}."
        return self._fill(frame, [review.review for review in reviews], [""] * len(reviews))

    def _describe(self, item: ItemText) -> list[str | None]:
        if self._domain == "book":
            return [item.description]
        return [item.description, item.categories, *item.reviews]

    def _fill(self, frame: str, documents: list[str], titles: list[str], among: PhraseModel | None = None) -> list[str]:
        model = PhraseModel(documents)
        texts = []
        for document, title in zip(documents, titles, strict=True):
            terms = model.salient_phrases(document, title, among) or [f"{self._nouns} of this kind"]
            while len(terms) > 1 and len(frame.format(terms=_listed(terms)).split()) > self._max_words:
                terms = terms[:-1]
            texts.append(frame.format(terms=_listed(terms)))
        return texts


def _join(texts: Iterable[str | None]) -> str:
    # A full stop between them, so that no phrase spans two texts.
    return ". ".join(text for text in texts if text)


def _listed(terms: list[str]) -> str:
    return " and ".join(part for part in (", ".join(terms[:-1]), terms[-1]) if part)
