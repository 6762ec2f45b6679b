"""Texts about one item, one user or one interaction, as every profile backend receives them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ItemText:
    """What is known about an item before it has a profile.

    Attributes:
        title: Name of the book or business.
        description: Free text of the catalogue, where there is one (books).
        categories: Categories as one string, where there are any (businesses).
        city: City of the business; None for books.
        reviews: Reviews of the item from the training split, in a fixed order.
    """

    title: str
    description: str | None
    categories: str | None
    city: str | None
    reviews: tuple[str, ...]


@dataclass(frozen=True)
class UserEntry:
    """One item of a user's training history.

    Attributes:
        title: Name of the item.
        item_profile: Profile already written for the item.
        review: The user's review of it; None where it has no text.
        rating: The user's rating in stars; None where unknown.
    """

    title: str
    item_profile: str
    review: str | None
    rating: float | None


@dataclass(frozen=True)
class UserText:
    """A user's training history, the input of a user profile."""

    entries: tuple[UserEntry, ...]


@dataclass(frozen=True)
class ReviewText:
    """One review, the input of a reference explanation."""

    review: str
