"""Builds the profiles of all users and items, and the reference explanations, with a chosen backend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from xrec_repro.contracts import (
    CORE_INTERACTIONS,
    CORE_ITEMS,
    GRAPH,
    ITEM_PROFILES,
    REFERENCES,
    TEXTS,
    USER_PROFILES,
)
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_table, write_table
from xrec_repro.profiles.extractive import ExtractiveBackend
from xrec_repro.profiles.published import PublishedTexts, read_published
from xrec_repro.profiles.records import ItemText, ReviewText, UserEntry, UserText
from xrec_repro.seeding import numpy_rng

DOMAINS = ("book", "business")
NEUTRAL_USER = "Nothing is known yet about what this user enjoys."
NEUTRAL_ITEM = "Nothing is known yet about who would enjoy this {noun}."

# One text an entity, in the order of the dense ids; None where there is nothing to write from.
Texts = list[str | None]


class ProfileBackend(Protocol):
    """What writes texts: one a record, in the order of the records."""

    def item_profiles(self, items: Sequence[ItemText]) -> list[str]:
        """Summarise what kind of people would enjoy each item."""

    def user_profiles(self, users: Sequence[UserText]) -> list[str]:
        """Summarise what each user tends to enjoy."""

    def references(self, reviews: Sequence[ReviewText]) -> list[str]:
        """Explain each interaction from its review."""

    def report(self) -> dict[str, Any]:
        """Return what provenance says of the writing, e.g. which model answered."""


@dataclass(frozen=True)
class _Context:
    """What a backend may draw on.

    Attributes:
        users: user_id by dense id.
        items: Core items in the order of their dense ids.
        history: The train edges with rating and review (None where unknown), ordered by user, then item.
        settings: Section `profiles`.
        domain: book | business.
        published_texts: File of the backend `published`.
        chat: Writer of the backend `chat`.
    """

    users: list[str]
    items: pd.DataFrame
    history: pd.DataFrame
    settings: dict[str, Any]
    domain: str
    published_texts: str | Path | None
    chat: ProfileBackend | None


def build_profiles(
    core_interactions: str | Path,
    core_items: str | Path,
    graph: str | Path,
    settings: dict[str, Any],
    domain: str,
    out_users: str | Path,
    out_items: str | Path,
    *,
    published_texts: str | Path | None = None,
    chat: ProfileBackend | None = None,
) -> dict[str, Any]:
    """Write one profile for every user and item of the core.

    Only train edges of the graph feed a profile, so that no held-out review leaks into a prompt. Items come
    first: a user's profile is written from those of some items of the history and the user's reviews of them.

    Args:
        core_interactions: CORE_INTERACTIONS.
        core_items: CORE_ITEMS.
        graph: GRAPH.
        settings: Section `profiles` of the configuration.
        domain: book | business. Books are described by title and description, businesses also by reviews.
        out_users: Where to write USER_PROFILES.
        out_items: Where to write ITEM_PROFILES.
        published_texts: RELEASED_TEXTS, for the backend `published`.
        chat: The writer of the backend `chat`.

    Returns:
        Counts: users, items, users without a train edge (cold), entities with a neutral profile, and more.

    Raises:
        ConfigError: The backend or domain is unknown, or the chat backend has no writer.
        DataError: A file is unusable, or published profiles are asked for and there are none.
    """
    write = _choose(PROFILE_BACKENDS, settings["backend"], "profiles.backend")
    _check_domain(domain)
    users, interactions = _read_interactions(core_interactions)
    items = _read_items(core_items)
    history = _train_history(interactions, graph, len(users), len(items))
    context = _Context(users, items, history, settings, domain, published_texts, chat)
    item_texts, user_texts, extra = write(context)
    item_rows = [text or NEUTRAL_ITEM.format(noun=domain) for text in item_texts]
    user_rows = [text or NEUTRAL_USER for text in user_texts]
    write_table(out_items, {"item": range(len(items)), "profile": item_rows}, ITEM_PROFILES)
    write_table(out_users, {"user": range(len(users)), "profile": user_rows}, USER_PROFILES)
    cold = len(users) - history["user"].nunique()
    return {"backend": settings["backend"], "cold_users": cold, **_count(user_texts, item_texts), **extra}


def _count(user_texts: Texts, item_texts: Texts) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for kind, texts in (("users", user_texts), ("items", item_texts)):
        written = [text for text in texts if text]
        counts |= {kind: len(texts), f"neutral_{kind}": len(texts) - len(written)}
        counts[f"mean_words_{kind}"] = _mean_words(written)
    return counts


def build_references(
    core_interactions: str | Path,
    core_items: str | Path,
    texts: str | Path,
    settings: dict[str, Any],
    domain: str,
    out_references: str | Path,
    *,
    published_texts: str | Path | None = None,
    chat: ProfileBackend | None = None,
) -> dict[str, Any]:
    """Write the reference explanation of every pair that has one.

    Args:
        core_interactions: CORE_INTERACTIONS: the reviews.
        core_items: CORE_ITEMS: the titles.
        texts: TEXTS: the pairs.
        settings: Section `profiles` of the configuration.
        domain: book | business.
        out_references: Where to write REFERENCES, in the order of `texts`.
        published_texts: RELEASED_TEXTS, for `references: published`.
        chat: The writer of `references: chat`.

    Returns:
        Counts; `dropped` is the number of pairs without a published reference or without a review.

    Raises:
        ConfigError: The backend or domain is unknown, or the chat backend has no writer.
        DataError: A file is unusable, a pair is not of the core, or no pair at all has a reference.
    """
    write = _choose(REFERENCE_BACKENDS, settings["references"], "profiles.references")
    _check_domain(domain)
    users, interactions = _read_interactions(core_interactions)
    items = _read_items(core_items)
    pairs = read_table(texts, TEXTS, ["example_id", "user", "item", "user_id", "item_id"]).to_pandas()
    _check_edges(texts, pairs, len(users), len(items))
    context = _Context(users, items, interactions, settings, domain, published_texts, chat)
    references, extra = write(context, pairs)
    kept = [row for row, text in enumerate(references) if text]
    if not kept:
        raise DataError(
            f"{texts}: none of {len(pairs)} pairs has a reference explanation with profiles.references: "
            f"{settings['references']}; choose another way or other texts"
        )
    written, pairs_kept = [references[row] for row in kept], pairs.iloc[kept]
    titles = items["title"].fillna("").iloc[pairs_kept["item"]].tolist()
    rows = {"example_id": pairs_kept["example_id"], "title": titles, "reference": written}
    write_table(out_references, rows, REFERENCES)
    counts = {"references": len(kept), "dropped": len(pairs) - len(kept), "without_title": titles.count("")}
    return {"backend": settings["references"], **counts, "mean_words": _mean_words(written), **extra}


# --- Backends -----------------------------------------------------------------------------------------------


def _published_profiles(context: _Context) -> tuple[Texts, Texts, dict[str, Any]]:
    published = _published(context)
    if not published.user_profiles or not published.item_profiles:
        raise DataError(f"{context.published_texts}: holds no profiles; set profiles.backend to extractive or chat")
    items = [published.item_profiles.get(item_id) for item_id in context.items["item_id"]]
    users = [published.user_profiles.get(user_id) for user_id in context.users]
    differing = {f"differing_{kind}": published.differing[kind] for kind in ("users", "items")}
    return items, users, differing


def _extractive_profiles(context: _Context) -> tuple[Texts, Texts, dict[str, Any]]:
    return _write_profiles(context, _extractive(context))


def _chat_profiles(context: _Context) -> tuple[Texts, Texts, dict[str, Any]]:
    return _write_profiles(context, _chat(context))


def _write_profiles(context: _Context, backend: ProfileBackend) -> tuple[Texts, Texts, dict[str, Any]]:
    records = _item_texts(context)
    known = [bool(r.title or r.description or r.categories or r.reviews) for r in records]
    items = _write_known(records, known, backend.item_profiles)
    histories = _user_texts(context, [text or NEUTRAL_ITEM.format(noun=context.domain) for text in items])
    told = [bool(h.entries) for h in histories]
    users = _write_known(histories, told, backend.user_profiles)
    unanswered = _unanswered("items", context.items["item_id"], known, items)
    return items, users, backend.report() | unanswered | _unanswered("users", context.users, told, users)


def _write_known(records: list[Any], known: list[bool], write: Callable[[list[Any]], list[str]]) -> Texts:
    """Write the texts of the known records and put None for the others."""
    written = iter(write([record for record, is_known in zip(records, known, strict=True) if is_known]))
    return [next(written) if is_known else None for is_known in known]


def _unanswered(what: str, ids: Sequence[str], known: Sequence[bool], texts: Texts) -> dict[str, list[str]]:
    """List, for the provenance, the ids of what was asked about and has no text, if there are any."""
    found = [name for name, asked, text in zip(ids, known, texts, strict=True) if asked and not text]
    return {f"unanswered_{what}": found} if found else {}


def _published_references(context: _Context, pairs: pd.DataFrame) -> tuple[Texts, dict[str, Any]]:
    published = _published(context)
    keys = zip(pairs["user_id"], pairs["item_id"], strict=True)
    references = [published.references.get(key) for key in keys]
    return references, {"differing_references": published.differing["references"]}


def _extractive_references(context: _Context, pairs: pd.DataFrame) -> tuple[Texts, dict[str, Any]]:
    return _write_references(context, pairs, _extractive(context))


def _chat_references(context: _Context, pairs: pd.DataFrame) -> tuple[Texts, dict[str, Any]]:
    return _write_references(context, pairs, _chat(context))


def _write_references(context: _Context, pairs: pd.DataFrame, backend: ProfileBackend) -> tuple[Texts, dict[str, Any]]:
    first = context.history.drop_duplicates(["user", "item"])
    joined = pairs[["user", "item"]].merge(first, on=["user", "item"], how="left")
    records = [ReviewText(_text(review) or "") for review in joined["review"]]
    known = [bool(record.review) for record in records]
    texts = _write_known(records, known, backend.references)
    return texts, backend.report() | _unanswered("references", pairs["example_id"], known, texts)


PROFILE_BACKENDS = {"published": _published_profiles, "extractive": _extractive_profiles, "chat": _chat_profiles}
REFERENCE_BACKENDS = {
    "published": _published_references,
    "extractive": _extractive_references,
    "chat": _chat_references,
}


def _choose(backends: dict[str, Callable[..., Any]], name: str, key: str) -> Callable[..., Any]:
    if name not in backends:
        raise ConfigError(f"{key}: {name!r} is not one of {', '.join(backends)}")
    return backends[name]


def _published(context: _Context) -> PublishedTexts:
    if context.published_texts is None:
        raise DataError("published texts are asked for, but this data set has none; use extractive or chat")
    return read_published(context.published_texts)


def _extractive(context: _Context) -> ExtractiveBackend:
    reviews = [text for text in _text_array(context.history["review"]) if text]
    return ExtractiveBackend(context.domain, context.settings["max_words"], reviews)


def _chat(context: _Context) -> ProfileBackend:
    if context.chat is None:
        raise ConfigError("profiles: the backend 'chat' needs a chat writer, and none was given")
    return context.chat


# --- Records ------------------------------------------------------------------------------------------------


def _item_texts(context: _Context) -> list[ItemText]:
    """Return what is known of each item; reviews are drawn by an item's own stream."""
    count = context.settings["reviews_per_item"] if context.domain == "business" else 0
    reviews = _text_array(context.history["review"])
    has_text = np.flatnonzero([text is not None for text in reviews])
    groups = _groups(context.history["item"].to_numpy()[has_text], len(context.items))
    records = []
    for row, group in zip(context.items.itertuples(), groups, strict=True):
        drawn = _sample(group, count, context.settings["seed"], "item_reviews", row.item_id)
        chosen = tuple(reviews[has_text[drawn]])
        fields = (_text(row.description), _text(row.categories), _text(row.city))
        records.append(ItemText(_text(row.title) or "", *fields, chosen))
    return records


