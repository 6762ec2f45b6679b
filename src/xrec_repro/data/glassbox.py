"""The glassbox: a small world of raw book reviews whose true reasons are known (docs/glassbox.md).

Users and items carry latent aspects. A user buys an item because of the aspects they share, the review and
the reference explanation name the strongest of them, and an item's description shows only the weakest of its aspects:
the others can reach an explanation only through the collaborative signal.
"""

import gzip
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from xrec_repro.contracts import RELEASED_TEXTS, TRUTH
from xrec_repro.data import glassbox_words as words
from xrec_repro.errors import ConfigError
from xrec_repro.io import atomic_path, write_table
from xrec_repro.seeding import numpy_rng

ASPECT_NAMES = tuple(forms[0] for forms in words.ASPECTS)

# Relative chance that an entity draws an aspect of its main cluster, its second one, or any other.
CLUSTER_WEIGHTS = (1.0, 1.0, 0.3)
SECOND_CLUSTER_SHARE = 0.7
# What the first and the last of an entity's ranked aspects count, in tenths, so that sums are exact.
STRONGEST, WEAKEST = 14, 6
# What a shared aspect of average strengths adds to the log-weight of an interaction: a factor of twenty.
STEEPNESS = 3.0
POPULARITY_SPREAD = 0.4
LOW_RATING_SHARE = 0.07
TEXTLESS_SHARE = 0.02
DUPLICATE_SHARE = 0.01
FIVE_STAR_SHARE = 0.6
FIRST_TIMESTAMP = 1_325_376_000  # 2012-01-01 UTC
LONGEST_STEP_S = 30_000


@dataclass(frozen=True)
class World:
    """The latent state. Aspects are indices into `ASPECT_NAMES`.

    Attributes:
        user_aspects: (users, aspects_per_entity) int, each user's aspects from the strongest to the weakest.
        item_aspects: (items, aspects_per_entity) int, each item's aspects, likewise.
        shown: (items, shown_aspects) int, those that the item's description names: its weakest.
        user_ids: Amazon-like reviewer ids.
        item_ids: Amazon-like product ids.
        titles: Unique titles of the items.
    """

    user_aspects: np.ndarray
    item_aspects: np.ndarray
    shown: np.ndarray
    user_ids: list[str]
    item_ids: list[str]
    titles: list[str]

    def reasons(self, user: int, item: int) -> list[int]:
        """Return the aspects that a user and an item share, the strongest first.

        A shared aspect is as strong as its strengths for the user and for the item multiplied; of equal ones
        the user's stronger one comes first.
        """
        strength = _strengths(self.user_aspects.shape[1]).tolist()
        of_item = dict(zip(self.item_aspects[item].tolist(), strength, strict=True))
        of_user = dict(zip(self.user_aspects[user].tolist(), strength, strict=True))
        shared = [aspect for aspect in of_user if aspect in of_item]
        return sorted(shared, key=lambda aspect: -of_user[aspect] * of_item[aspect])


def _strengths(count: int) -> np.ndarray:
    """Return the strengths of an entity's ranked aspects, in tenths."""
    return np.linspace(STRONGEST, WEAKEST, count).round().astype(int)


def make_glassbox(
    settings: dict[str, Any],
    out_reviews: str | Path,
    out_metadata: str | Path,
    out_texts: str | Path,
    out_truth: str | Path,
) -> dict[str, Any]:
    """Generate the glassbox: the same seed gives the same bytes.

    Args:
        settings: Section `glassbox` of the configuration.
        out_reviews: Gzipped JSON lines in the format of the Amazon 2018 book reviews.
        out_metadata: Gzipped JSON lines in the format of the Amazon 2018 metadata.
        out_texts: Parquet under the contract RELEASED_TEXTS: one reference explanation for every pair whose
            review praises the book.
        out_truth: Parquet under the contract TRUTH, one row a pair. No model reads it.

    Returns:
        Counts and shares of what was generated.

    Raises:
        ConfigError: A setting is out of range.
    """
    _check(settings)
    world = make_world(settings)
    pairs = _draw_pairs(world, settings)
    records = _make_records(world, pairs, settings)
    texts = _make_texts(world, records, settings["seed"])
    truth = _make_truth(world, records)
    _write_json_lines(out_reviews, (_review_line(world, record) for record in records))
    _write_json_lines(out_metadata, _metadata_lines(world, settings["seed"]))
    write_table(out_texts, texts, RELEASED_TEXTS)
    write_table(out_truth, truth, TRUTH)
    return _report(world, records, truth, len(texts))


