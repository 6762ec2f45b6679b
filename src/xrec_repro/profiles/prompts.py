"""The prompts with which the XRec release had its profiles and reference explanations written.

The system messages in ``prompt_texts`` are those of the public release (HKUDS/XRec, commit 79e2cd4,
Apache-2.0, ``generation/instructions``), byte for byte. The user messages take the form of the release's
example prompts, which exist for Yelp only; the other styles use the attribute names that their system
messages announce.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

from xrec_repro.errors import ConfigError
from xrec_repro.profiles.records import ItemText, ReviewText, UserEntry, UserText

PACKAGE_DATA = ("prompt_texts/*.txt",)
# Which of the release's prompts a domain uses unless a style is named.
DOMAIN_STYLE = {"book": "amazon", "business": "yelp"}
STYLES = ("amazon", "yelp", "google")
KINDS = ("item", "user", "exp")
RELEASE_MAX_WORDS = 50

_HISTORY_KEY = {
    "amazon": "PURCHASED BOOKS",
    "yelp": "PURCHASED BUSINESSES",
    "google": "INTERACTED BUSINESSES",
}


def domain_style(domain: str) -> str:
    """Return the release whose prompts fit a domain: ``book`` -> ``amazon``, ``business`` -> ``yelp``.

    Raises:
        ConfigError: The domain has no prompts.
    """
    if domain not in DOMAIN_STYLE:
        raise ConfigError(f"domain {domain!r} has no profile prompts; use one of {', '.join(DOMAIN_STYLE)}")
    return DOMAIN_STYLE[domain]


@lru_cache
def system_prompt(style: str, kind: str, max_words: int = RELEASE_MAX_WORDS) -> str:
    """Return the system message of one kind of text.

    Args:
        style: ``amazon``, ``yelp`` or ``google``.
        kind: ``item`` or ``user`` (profiles), ``exp`` (reference explanations).
        max_words: The limit that the message names; 50 gives the released text unchanged.

    Raises:
        ConfigError: The release has no such prompt.
    """
    if style not in STYLES or kind not in KINDS:
        raise ConfigError(f"no prompt {style}_{kind}; styles: {', '.join(STYLES)}; kinds: {', '.join(KINDS)}")
    file = resources.files("xrec_repro.profiles") / "prompt_texts" / f"{style}_{kind}.txt"
    text = file.read_bytes().decode("utf-8")
    return text.replace(f"{RELEASE_MAX_WORDS} words", f"{max_words} words")


def item_message(style: str, item: ItemText) -> str:
    """Return the user message that asks for an item profile."""
    if style == "amazon":
        return json.dumps({"title": item.title, "description": _or_none(item.description)})
    if style == "google":
        return json.dumps({"name": item.title, "description": _or_none(item.description)})
    basic = {"name": item.title, "city": _or_none(item.city), "categories": _or_none(item.categories)}
    # The released prompts show Python's repr of a dict and a list here, not JSON.
    return f"BASIC INFORMATION: \n{basic}\nUSER FEEDBACK: \n{list(item.reviews)}"


def user_message(style: str, user: UserText) -> str:
    """Return the user message that asks for a user profile."""
    return json.dumps({_HISTORY_KEY[style]: [_history_entry(style, entry) for entry in user.entries]})


def reference_message(review: ReviewText) -> str:
    """Return the user message that asks for a reference explanation, the same in all styles."""
    return json.dumps({"review": review.review}, indent=4)


def _history_entry(style: str, entry: UserEntry) -> dict[str, str | float]:
    review = _or_none(entry.review)
    if style == "yelp":
        # The system message announces "review"; the prompts that were sent say "feedback".
        return {"title": entry.title, "description": entry.item_profile, "feedback": review}
    if style == "google":
        return {"name": entry.title, "description": entry.item_profile, "review": review}
    rating = "None" if entry.rating is None else entry.rating
    return {"title": entry.title, "description": entry.item_profile, "review": review, "rating": rating}


def _or_none(text: str | None) -> str:
    """Return the text, or the word that the system messages give to an absent one."""
    return text if text and text.strip() else "None"