def _user_texts(context: _Context, item_profiles: list[str]) -> list[UserText]:
    """Return a sample of each user's training history; it is drawn by the user's own stream."""
    titles = _text_array(context.items["title"])
    item = context.history["item"].to_numpy()
    reviews = _text_array(context.history["review"])
    ratings = context.history["rating"].to_numpy()
    settings = context.settings

    def entry(row: int) -> UserEntry:
        rating = None if np.isnan(ratings[row]) else float(ratings[row])
        return UserEntry(titles[item[row]] or "", item_profiles[item[row]], reviews[row], rating)

    groups = _groups(context.history["user"].to_numpy(), len(context.users))
    drawn = (
        _sample(group, settings["items_per_user"], settings["seed"], "user_items", user_id)
        for user_id, group in zip(context.users, groups, strict=True)
    )
    return [UserText(tuple(map(entry, rows.tolist()))) for rows in drawn]


def _groups(keys: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the positions of each key 0..count-1, in order."""
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(count + 1))
    return [order[start:stop] for start, stop in pairwise(bounds)]


def _sample(rows: np.ndarray, count: int, seed: int, *names: object) -> np.ndarray:
    """Draw at most `count` rows, in order. Each entity has its own stream, so a new one shifts no other."""
    if len(rows) <= count:
        return rows
    return np.sort(numpy_rng(seed, "profiles", *names).choice(rows, count, replace=False))


# --- Files --------------------------------------------------------------------------------------------------


def _read_interactions(path: str | Path) -> tuple[list[str], pd.DataFrame]:
    """Return the user ids in the order of the dense ids, and the interactions."""
    columns = ["user", "item", "user_id", "rating", "review"]
    frame = read_table(path, CORE_INTERACTIONS, columns).to_pandas()
    users = frame.drop_duplicates("user").sort_values("user")
    _check_dense(path, users["user"], "user")
    return users["user_id"].tolist(), frame[["user", "item", "rating", "review"]]


def _read_items(path: str | Path) -> pd.DataFrame:
    frame = read_table(path, CORE_ITEMS).to_pandas().sort_values("item", ignore_index=True)
    _check_dense(path, frame["item"], "item")
    return frame


def _train_history(interactions: pd.DataFrame, graph: str | Path, users: int, items: int) -> pd.DataFrame:
    edges = read_table(graph, GRAPH).to_pandas()
    _check_edges(graph, edges, users, items)
    train = edges.loc[edges["split"] == "train", ["user", "item"]].drop_duplicates()
    known = interactions.drop_duplicates(["user", "item"])
    joined = train.merge(known, on=["user", "item"], how="left", validate="one_to_one")
    return joined.sort_values(["user", "item"], ignore_index=True)


def _check_dense(path: str | Path, ids: pd.Series, what: str) -> None:
    if not len(ids):
        raise DataError(f"{path}: no {what}s; relax the k-core")
    wrong = np.flatnonzero(ids.to_numpy() != np.arange(len(ids)))
    if len(wrong):
        raise DataError(f"{path}: {what} {wrong[0]} is missing or double; run the k-core rule again")


def _check_edges(path: str | Path, edges: pd.DataFrame, users: int, items: int) -> None:
    for what, count in (("user", users), ("item", items)):
        outside = np.flatnonzero((edges[what] < 0) | (edges[what] >= count))
        if len(outside):
            row = outside[0]
            found = edges[what].iloc[row]
            raise DataError(f"{path}: row {row}: {what} {found} is not of the core; run the split rule again")


def _check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise ConfigError(f"domain {domain!r} is not one of {', '.join(DOMAINS)}")


def _text(value: Any) -> str | None:
    """Return stripped text, or None for what is missing or empty."""
    return (value.strip() or None) if isinstance(value, str) else None


def _text_array(column: pd.Series) -> np.ndarray:
    # Not Series.map: a string column would turn None into NaN.
    return np.array([*map(_text, column), None], dtype=object)[:-1]


def _mean_words(texts: Sequence[str]) -> float:
    return sum(len(text.split()) for text in texts) / max(len(texts), 1)
