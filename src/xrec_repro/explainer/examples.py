"""Examples: the split's pairs joined with titles, profiles and reference explanations."""

from collections.abc import Sequence
from pathlib import Path

from xrec_repro.contracts import ITEM_PROFILES, REFERENCES, TEXTS, USER_PROFILES
from xrec_repro.errors import DataError
from xrec_repro.explainer.prompts import Example
from xrec_repro.io import read_table
from xrec_repro.seeding import derive_seed


def load_examples(
    texts: Path, references: Path, user_profiles: Path | None = None, item_profiles: Path | None = None
) -> list[Example]:
    """Join the files of the data and profile stages into examples, in the order of the split's file.

    Args:
        texts: Contract TEXTS.
        references: Contract REFERENCES; pairs without a reference explanation are left out.
        user_profiles: Contract USER_PROFILES, or None where prompts carry no profiles.
        item_profiles: Contract ITEM_PROFILES, or None likewise.

    Raises:
        DataError: A user or item of a pair has no profile.
    """
    written = {row["example_id"]: row for row in read_table(references, REFERENCES).to_pylist()}
    users = _profiles(user_profiles, USER_PROFILES, "user")
    items = _profiles(item_profiles, ITEM_PROFILES, "item")
    return [
        Example(
            example_id=row["example_id"],
            user=row["user"],
            item=row["item"],
            user_id=row["user_id"],
            item_id=row["item_id"],
            title=written[row["example_id"]]["title"] or "",
            user_profile=_profile(users, row["user"], "user", user_profiles),
            item_profile=_profile(items, row["item"], "item", item_profiles),
            reference=written[row["example_id"]]["reference"],
            split=row["split"],
        )
        for row in read_table(texts, TEXTS).to_pylist()
        if row["example_id"] in written
    ]


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


def _profiles(path: Path | None, schema, key: str) -> dict[int, str] | None:
    if path is None:
        return None
    table = read_table(path, schema)
    return dict(zip(table[key].to_pylist(), table["profile"].to_pylist(), strict=True))


def _profile(profiles: dict[int, str] | None, index: int, kind: str, path: Path | None) -> str | None:
    if profiles is None:
        return None
    if profiles.get(index) is None:
        raise DataError(f"{path}: {kind} {index} has no profile; run the profile rule again")
    return profiles[index]