def find_aspects(text: str) -> set[str]:
    """Return the names of the aspects that a text names in any of their surface forms.

    Matches are whole words in any case; runs of white space count as one space.
    """
    return {_aspect_of_form()[" ".join(match.lower().split())] for match in _form_pattern().findall(text)}


@lru_cache
def _aspect_of_form() -> dict[str, str]:
    return {form: forms[0] for forms in words.ASPECTS for form in forms}


@lru_cache
def _form_pattern() -> re.Pattern[str]:
    longest_first = sorted(_aspect_of_form(), key=len, reverse=True)
    alternatives = "|".join(r"\s+".join(map(re.escape, form.split())) for form in longest_first)
    return re.compile(rf"(?<![\w-])(?:{alternatives})(?![\w-])", re.IGNORECASE)


def _check(settings: dict[str, Any]) -> None:
    per_entity = settings["aspects_per_entity"]
    titles = len(_all_titles())
    limits = (
        ("aspects", len(ASPECT_NAMES), "the number of aspects that have words"),
        ("clusters", settings["aspects"], "glassbox.aspects"),
        ("aspects_per_entity", settings["aspects"], "glassbox.aspects"),
        ("shown_aspects", per_entity, "glassbox.aspects_per_entity"),
        ("named_reasons", per_entity, "glassbox.aspects_per_entity"),
        ("interactions_per_user", settings["items"], "glassbox.items"),
        ("items", titles, "the number of different titles"),
    )
    for key, limit, what in limits:
        if settings[key] > limit:
            raise ConfigError(f"glassbox.{key}: {settings[key]} is more than {limit}, {what}; lower it")


def make_world(settings: dict[str, Any]) -> World:
    """Draw the latent state of the glassbox.

    Args:
        settings: Section `glassbox` of the configuration.
    """
    seed, users, items = settings["seed"], settings["users"], settings["items"]
    item_aspects = _draw_aspects(settings, items, "items")
    first_shown = item_aspects.shape[1] - settings["shown_aspects"]
    ids = numpy_rng(seed, "glassbox", "ids")
    titles = _all_titles()
    chosen = numpy_rng(seed, "glassbox", "titles").permutation(len(titles))[:items]
    return World(
        user_aspects=_draw_aspects(settings, users, "users"),
        item_aspects=item_aspects,
        shown=item_aspects[:, first_shown:],
        user_ids=[f"A{np.base_repr(n, 36):0>12}" for n in ids.choice(36**12, users, replace=False)],
        item_ids=[f"{n:010d}" for n in ids.choice(10**9, items, replace=False)],
        titles=[titles[index] for index in chosen],
    )


