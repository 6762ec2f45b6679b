"""What the study left open: what embeddings decide in a text, and how outliers are explained (docs/questions.md).

Tables with intervals: of texts under embeddings of several kinds, how many open as a reference does and how they score;
scores by the rank that the recommender gives the explained item; and the reasons that a text names with another user's
vector (`counterfactual`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xrec_repro.contracts import EXPLANATIONS, GRAPH, TEXTS
from xrec_repro.embedding_file import load_embeddings
from xrec_repro.errors import DataError
from xrec_repro.estimates import bootstrap_interval
from xrec_repro.io import read_table, write_json, write_text
from xrec_repro.kinds import warnings
from xrec_repro.own_texts import is_own
from xrec_repro.paper.counterfactual import SIDES, swapped_named
from xrec_repro.paper.render import number, span, text_table
from xrec_repro.scores import by_experiment, read_scores, with_summaries
from xrec_repro.statistic_settings import Settings

ZERO_SHOT = "zero-shot"
FEWEST = 10  # values that an interval is made from
_FORM = (
    "What embeddings decide: form or content. Own opening: texts whose first {words} words are those of their own "
    "reference. Known opening: those of any reference explained here."
)
_RANKS = "Outliers: {metric} by the rank of the explained item for the user."
_RANK_NOTE = (
    "Rank: of the item among all that the user has no train edge to, by user · item of the recommender of {of}, in "
    "each seed; 1 is the highest. An example stands in each range that a seed's recommender gives it. zero-shot: users "
    "without train edges, whose embedding is as it was drawn."
)
_SWAPPED = "Does a text follow the user's vector? Shared reasons that it names with the own and with another user's."
_SWAPPED_NOTE = (
    "The prompt stays the own user's. Of the other user alone: reasons that the other user and the item share, and the "
    "own user does not have; of the own user alone likewise. Moved: with the other's vector less with the own."
)
_SCOPE = (
    "Intervals are over texts and users, for these trainings ({seeds}): they do not tell how newly trained models "
    "would write."
)
Rows = Sequence[Mapping[str, Any]]


def write_questions(
    rows: Iterable[Mapping[str, Any]], settings: Mapping[str, Any], out_json: str | Path, out_md: str | Path
) -> None:
    """Write the two tables.

    Args:
        rows: One a data set, experiment and seed: dataset, dataset_label, experiment, experiment_label, seed, kind,
            embeddings_as (``embeddings.as``, None of a method that reads none), tuned_by, and the paths explanations,
            scores, summary, graph, texts, core, and embeddings (or None).
        settings: ``words`` (of an opening), ``metrics`` (the first that a data set has is the score), ``ranks`` (upper
            ends of the ranges, rising), ``glassbox``: data set -> settings of its world, for those that are one, and
            ``statistics``: that section.
        out_json: All numbers, unrounded.
        out_md: The tables for people.

    Raises:
        DataError: Files are unusable or contradict each other.
    """
    statistics = Settings.from_settings(settings["statistics"])
    groups = by_experiment(with_summaries(list(rows)))
    form, ranked, moved = [], [], []
    for dataset in dict.fromkeys(group[0]["dataset"] for group in groups):
        own = [group for group in groups if group[0]["dataset"] == dataset]
        metric = _metric(own, settings["metrics"])
        tables = {group[0]["experiment"]: _read(group, metric, settings["words"]) for group in own}
        form += [_form(group, tables[group[0]["experiment"]], metric, statistics) for group in own]
        ranks, of = _ranks(own, statistics.reference)
        if ranks is not None and metric is not None:
            for group in own:
                ranked += _by_rank(group, tables[group[0]["experiment"]], ranks, of, metric, settings, statistics)
        moved += _moved(own, settings["glassbox"].get(dataset), statistics)
    write_json(out_json, {"form": form, "ranks": ranked, "swapped": moved})
    write_text(out_md, _report(form, ranked, moved, settings, statistics))


def opening(text: str, words: int) -> str:
    """Return the first words of a text, in lower case and separated by a blank; "" of one that has fewer."""
    tokens = text.lower().split()
    return " ".join(tokens[:words]) if len(tokens) >= words else ""


def ranks_of(users: np.ndarray, items: np.ndarray, pairs: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the rank of each pair's item for its user, among the items that the user has no train edge to.

    rank = 1 + |{j not in train(u): u · j > u · i}|: of equal scores all have the better rank.

    Args:
        users: Embeddings, shape ``(users, dim)``.
        items: Embeddings, shape ``(items, dim)``.
        pairs: User and item, shape ``(pairs, 2)``.
        train: The same of train edges.

    Returns:
        Shape ``(pairs,)``.
    """
    seen = pd.DataFrame(train, columns=["user", "item"]).groupby("user")["item"].agg(list).to_dict()
    found = np.empty(len(pairs), dtype=np.int64)
    for user in np.unique(pairs[:, 0]):
        scores, mine = items @ users[user], np.flatnonzero(pairs[:, 0] == user)
        own = scores[pairs[mine, 1]]
        scores[seen.get(user, [])] = -np.inf
        found[mine] = 1 + (scores[None] > own[:, None]).sum(axis=1)
    return found


