"""Scores by how often a test user occurs in the training data: the numbers, and figure 4 of the XRec paper."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from xrec_repro.contracts import GRAPH, TEXTS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.estimates import bootstrap_interval
from xrec_repro.io import read_table, write_json, write_text
from xrec_repro.kinds import warnings
from xrec_repro.own_texts import is_own
from xrec_repro.paper.rows import ranges
from xrec_repro.paper.style import Look, drawing, footnote, line, look, metric_label, range_lines, save, series_legend
from xrec_repro.scores import by_experiment, read_scores, reason_of, refuse_repeats
from xrec_repro.statistic_settings import Settings

ZERO_SHOT = "zero-shot"
_NOTHING_SCORED = "paper.sparsity.metrics: none of {} is scored; name others or score one"
Interval = Callable[[np.ndarray, np.ndarray], tuple[float, float]]  # of scores, and whose they are
FEWEST = 10  # scores that an interval is made from: a bootstrap of fewer says little, and what it says is too narrow
_DODGE = 0.09  # between experiments, in groups
_ORDERS = {
    "tst": "the fewest train interactions (tst1) to those with most",
    "ds": "most train interactions (ds1) to those with the fewest",
}


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
    for group in sorted(set(user_groups.values()), key=_group_rank):
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


def _group_rank(group: str) -> tuple[bool, int, str]:
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
        raise ConfigError(_NOTHING_SCORED.format(", ".join(settings["metrics"])))
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


def figure4(
    groups: Sequence[Mapping[str, Any]], out_pdf: str | Path, out_png: str | Path, settings: Mapping[str, Any]
) -> str:
    """Draw scores by group of users: one panel a metric and data set, one line an experiment.

    Args:
        groups: Rows as `write_sparsity` writes them, each with dataset_label, experiment_label and train, and maybe
            kind, few and ranges, besides what `scores_by_group` gives.
        out_pdf: Where the PDF goes.
        out_png: Where the PNG goes.
        settings: ``metrics``: which to draw, of those that are scored; ``confidence``: of the intervals, e.g. 0.95;
            maybe ``captions`` and ``sizes`` (`style`).

    Returns:
        The caption, which is also printed under the figure.

    Raises:
        DataError: There is no group, or one is given twice.
        ConfigError: No group has one of the metrics.
    """
    if not groups:
        raise DataError(f"{out_pdf}: there is no group of users to draw; name an experiment in run.experiments")
    keys = ("dataset_label", "experiment_label", "group")
    refuse_repeats((" / ".join(row[key] for key in keys) for row in groups), "figure 4: ")
    metrics = [metric for metric in settings["metrics"] if any(metric in row["scores"] for row in groups)]
    if not metrics and any(row.get("failed") for row in groups):
        return _nothing(groups, out_pdf, out_png, settings)
    if not metrics:
        raise ConfigError(_NOTHING_SCORED.format(", ".join(settings["metrics"])))
    datasets = list(dict.fromkeys(row["dataset_label"] for row in groups))
    looks = {label: look(n) for n, label in enumerate(dict.fromkeys(row["experiment_label"] for row in groups))}
    caption = _caption(groups, settings["confidence"])
    size = max(6.5, 3.6 * len(datasets)), 1.5 + 2.2 * len(metrics)
    with drawing(*size, settings, "figure4") as figure:
        grid = figure.subplots(len(metrics), len(datasets), squeeze=False, sharex="col")
        for metric, axes_row in zip(metrics, grid, strict=True):
            for dataset, axes in zip(datasets, axes_row, strict=True):
                _draw(axes, [row for row in groups if row["dataset_label"] == dataset], metric, looks)
            axes_row[0].set_ylabel(metric_label(metric))
        ranged = any(metrics[0] in row.get("ranges", {}) for row in groups)  # named between title and panel
        for dataset, axes in zip(datasets, grid[0], strict=True):
            axes.set_title(dataset, fontweight="bold", pad=16 if ranged else 6)
        for axes in grid[-1]:
            axes.set_xlabel("train interactions of the user")
        figure.align_ylabels()
        few = {row["experiment_label"] for row in groups if row.get("few")}
        series_legend(figure, {label + "†" * (label in few): seen for label, seen in looks.items()})
        footnote(figure, caption, settings)
        save(figure, out_pdf, out_png)
    return caption


def _nothing(
    groups: Sequence[Mapping[str, Any]], out_pdf: str | Path, out_png: str | Path, settings: Mapping[str, Any]
) -> str:
    """Draw why there is nothing to draw, and return it."""
    failed = dict.fromkeys(f"{metric}: {why}" for row in groups for metric, why in row["failed"].items())
    caption = f"No metric of this figure has scores. {' '.join(failed)}"
    with drawing(6.5, 1.5, settings, "figure4") as figure:
        footnote(figure, caption, {**settings, "captions": True})
        save(figure, out_pdf, out_png)
    return caption


def _caption(groups: Sequence[Mapping[str, Any]], confidence: float) -> str:
    order = _ORDERS["tst" if any(row["group"].startswith("tst") for row in groups) else "ds"]
    parts = [
        f"Mean score by group of users, from those with {order}; 0: zero-shot users. n: test examples. "
        "Axes do not start at 0. "
        f"Whiskers: {100 * confidence:g} % bootstrap interval, of means of at least {FEWEST} scores."
    ]
    if any(row.get("ranges") for row in groups):
        parts.append("Chance, and the reference explanations' own score: over the whole test set.")
    few = dict.fromkeys(f"{row['dataset_label']}: {row['experiment_label']}" for row in groups if row.get("few"))
    if few:
        parts.append(f"† a part of the test set only ({'; '.join(few)}).")
    parts += warnings(row.get("kind") for row in groups)
    return " ".join(parts)


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], metric: str, looks: Mapping[str, Look]) -> None:
    names = sorted({row["group"] for row in rows}, key=_group_rank)
    shift = -_DODGE * (len(looks) - 1) / 2
    for number, (label, seen) in enumerate(looks.items()):
        scored = [row for row in rows if row["experiment_label"] == label and metric in row["scores"]]
        own = {row["group"]: row["scores"][metric] for row in scored}
        places = [names.index(group) + shift + _DODGE * number for group in names]
        means = [own[group][0] if group in own else math.nan for group in names]
        trained = len([group for group in names if group != ZERO_SHOT])
        for part in (slice(None, trained), slice(trained, None)):  # nothing lies between tst5 and zero-shot
            axes.plot(places[part], means[part], zorder=3, **line(seen))
        for place, group in zip(places, names, strict=True):
            _, low, high = own.get(group, (None, None, None))
            if low is not None and high is not None:
                axes.vlines(place, low, high, color=seen.colour, linewidth=1.2, zorder=2)
    if not any(metric in row["scores"] for row in rows):
        axes.text(0.5, 0.5, "not scored", transform=axes.transAxes, ha="center", color="0.25")
    known = next((row["ranges"][metric] for row in rows if row.get("ranges", {}).get(metric)), None)
    if known:
        range_lines(axes, known)
    axes.set_xticks(range(len(names)), [_tick([row for row in rows if row["group"] == name]) for name in names])
    axes.margins(x=0.05)


def _tick(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many train interactions the members of a group have, and its test examples."""
    spans = rows[0]["train"], (min(row["n"] for row in rows), max(row["n"] for row in rows))
    return "\nn=".join(str(low) if low == high else f"{low}–{high}" for low, high in spans)
