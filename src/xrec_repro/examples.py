"""Examples, as every method reads them: one explained interaction with all that is known of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xrec_repro.contracts import EXAMPLES
from xrec_repro.io import read_table
from xrec_repro.seeding import derive_seed


@dataclass(frozen=True)
class Example:
    """One explained interaction.

    Attributes:
        example_id: Its id within the data set.
        user: Row of the user's embedding.
        item: Row of the item's embedding.
        user_id: The user's id in the raw data.
        item_id: The item's id in the raw data.
        title: The item's title.
        user_profile: Text, or None where the experiment uses no profiles.
        item_profile: Text, or None likewise.
        reference: The reference explanation.
        split: train, val or test.
        rating: The user's rating in stars; None where the data have none.
        timestamp: Seconds since 1970-01-01 UTC; None likewise.
        feature: The word that the explanation is about; None likewise.
        zero_shot: The user has no train edge in the graph.
    """

    example_id: str
    user: int
    item: int
    user_id: str
    item_id: str
    title: str
    user_profile: str | None
    item_profile: str | None
    reference: str
    split: str
    rating: float | None = None
    timestamp: int | None = None
    feature: str | None = None
    zero_shot: bool = False


def load_examples(path: Path, profiles: bool = True) -> list[Example]:
    """Read examples in the order of the split's file.

    Args:
        path: Contract EXAMPLES.
        profiles: False for a method that is not to see any.
    """
    hidden = {} if profiles else {"user_profile": None, "item_profile": None}
    return [Example(**row | hidden) for row in read_table(path, EXAMPLES).to_pylist()]


def draw_subset(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """Draw a share of the examples, at least one of them, and keep their order.

    An example is in or out by its id and the seed, not by its place: variants that see the same test split explain
    the same examples.
    """
    if share >= 1 or not examples:
        return list(examples)
    ranked = sorted(examples, key=lambda e: (derive_seed(seed, "subset", e.example_id), e.example_id))
    chosen = {e.example_id for e in ranked[: max(1, round(share * len(examples)))]}
    return [example for example in examples if example.example_id in chosen]