def aspect_clusters(settings: dict[str, Any]) -> dict[str, int]:
    """Return the cluster, from 0, of each aspect in use, by the section `glassbox` of the configuration."""
    aspects, clusters = settings["aspects"], settings["clusters"]
    return {ASPECT_NAMES[aspect]: aspect * clusters // aspects for aspect in range(aspects)}


def _draw_aspects(settings: dict[str, Any], count: int, what: str) -> np.ndarray:
    """Draw (count, aspects_per_entity) aspects without replacement, likelier ones first (Gumbel top-k)."""
    rng = numpy_rng(settings["seed"], "glassbox", what)
    clusters = settings["clusters"]
    cluster_of = np.array(list(aspect_clusters(settings).values()))
    main = rng.integers(clusters, size=count)
    # An offset of zero makes the second cluster the main one, that is, leaves the entity with one.
    offset = rng.integers(1, max(clusters, 2), size=count) * (rng.random(count) < SECOND_CLUSTER_SHARE)
    second = (main + offset) % clusters
    inside, beside, outside = CLUSTER_WEIGHTS
    weights = np.where(cluster_of == second[:, None], beside, outside)
    weights = np.where(cluster_of == main[:, None], inside, weights)
    keys = np.log(weights) + rng.gumbel(size=weights.shape)
    return np.argsort(-keys, axis=1)[:, : settings["aspects_per_entity"]]


def _all_titles() -> list[str]:
    parts = product(words.TITLE_PATTERNS, words.TITLE_ADJECTIVES, words.TITLE_NOUNS, words.TITLE_THINGS)
    made = (p.format(adjective=adjective, noun=noun, thing=thing) for p, adjective, noun, thing in parts)
    return list(dict.fromkeys(re.sub("^A (?=[AEIO])", "An ", title) for title in made))


def _draw_pairs(world: World, settings: dict[str, Any]) -> np.ndarray:
    """Draw the (pairs, 2) interactions, shuffled: more and stronger shared aspects, likelier pair."""
    rng = numpy_rng(settings["seed"], "glassbox", "interactions")
    users, items = len(world.user_ids), len(world.item_ids)
    strength = _strengths(settings["aspects_per_entity"])
    likes = np.zeros((users, settings["aspects"]), dtype=int)
    np.put_along_axis(likes, world.user_aspects, strength[None, :], axis=1)
    carries = np.zeros((items, settings["aspects"]), dtype=int)
    np.put_along_axis(carries, world.item_aspects, strength[None, :], axis=1)
    affinity = likes @ carries.T / 100
    keys = STEEPNESS * affinity + rng.normal(0, POPULARITY_SPREAD, items) + rng.gumbel(size=affinity.shape)
    keys[affinity == 0] = -np.inf
    mean = settings["interactions_per_user"]
    wanted = rng.integers(mean * 2 // 3, mean * 4 // 3 + 1, size=users)
    wanted = np.minimum(wanted, (affinity > 0).sum(axis=1))
    ranked = np.argsort(-keys, axis=1)
    pairs = [(user, item) for user in range(users) for item in ranked[user, : wanted[user]].tolist()]
    return rng.permutation(np.array(pairs, dtype=int).reshape(-1, 2))


@dataclass(frozen=True)
class _Record:
    user: int
    item: int
    reasons: tuple[int, ...]
    named: tuple[int, ...]
    rating: int
    review: str | None  # None: the raw record has no text
    summary: str
    timestamp: int
    verified: bool
    duplicate: bool = False


def _make_records(world: World, pairs: np.ndarray, settings: dict[str, Any]) -> list[_Record]:
    """Turn pairs into raw records in order of time; now and then praise is written twice."""
    rng = numpy_rng(settings["seed"], "glassbox", "reviews")
    records: list[_Record] = []
    clock = FIRST_TIMESTAMP
    for user, item in pairs.tolist():
        reasons = tuple(world.reasons(user, item))
        kind = rng.random()
        low, textless = kind < LOW_RATING_SHARE, LOW_RATING_SHARE <= kind < LOW_RATING_SHARE + TEXTLESS_SHARE
        named = () if low or textless else reasons[: settings["named_reasons"]]
        copies = 1 + int(bool(named) and rng.random() < DUPLICATE_SHARE)
        for copy in range(copies):
            clock += int(rng.integers(1, LONGEST_STEP_S))
            rating, summary, text = _write_complaint(rng) if low else _write_praise(rng, named)
            verified = bool(rng.random() < 0.9)
            review = None if textless else text
            records.append(_Record(user, item, reasons, named, rating, review, summary, clock, verified, copy > 0))
    return records


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _name(rng: np.random.Generator, aspects: Iterable[int]) -> str:
    """Return a list in English of the aspects, each in one of its surface forms."""
    forms = [_pick(rng, words.ASPECTS[aspect]) for aspect in aspects]
    return " and ".join(part for part in (", ".join(forms[:-1]), forms[-1]) if part)


def _write_praise(rng: np.random.Generator, named: tuple[int, ...]) -> tuple[int, str, str]:
    rating = 5 if rng.random() < FIVE_STAR_SHARE else 4
    sentences = [_pick(rng, words.PRAISE_TEMPLATES).format(reasons=_name(rng, named))] if named else []
    fillers = rng.permutation(len(words.PRAISE_FILLERS))[: int(rng.integers(1, 4))]
    for filler in fillers:
        sentences.insert(int(rng.integers(len(sentences) + 1)), words.PRAISE_FILLERS[filler])
    return rating, _pick(rng, words.PRAISE_SUMMARIES), " ".join(sentences)


def _write_complaint(rng: np.random.Generator) -> tuple[int, str, str]:
    text = f"{_pick(rng, words.COMPLAINTS)} {_pick(rng, words.COMPLAINT_FILLERS)}"
    return int(rng.integers(1, 4)), _pick(rng, words.COMPLAINT_SUMMARIES), text


def _review_line(world: World, record: _Record) -> dict[str, Any]:
    line = {
        "overall": float(record.rating),
        "verified": record.verified,
        "reviewerID": world.user_ids[record.user],
        "asin": world.item_ids[record.item],
        "reviewText": record.review,
        "summary": record.summary,
        "unixReviewTime": record.timestamp,
    }
    if record.review is None:
        # The raw files leave the key out.
        del line["reviewText"]
    return line


def _metadata_lines(world: World, seed: int) -> list[dict[str, Any]]:
    rng = numpy_rng(seed, "glassbox", "descriptions")
    lines = []
    for item, (asin, title) in enumerate(zip(world.item_ids, world.titles, strict=True)):
        shown = world.shown[item].tolist()
        opening = words.DESCRIPTION_WITHOUT_ASPECTS
        if shown:
            opening = _pick(rng, words.DESCRIPTION_TEMPLATES).format(reasons=_name(rng, shown))
        description = f"{opening} {_pick(rng, words.DESCRIPTION_FILLERS)}"
        category = ["Books", "Literature & Fiction"]
        lines.append({"asin": asin, "title": title, "description": [description], "category": category})
    return lines


def _write_json_lines(path: str | Path, lines: Iterable[dict[str, Any]]) -> None:
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with atomic_path(path) as temporary:
        # Without a time in the header equal content is equal bytes.
        temporary.write_bytes(gzip.compress(content.encode(), mtime=0))


def _make_texts(world: World, records: list[_Record], seed: int) -> list[dict[str, Any]]:
    rng = numpy_rng(seed, "glassbox", "references")
    return [
        {
            "user_id": world.user_ids[record.user],
            "item_id": world.item_ids[record.item],
            "split": "train",  # a placeholder: the workflow draws its own split
            "title": world.titles[record.item],
            "user_profile": None,
            "item_profile": None,
            "reference": _pick(rng, words.REFERENCE_TEMPLATES).format(reasons=_name(rng, record.named)),
        }
        for record in records
        if record.named and not record.duplicate
    ]


def _make_truth(world: World, records: list[_Record]) -> list[dict[str, Any]]:
    shown = [set(row) for row in world.shown.tolist()]
    return [
        {
            "user_id": world.user_ids[record.user],
            "item_id": world.item_ids[record.item],
            "reasons": [ASPECT_NAMES[aspect] for aspect in record.reasons],
            "named": [ASPECT_NAMES[aspect] for aspect in record.named],
            "in_profiles": [ASPECT_NAMES[aspect] for aspect in record.reasons if aspect in shown[record.item]],
        }
        for record in records
        if not record.duplicate
    ]


def _report(world: World, records: list[_Record], truth: list[dict[str, Any]], texts: int) -> dict[str, Any]:
    named = [(row, aspect) for row in truth for aspect in row["named"]]
    hidden = sum(aspect not in row["in_profiles"] for row, aspect in named)
    return {
        "users": len(world.user_ids),
        "items": len(world.item_ids),
        "records": len(records),
        "pairs": len(truth),
        "texts": texts,
        "low_ratings": sum(record.rating <= 3 for record in records),
        "without_text": sum(record.review is None for record in records),
        "duplicates": sum(record.duplicate for record in records),
        "mean_reasons": sum(len(row["reasons"]) for row in truth) / max(len(truth), 1),
        "mean_named": len(named) / max(texts, 1),
        "named_hidden_from_description": hidden / max(len(named), 1),
    }
