"""Profiles and references as a release brings them, looked up and not written."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xrec_repro.contracts import RELEASED_TEXTS
from xrec_repro.io import read_table

Key = TypeVar("Key", bound=Hashable)
_COLUMNS = ["user_id", "item_id", "user_profile", "item_profile", "reference"]


@dataclass(frozen=True)
class PublishedTexts:
    """The first non-empty text of each user, item and pair of a release.

    Attributes:
        user_profiles: By user_id.
        item_profiles: By item_id.
        references: By (user_id, item_id).
        differing: For each of the three, how many later texts differ from the first and were not used.
    """

    user_profiles: dict[str, str]
    item_profiles: dict[str, str]
    references: dict[tuple[str, str], str]
    differing: dict[str, int]


def read_published(path: str | Path) -> PublishedTexts:
    """Read the written texts of a release.

    Args:
        path: Parquet under the contract RELEASED_TEXTS.

    Raises:
        DataError: The file is missing or lacks a column.
    """
    rows = read_table(path, RELEASED_TEXTS, _COLUMNS).to_pydict()
    users, items = rows["user_id"], rows["item_id"]
    user_profiles, user_differing = _first(users, rows["user_profile"])
    item_profiles, item_differing = _first(items, rows["item_profile"])
    references, reference_differing = _first(zip(users, items, strict=True), rows["reference"])
    differing = {"users": user_differing, "items": item_differing, "references": reference_differing}
    return PublishedTexts(user_profiles, item_profiles, references, differing)


def _first(keys: Iterable[Key], texts: Iterable[str | None]) -> tuple[dict[Key, str], int]:
    """Return the first non-empty text of each key, and the number of later ones that differ from it."""
    first: dict[Key, str] = {}
    differing = 0
    for key, text in zip(keys, texts, strict=True):
        text = (text or "").strip()
        if text:
            differing += first.setdefault(key, text) != text
    return first, differing
