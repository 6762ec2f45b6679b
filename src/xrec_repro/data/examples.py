"""The one join of what the earlier stages know of each pair: texts, profiles, references, ratings and times."""

from pathlib import Path
from typing import Any

import pandas as pd

from xrec_repro.contracts import CORE_INTERACTIONS, EXAMPLES, ITEM_PROFILES, REFERENCES, TEXTS, USER_PROFILES
from xrec_repro.errors import DataError
from xrec_repro.io import read_table, write_table


def join_examples(
    texts: Path,
    references: Path,
    user_profiles: Path | None,
    item_profiles: Path | None,
    interactions: Path,
    out: Path,
) -> dict[str, Any]:
    """Write the examples of all splits, in the order of the split's file.

    Args:
        texts: Contract TEXTS.
        references: Contract REFERENCES; pairs without a reference explanation are left out.
        user_profiles: Contract USER_PROFILES; None where nothing reads profiles.
        item_profiles: Contract ITEM_PROFILES; None likewise.
        interactions: Contract CORE_INTERACTIONS: ratings and times, of the first interaction of a pair.
        out: Contract EXAMPLES. No source has features so far.

    Returns:
        How many examples there are, and how many of them have a rating and a time.

    Raises:
        DataError: A user or item of a pair has no profile.
    """
    rows = read_table(texts, TEXTS).to_pandas()
    rows = rows.merge(read_table(references, REFERENCES).to_pandas(), on="example_id", how="inner")
    rows["title"] = rows["title"].fillna("")
    for kind, path, schema in (("user", user_profiles, USER_PROFILES), ("item", item_profiles, ITEM_PROFILES)):
        if path is None:
            rows[f"{kind}_profile"] = None
            continue
        profiles = read_table(path, schema).to_pandas().set_index(kind)["profile"].dropna()
        unknown = rows.loc[~rows[kind].isin(profiles.index), kind]
        if len(unknown):
            raise DataError(f"{path}: {kind} {unknown.iloc[0]} has no profile; run the profile rule again")
        rows[f"{kind}_profile"] = rows[kind].map(profiles)
    known = read_table(interactions, CORE_INTERACTIONS, ["user", "item", "rating", "timestamp"])
    # As objects: a time must not pass through a float for its neighbour's sake, which has none.
    known = known.to_pandas(integer_object_nulls=True).drop_duplicates(["user", "item"])
    rows = rows.merge(known, on=["user", "item"], how="left", validate="many_to_one").assign(feature=None)
    write_table(out, {name: _values(rows[name]) for name in EXAMPLES.names}, EXAMPLES)
    return {"examples": len(rows)} | {f"with_{name}": int(rows[name].notna().sum()) for name in ("rating", "timestamp")}


def _values(column: pd.Series) -> list[Any]:
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]
