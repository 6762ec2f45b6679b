"""Does a text follow the user's vector? The reasons that it names when another user's stands in it (docs/questions.md).

In a glassbox alone: only there is it known what any user and any item share.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from xrec_repro.contracts import CORE_INTERACTIONS, EXPLANATIONS
from xrec_repro.data.glassbox import ASPECT_NAMES, find_aspects, make_world
from xrec_repro.embedding_file import load_embeddings, swapped_users
from xrec_repro.errors import DataError
from xrec_repro.io import read_table

SIDES = {"other": "of the other user alone", "own": "of the own user alone"}
Reasons = Callable[[str, str], set[str]]


def swapped_named(
    swapped: Sequence[Mapping[str, Any]], real: Sequence[Mapping[str, Any]], glassbox: dict[str, Any]
) -> pd.DataFrame:
    """Return a line each example, seed and side: how many of its reasons the texts name with both vectors.

    Args:
        swapped: The rows of an experiment with swapped users, one a seed, with the paths explanations, embeddings and
            core.
        real: Those of the experiment that tuned its adapters.
        glassbox: The settings of the world.

    Returns:
        Columns side (of `SIDES`), seed, example_id, user_id, real, swapped (recall, from 0 to 1) and moved (swapped
        less real). A side without reasons has no line.

    Raises:
        DataError: Files are unusable, or the two experiments do not have the same seeds and examples.
    """
    reasons, texts = world_reasons(glassbox), {row["seed"]: row["explanations"] for row in real}
    lines = []
    for row in swapped:
        if row["seed"] not in texts:
            raise DataError(f"{row['explanations']}: seed {row['seed']} of {row['tuned_by']} is not there; run it, too")
        both = _predictions(row["explanations"]).join(_predictions(texts[row["seed"]]), rsuffix="_real", how="inner")
        if both.empty:
            raise DataError(f"{row['explanations']} and {texts[row['seed']]} share no example; explain the same ones")
        others = partners(row["core"], len(load_embeddings(row["embeddings"])[0]), row["seed"])
        for example, one in both.iterrows():
            own, other = reasons(one["user_id"], one["item_id"]), reasons(others[one["user_id"]], one["item_id"])
            named = find_aspects(one["prediction_real"]), find_aspects(one["prediction"])
            lines += [
                {"side": side, "seed": row["seed"], "example_id": example, "user_id": one["user_id"], **found}
                for side, alone in (("other", other - own), ("own", own - other))
                if (found := recalls(alone, *named))
            ]
    return pd.DataFrame(lines, columns=["side", "seed", "example_id", "user_id", "real", "swapped", "moved"])


def recalls(reasons: set[str], real: set[str], swapped: set[str]) -> dict[str, float]:
    """Return which share of the reasons two texts name, and the second's less the first's; {} of no reasons."""
    if not reasons:
        return {}
    shares = {"real": len(reasons & real) / len(reasons), "swapped": len(reasons & swapped) / len(reasons)}
    return shares | {"moved": shares["swapped"] - shares["real"]}


def world_reasons(glassbox: dict[str, Any]) -> Reasons:
    """Return a function that says what a user and an item of a glassbox share, by their ids."""
    world = make_world(glassbox)
    users, items = (
        {name: {ASPECT_NAMES[aspect] for aspect in row} for name, row in zip(ids, rows.tolist(), strict=True)}
        for ids, rows in ((world.user_ids, world.user_aspects), (world.item_ids, world.item_aspects))
    )
    return lambda user, item: users[user] & items[item]


def partners(core: str, count: int, seed: int) -> dict[str, str]:
    """Return the user id of each user -> of the one whose vector it has.

    Args:
        core: The interactions, whose dense ids index the embeddings.
        count: How many users the embeddings are of.
        seed: The run's seed.

    Raises:
        DataError: The interactions have other users than the embeddings.
    """
    ids = read_table(core, CORE_INTERACTIONS, ["user", "user_id"]).to_pandas().drop_duplicates("user")
    names = ids.set_index("user")["user_id"].to_dict()
    if len(names) != count:
        raise DataError(f"{core} has {len(names)} users, the embeddings {count}; train the recommender again")
    return {names[user]: names[other] for user, other in enumerate(swapped_users(count, seed).tolist())}


def _predictions(path: str) -> pd.DataFrame:
    columns = ["example_id", "user_id", "item_id", "prediction"]
    return read_table(path, EXPLANATIONS, columns).to_pandas().set_index("example_id")