def range_of(rank: int, ends: Sequence[int]) -> str:
    """Return the name of the range that a rank is in, e.g. ``11-50``, or ``>200`` beyond the last."""
    low = 1
    for end in ends:
        if rank <= end:
            return f"{low}-{end}"
        low = end + 1
    return f">{ends[-1]}"


def _metric(groups: Sequence[Rows], metrics: Sequence[str]) -> str | None:
    scored = {metric for group in groups for row in group for metric in row["summary"]}
    return next((metric for metric in metrics if metric in scored), None)


def _read(rows: Rows, metric: str | None, words: int) -> pd.DataFrame:
    """Return a line each example and seed: seed, example_id, user_id, own, opening, reference's opening and score."""
    parts = []
    for row in rows:
        columns = ["example_id", "user_id", "reference", "prediction"]
        texts = read_table(row["explanations"], EXPLANATIONS, columns).to_pandas()
        begun = [[opening(text, words) for text in texts[name]] for name in ("prediction", "reference")]
        # A text whose pair the split lacks counts as one of a user who has no other.
        users = texts["user_id"].mask(texts["example_id"].map(is_own).astype(bool), texts["example_id"])
        part = texts[["example_id"]].assign(user_id=users, seed=row["seed"], opening=begun[0], expected=begun[1])
        scored = read_scores(row["scores"], [metric])[metric] if metric in row["summary"] else pd.Series(dtype=float)
        parts.append(part.assign(score=part["example_id"].map(scored).astype(float)))
    found = pd.concat(parts, ignore_index=True)
    known = set(found["expected"]) - {""}
    own = (found["opening"] == found["expected"]) & (found["opening"] != "")
    return found.assign(own=own.astype(float), known=found["opening"].isin(known).astype(float))


def _form(rows: Rows, table: pd.DataFrame, metric: str | None, statistics: Settings) -> dict[str, Any]:
    numbers = {name: _mean(table, name, statistics) for name in ("own", "known", "score")}
    return _about(rows) | {"metric": metric, "embeddings_as": rows[0]["embeddings_as"]} | numbers


def _ranks(groups: Sequence[Rows], reference: str) -> tuple[pd.DataFrame | None, str]:
    """Return seed, example_id, rank and zero_shot by the recommender of one experiment, and that experiment's name.

    It is the reference experiment where that reads embeddings, else the first that does.
    """
    having = [group for group in groups if all(row["embeddings"] for row in group)]
    having.sort(key=lambda group: group[0]["experiment"] != reference)
    if not having:
        return None, ""
    parts = []
    for row in having[0]:
        pairs = read_table(row["texts"], TEXTS, ["example_id", "user", "item", "split", "zero_shot"]).to_pandas()
        pairs = pairs[pairs["split"] == "test"]
        edges = read_table(row["graph"], GRAPH).to_pandas()
        train = edges.loc[edges["split"] == "train", ["user", "item"]].to_numpy()
        users, items = (table.numpy().astype(np.float64) for table in load_embeddings(row["embeddings"]))
        for name, table in (("user", users), ("item", items)):
            if len(pairs) and pairs[name].max() >= len(table):
                raise DataError(f"{row['embeddings']}: no {name} {pairs[name].max()}; train the recommender again")
        ranks = ranks_of(users, items, pairs[["user", "item"]].to_numpy(), train)
        parts.append(pairs[["example_id", "zero_shot"]].assign(seed=row["seed"], rank=ranks))
    return pd.concat(parts, ignore_index=True), having[0][0]["experiment_label"]


