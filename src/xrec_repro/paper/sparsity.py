"""Scores by how often a test user occurs in the training data: the numbers of figure 4 of the XRec paper."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xrec_repro.contracts import GRAPH, TEXTS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.estimates import bootstrap_interval
from xrec_repro.io import read_table, write_json, write_text
from xrec_repro.own_texts import is_own
from xrec_repro.paper.rows import ranges
from xrec_repro.scores import by_experiment, read_scores, reason_of
from xrec_repro.statistic_settings import Settings

ZERO_SHOT = "zero-shot"
NOTHING_SCORED = "paper.sparsity.metrics: none of {} is scored; name others or score one"
Interval = Callable[[np.ndarray, np.ndarray], tuple[float, float]]  # of scores, and whose they are
FEWEST = 10  # scores that an interval is made from: a bootstrap of fewer says little, and what it says is too narrow


def sparsity_groups(
    train_counts: Mapping[Hashable, int], zero_shot: Collection[Hashable], groups: int = 5
) -> dict[Hashable, str]:
    """Cut users into groups of equal size by their number of train appearances (HKUDS/XRec, issue 6).

    Users of the same count are ranked by their id. Where the users cannot be shared out equally, the first groups have
    one more.

    Args:
        train_counts: User -> appearances in the train split, at least 1.
        zero_shot: Users that appear in the validation and test split only.
        groups: How many.

    Returns:
        User -> ``tst1`` (the rarest users) to ``tst<groups>``, or ``zero-shot``.

    Raises:
        DataError: A zero-shot user has train appearances, another has none, or there are fewer users than groups.
    """
    if groups < 1 or len(train_counts) < groups:
        raise DataError(f"sparsity: {len(train_counts)} users cannot make {groups} groups; ask for fewer groups")
    untrained = set(zero_shot)
    for user, count in train_counts.items():
        if user in untrained or count < 1:
            raise DataError(
                f"sparsity: user {user} has {count} train appearances and is {'' if user in untrained else 'not '}"
                "given as zero-shot; count the train split again"
            )
    ranked = sorted(train_counts, key=lambda user: (train_counts[user], user))
    return _cut(ranked, groups, "tst") | dict.fromkeys(untrained, ZERO_SHOT)


def example_groups(
    example_users: Mapping[Hashable, Hashable], train_counts: Mapping[Hashable, int], groups: int = 3
) -> dict[Hashable, str]:
    """Cut test examples into groups of equal size by their users' train appearances (GaVaMoE, section 4.5.4).

    Here it is the test data that is shared out, so a user may be in two groups, and the first group has the most
    frequent users. Examples of the same frequency are ranked by user, then by their own id. The paper does not mention
    users without train appearances; they are kept apart.

    Args:
        example_users: Test example -> its user.
        train_counts: User -> appearances in the train split, at least 1; other users are zero-shot.
        groups: How many.

    Returns:
        Example -> ``ds1`` (the most frequent users) to ``ds<groups>``, or ``zero-shot``.

    Raises:
        DataError: There are fewer examples of users in the train split than groups.
    """
    trained = [example for example, user in example_users.items() if user in train_counts]
    if groups < 1 or len(trained) < groups:
        raise DataError(
            f"sparsity: {len(trained)} test examples of users in the train split cannot make {groups} groups; "
            "ask for fewer groups"
        )
    ranked = sorted(trained, key=lambda one: (-train_counts[example_users[one]], example_users[one], one))
    return dict.fromkeys(example_users, ZERO_SHOT) | _cut(ranked, groups, "ds")


def _cut(ranked: Sequence[Hashable], groups: int, stem: str) -> dict[Hashable, str]:
    parts = np.array_split(np.arange(len(ranked)), groups)
    return {ranked[place]: f"{stem}{number}" for number, part in enumerate(parts, 1) for place in part}


def scores_by_group(
    scores: Mapping[str, Sequence[float]],
    example_users: Sequence[Hashable],
    user_groups: Mapping[Hashable, str],
    interval: Interval,
) -> list[dict[str, Any]]:
    """Average scores over the examples of each group of users.

    Args:
        scores: Metric -> one score an example, NaN where it could not be scored.
        example_users: The user of each example; where examples are grouped (`example_groups`), the example itself.
        user_groups: User -> group (`sparsity_groups`), or example -> group.
        interval: Ends of an interval around the mean of some scores, whose users (`example_users`) stand beside them.

    Returns:
        A row each group, ``tst1`` first and ``zero-shot`` last: group, n (examples) and scores (metric -> mean, low,
        high). A group without a score of a metric lacks it; of fewer than `FEWEST`, low and high are None.

    Raises:
        DataError: An example's user is in no group, or a metric has not one score an example.
    """
    for user in example_users:
        if user not in user_groups:
            raise DataError(f"sparsity: user {user} of a test example is in no group; count the train split again")
    for metric, values in scores.items():
        if len(values) != len(example_users):
            raise DataError(f"sparsity: {len(values)} scores of {metric} for {len(example_users)} examples")
    members = np.array([user_groups[user] for user in example_users])
    users = np.unique(np.asarray(example_users), return_inverse=True)[1]
    rows = []
    for group in sorted(set(user_groups.values()), key=group_rank):
        chosen = {metric: np.asarray(values, dtype=float)[members == group] for metric, values in scores.items()}
        means = {metric: _mean(values, users[members == group], interval) for metric, values in chosen.items()}
        known = {metric: mean for metric, mean in means.items() if mean is not None}
        rows.append({"group": group, "n": int((members == group).sum()), "scores": known})
    return rows


def _mean(values: np.ndarray, users: np.ndarray, interval: Interval) -> tuple[float, float | None, float | None] | None:
    values, users = values[~np.isnan(values)], users[~np.isnan(values)]
    if not len(values):
        return None
    low, high = interval(values, users) if len(values) >= FEWEST else (None, None)
    return float(values.mean()), low, high


def group_rank(group: str) -> tuple[bool, int, str]:
    """Return by what groups are sorted: tst1 first, zero-shot last."""
    return group == ZERO_SHOT, len(group), group


def write_sparsity(
    rows: Iterable[Mapping[str, Any]], settings: Mapping[str, Any], out_json: str | Path, out_csv: str | Path
) -> None:
    """Write the scores of every experiment by group of users.

    Users are counted in the train split of the graph. An example's scores are averaged over the seeds that scored it,
    which must be all; the standard deviation is the population's, over the examples, averaged over the seeds (both as
    `statistics` has them). A group without a test example has n 0 and no mean.

    Args:
        rows: One a data set, experiment and seed: dataset, dataset_label, experiment, experiment_label, seed, maybe
            kind, few, summary (its content) and failed (metric without scores -> why), and the paths `scores`
            (scores.parquet), `graph` and `texts` (of the split).
        settings: ``groups``: 5 (XRec, `sparsity_groups`) or 3 (GaVaMoE, `example_groups`); ``metrics``: which columns
            of the scores, not those of a whole set of texts (usr, distinct); ``statistics``: that section.
        out_json: For `figure4`: a list of the rows of `scores_by_group` with what the experiment is,
            users (with a test example), train (the fewest and the most train interactions of a member), metric -> std
            and scored (examples), and ranges: what the summary knows of them (`rows.ranges`).
        out_csv: The same numbers, one line a group and metric.

    Raises:
        ConfigError: `groups` is neither, the statistics cannot be used, or no experiment has one of the metrics, none
            of which failed.
        DataError: There is no row, one is given twice, or files are unusable or contradict each other.
    """
    if settings["groups"] not in (5, 3):
        raise ConfigError(f"paper.sparsity.groups: {settings['groups']!r}; say 5 (XRec) or 3 (GaVaMoE)")
    statistics = Settings.from_settings(settings["statistics"])

    def interval(values: np.ndarray, users: np.ndarray) -> tuple[float, float]:
        return bootstrap_interval(values, "mean", statistics, users)

    members: dict[tuple[str, str], _Members] = {}
    found = []
    for runs in by_experiment(rows):
        place = str(runs[0]["graph"]), str(runs[0]["texts"])
        if place not in members:
            members[place] = _read_members(*place, settings["groups"])
        found += _experiment_groups(runs, members[place], settings["metrics"], interval)
    if not found:
        raise DataError(f"{out_json}: there are no scores to group; name an experiment in run.experiments")
    if not any(metric in row["scored"] or metric in row["failed"] for row in found for metric in settings["metrics"]):
        raise ConfigError(NOTHING_SCORED.format(", ".join(settings["metrics"])))
    write_json(out_json, found)
    write_text(out_csv, pd.DataFrame([*_lines(found)]).to_csv(index=False, lineterminator="\n"))


@dataclass(frozen=True)
class _Members:
    """The groups of a data set."""

    texts: str  # the file of the test examples
    users: dict[str, int]  # test example -> user
    keys: dict[str, Hashable]  # test example -> what is grouped: its user, or the example itself
    groups: dict[Hashable, str]  # each of these -> group; also users without a test example
    train: dict[str, tuple[int, int]]  # group -> the fewest and the most train interactions of its members


def _read_members(graph: str, texts: str, groups: int) -> _Members:
    edges = read_table(graph, GRAPH, ["user", "split"]).to_pandas()
    counts = edges.loc[edges["split"] == "train", "user"].value_counts().to_dict()
    pairs = read_table(texts, TEXTS, ["example_id", "user", "split", "zero_shot"]).to_pandas()
    wrong = pairs[pairs["zero_shot"] == pairs["user"].isin(counts)]
    if len(wrong):
        user = wrong["user"].iloc[0]
        raise DataError(
            f"{texts}: user {user} has {counts.get(user, 0)} train edges in {graph}, which zero_shot contradicts; "
            "run the rule split_interactions again"
        )
    test = pairs[pairs["split"] == "test"]
    users = dict(zip(test["example_id"], test["user"].tolist(), strict=True))
    if groups == 3:
        members = example_groups(users, counts)
        train = _train_ranges(members, {example: counts.get(user, 0) for example, user in users.items()})
        return _Members(texts, users, {example: example for example in users}, members, train)
    members = sparsity_groups(counts, pairs.loc[pairs["zero_shot"], "user"].unique().tolist())
    return _Members(texts, users, users, members, _train_ranges(members, counts))


def _train_ranges(groups: Mapping[Hashable, str], counts: Mapping[Hashable, int]) -> dict[str, tuple[int, int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for key, group in groups.items():
        found[group].append(counts.get(key, 0))
    return {group: (min(numbers), max(numbers)) for group, numbers in found.items()}


def _read_cube(
    runs: Sequence[Mapping[str, Any]], members: _Members, metrics: Sequence[str]
) -> tuple[list[str], list[str], np.ndarray]:
    """Return the examples of all seeds, those of the metrics that are there, and shape (seeds, metrics, examples).

    Texts whose pair the split lacks, and so belong to no group, are left out.
    """
    frames = [read_scores(run["scores"]) for run in runs]
    shared = set.intersection(*(set(frame.index) for frame in frames))
    if not shared:
        raise DataError(f"{runs[0]['scores']} shares no example with the other seeds; score the same test set")
    examples = sorted(example for example in shared if not is_own(example))
    for example in examples:
        if example not in members.users:
            raise DataError(f"{runs[0]['scores']}: {example} is no test example of {members.texts}; score again")
    present = [metric for metric in metrics if all(metric in frame for frame in frames)]
    return examples, present, np.array([frame.loc[examples, present].to_numpy().T for frame in frames])


def _experiment_groups(
    runs: Sequence[Mapping[str, Any]], members: _Members, metrics: Sequence[str], interval: Interval
) -> list[dict[str, Any]]:
    examples, present, cube = _read_cube(runs, members, metrics)
    if not examples:
        return []
    keys = [members.keys[example] for example in examples]
    groups = np.array([members.groups[key] for key in keys])
    users = np.array([members.users[example] for example in examples])
    about = {key: runs[0][key] for key in ("dataset", "dataset_label", "experiment", "experiment_label")}
    about |= {"kind": runs[0].get("kind"), "few": any(run.get("few", False) for run in runs)}
    reasons = {metric: reason_of(metric, runs[0].get("failed", {})) for metric in metrics}
    about |= {
        "seeds": [run["seed"] for run in runs],
        "ranges": ranges(runs[0].get("summary") or {}),
        "failed": {metric: why for metric, why in reasons.items() if why is not None},
    }
    found = []
    for row in scores_by_group(dict(zip(present, cube.mean(axis=0), strict=True)), keys, members.groups, interval):
        inside = groups == row["group"]
        row |= {"users": len(np.unique(users[inside])), "train": members.train[row["group"]], "std": {}, "scored": {}}
        for metric, values in zip(present, cube[..., inside].swapaxes(0, 1), strict=True):
            scored = values[:, ~np.isnan(values).any(axis=0)]
            row["scored"][metric] = scored.shape[1]
            if scored.size:
                row["std"][metric] = float(scored.std(axis=1).mean())
        found.append(about | row)
    return found


def _lines(groups: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the lines of the CSV file."""
    for row in groups:
        common = {key: row[key] for key in ("dataset", "experiment", "group", "users", "n")}
        common |= {"seeds": len(row["seeds"]), "train_min": row["train"][0], "train_max": row["train"][1]}
        for metric, scored in row["scored"].items():
            mean, low, high = row["scores"].get(metric, (None, None, None))
            numbers = {"mean": mean, "std": row["std"].get(metric), "low": low, "high": high}
            yield common | {"metric": metric, "scored": scored} | numbers