def _by_rank(
    rows: Rows,
    table: pd.DataFrame,
    ranks: pd.DataFrame,
    of: str,
    metric: str,
    settings: Mapping[str, Any],
    statistics: Settings,
) -> list[dict[str, Any]]:
    known = table[~table["example_id"].map(is_own).astype(bool)]
    joined = known.merge(ranks, on=["example_id", "seed"], how="left")
    if joined["rank"].isna().any():
        example = joined.loc[joined["rank"].isna(), "example_id"].iloc[0]
        raise DataError(f"{rows[0]['texts']}: {example} of {rows[0]['experiment']} is no test example; explain again")
    ends = settings["ranks"]
    names = [range_of(rank, ends) for rank in (*ends, ends[-1] + 1)] + [ZERO_SHOT]
    joined["range"] = [
        ZERO_SHOT if zero else range_of(rank, ends)
        for rank, zero in zip(joined["rank"].astype(int), joined["zero_shot"], strict=True)
    ]
    found = []
    for name in (name for name in names if (joined["range"] == name).any()):
        score = _mean(joined[joined["range"] == name], "score", statistics)
        found.append(_about(rows) | {"metric": metric, "ranks_of": of, "range": name, "score": score})
    return found


def _moved(groups: Sequence[Rows], glassbox: dict[str, Any] | None, statistics: Settings) -> list[dict[str, Any]]:
    if glassbox is None:
        return []
    found, by_name = [], {group[0]["experiment"]: group for group in groups}
    for group in (group for group in groups if group[0]["embeddings_as"] == "swapped"):
        lines = swapped_named(group, by_name[group[0]["tuned_by"]], glassbox)
        for side in SIDES:
            of = lines[lines["side"] == side]
            numbers = {name: _mean(of, name, statistics) for name in ("real", "swapped", "moved")}
            found.append(_about(group) | {"side": side} | numbers)
    return found


def _about(rows: Rows) -> dict[str, Any]:
    kept = {key: rows[0][key] for key in ("dataset", "dataset_label", "experiment", "experiment_label", "kind")}
    return kept | {"seeds": [row["seed"] for row in rows]}


def _mean(table: pd.DataFrame, column: str, statistics: Settings) -> dict[str, Any]:
    """Return mean, interval and number of the examples, each with the mean of its seeds."""
    scored = table[table[column].notna()]
    if scored.empty:
        return {"mean": None, "low": None, "high": None, "n": 0}
    examples = scored.groupby("example_id").agg(value=(column, "mean"), user=("user_id", "first"))
    values, users = examples["value"].to_numpy(), np.unique(examples["user"], return_inverse=True)[1]
    low, high = bootstrap_interval(values, "mean", statistics, users) if len(values) >= FEWEST else (None, None)
    return {"mean": float(values.mean()), "low": low, "high": high, "n": len(values)}


def _report(form: Rows, ranked: Rows, moved: Rows, settings: Mapping[str, Any], statistics: Settings) -> str:
    bounds = f"{statistics.confidence:.0%} interval"
    seeds = min(len(row["seeds"]) for row in form)
    notes = [_SCOPE.format(seeds=f"{seeds} seed{'s' * (seeds > 1)}"), *warnings(row["kind"] for row in form)]
    score = " / ".join(dict.fromkeys(one["metric"] or "not scored" for one in form))
    lines = [
        (
            one["dataset_label"],
            [one["experiment_label"], one["embeddings_as"] or "–", *_cells(one, "own", "known", "score")],
        )
        for one in form
    ]
    heads = ["Own opening", bounds, "Known opening", bounds, score, bounds, "N"]
    caption = _FORM.format(words=settings["words"])
    parts = [text_table(caption, ["Experiment", "Embeddings"], heads, lines, notes)]
    if ranked:
        lines = [
            (one["dataset_label"], [one["experiment_label"], one["range"], *_cells(one, "score")]) for one in ranked
        ]
        note = _RANK_NOTE.format(of=" / ".join(dict.fromkeys(one["ranks_of"] for one in ranked)))
        parts.append(
            text_table(_RANKS.format(metric=score), ["Experiment", "Rank"], [score, bounds, "N"], lines, [note, *notes])
        )
    if moved:
        lines = [
            (
                one["dataset_label"],
                [one["experiment_label"], SIDES[one["side"]], *_cells(one, "real", "swapped", "moved")],
            )
            for one in moved
        ]
        heads = ["Own vector", bounds, "Other's vector", bounds, "Moved", bounds, "N"]
        parts.append(text_table(_SWAPPED, ["Experiment", "Reasons"], heads, lines, [_SWAPPED_NOTE, *notes]))
    return "\n".join(parts)


def _cells(one: Mapping[str, Any], *names: str) -> list[str]:
    cells = [text for name in names for text in (number(one[name]["mean"]), span(one[name]["low"], one[name]["high"]))]
    return [*cells, str(one[names[0]]["n"])]
