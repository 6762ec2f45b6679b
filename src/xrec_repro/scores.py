"""The scores of a run, from the files that a rule names: rows, experiments with all their seeds, and examples."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xrec_repro.contracts import TEXTS
from xrec_repro.errors import DataError
from xrec_repro.io import read_json, read_table, require_file
from xrec_repro.metrics.columns import known_metrics
from xrec_repro.own_texts import is_own

VALIDATION_LOSS = "validation_loss"


def attach(rows: Sequence[Mapping[str, Any]], files: Mapping[str, Sequence[str | None]]) -> list[dict[str, Any]]:
    """Give each row its file of every kind.

    Args:
        rows: One a data set, experiment and seed.
        files: Kind, e.g. ``scores`` -> a path for each row, or None where it has none.
    """
    return [{**row, **{kind: paths[i] for kind, paths in files.items()}} for i, row in enumerate(rows)]


def with_summaries(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give each row the content of its summary, less what failed or is absent, and ``failed``: metric -> reason.

    A metric that failed for one seed of an experiment is left out of all its seeds: no mean is over a part of them.

    Args:
        rows: One a data set, experiment and seed, with ``summary``: the file, or its content.

    Raises:
        DataError: A summary is not one.
    """
    found = []
    for row in rows:
        content = row["summary"] if isinstance(row["summary"], Mapping) else read_json(row["summary"])
        if not isinstance(content, Mapping) or not all(isinstance(cell, Mapping) for cell in content.values()):
            raise DataError(f"{place_of(row)}: its summary is not one of scores; score it again")
        found.append({**row, "summary": content})
    failed: dict[tuple[str, str], dict[str, str]] = {}
    for row in found:
        reasons = {name: cell["failed"] for name, cell in row["summary"].items() if "failed" in cell}
        failed.setdefault((row["dataset"], row["experiment"]), {}).update(reasons)
    for row in found:
        row["failed"] = failed[row["dataset"], row["experiment"]]
        row["summary"] = {
            name: cell
            for name, cell in row["summary"].items()
            if "absent" not in cell and reason_of(name, row["failed"]) is None
        }
    return found


def reason_of(column: str, failed: Mapping[str, str]) -> str | None:
    """Return why a column is empty, of metrics that failed; None if its metric did not.

    Of a metric that is not known, its name stands for its columns.
    """
    known = known_metrics()
    return next((why for name, why in failed.items() if column in known.get(name, (name,)) or column == name), None)


def with_intervals(rows: Sequence[Mapping[str, Any]], statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give each row ``intervals``, column -> (low, high), from statistics.json: of means, and of ``<metric>_std``."""
    found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for one in statistics["estimates"]:
        if one["mean_low"] is not None:
            place = found.setdefault((one["dataset"], one["experiment"]), {})
            place[one["metric"]] = (one["mean_low"], one["mean_high"])
            place[f"{one['metric']}_std"] = (one["std_low"], one["std_high"])
    return [{**row, "intervals": found.get((row["dataset"], row["experiment"]), {})} for row in rows]


def validation_loss(path: str | Path) -> float | None:
    """Return the mean loss of the validation examples (nats per token) after tuning, None where there are none.

    Args:
        path: The adapter's provenance.json.

    Raises:
        DataError: It has no such number, or one that is not finite.
    """
    try:
        loss = read_json(path)["result"][VALIDATION_LOSS]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: result.{VALIDATION_LOSS} is missing; tune the experiment again") from error
    if loss is not None and not math.isfinite(loss):
        raise DataError(f"{path}: result.{VALIDATION_LOSS} is {loss}; tune the experiment again")
    return loss


def place_of(row: Mapping[str, Any]) -> str:
    """Return how messages name a row: data set, experiment and seed."""
    return f"{row['dataset']}/{row['experiment']}/seed{row['seed']}"


def refuse_repeats(places: Iterable[str], where: str = "") -> None:
    """Refuse a row that is there twice.

    Args:
        places: What names each row, e.g. `place_of` it.
        where: What the rows are for, e.g. ``table 3: ``.

    Raises:
        DataError: Two rows have the same name.
    """
    repeated = next((place for place, times in Counter(places).items() if times > 1), None)
    if repeated is not None:
        raise DataError(f"{where}{repeated} is given twice; name it once")


def by_experiment(rows: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the rows of each data set and experiment, their seeds ascending.

    Raises:
        DataError: A row is given twice.
    """
    rows = list(rows)
    refuse_repeats(map(place_of, rows))
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["experiment"]].append(row)
    return [sorted(group, key=lambda row: row["seed"]) for group in groups.values()]


@dataclass(frozen=True)
class Run:
    """An experiment on a data set, all its seeds.

    Attributes:
        files: scores.parquet of each of `seeds`.
        texts: The pairs of the data set's split, which say whose an example is; None where that is not known.
        signatures: Metric -> what it was computed with.
        corpus: Metrics that are scores of a whole set of texts (their std is null in summary.json).
    """

    dataset: str
    dataset_label: str
    published_as: str | None
    experiment: str
    label: str
    kind: str
    few: bool
    seeds: tuple[int, ...]
    files: tuple[str | Path, ...]
    signatures: dict[str, str]
    corpus: frozenset[str]
    texts: str | Path | None = None


def load_runs(rows: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Group the rows of the paper stage by data set and experiment, and read what their scores are.

    Args:
        rows: One a data set, experiment and seed: dataset, dataset_label, published_as, experiment,
            experiment_label, seed, kind, maybe few, and the paths `scores`, `summary` (also its content)
            and maybe `texts`.

    Raises:
        DataError: A row is given twice, a summary is malformed, or seeds differ in metrics or signatures.
    """
    return [_run(group) for group in by_experiment(with_summaries(list(rows)))]


def _run(rows: Sequence[Mapping[str, Any]]) -> Run:
    first, cells = rows[0], {}
    for row in rows:
        place, summary = place_of(row), row["summary"]
        if not all({"std", "signature"} <= set(cell) for cell in summary.values()):
            raise DataError(f"{place}: its summary lacks std or signature of a metric; score it again")
        found = {metric: (cell["signature"], cell["std"] is None) for metric, cell in summary.items()}
        cells = cells or found
        if found != cells:
            metric = next(name for name in {**found, **cells} if found.get(name) != cells.get(name))
            raise DataError(f"{place}: {metric} was not scored as in seed {first['seed']}; score both alike")
    return Run(
        dataset=first["dataset"],
        dataset_label=first["dataset_label"],
        published_as=first["published_as"],
        experiment=first["experiment"],
        label=first["experiment_label"],
        kind=first["kind"],
        few=any(row.get("few", False) for row in rows),
        seeds=tuple(row["seed"] for row in rows),
        files=tuple(row["scores"] for row in rows),
        signatures={metric: signature for metric, (signature, _) in cells.items()},
        corpus=frozenset(metric for metric, (_, corpus) in cells.items() if corpus),
        texts=first.get("texts"),
    )


def read_scores(path: str | Path, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Read scores.parquet: one float64 column a metric (all, or those named), index example_id.

    Raises:
        DataError: The file is missing or malformed, lacks a metric, or has an example twice or an infinite score.
    """
    try:
        names = pq.read_schema(require_file(path, "run the rule that makes it")).names
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file; delete it and score again") from error
    wanted = [name for name in names if name != "example_id"] if metrics is None else list(metrics)
    schema = pa.schema([("example_id", pa.string()), *((name, pa.float64()) for name in wanted)])
    frame = read_table(path, schema).to_pandas().set_index("example_id")
    if frame.index.has_duplicates:
        example = frame.index[frame.index.duplicated()][0]
        raise DataError(f"{path}: example {example} occurs twice; make the file again")
    for name in wanted:
        infinite = frame.index[np.isinf(frame[name])]
        if len(infinite):
            raise DataError(f"{path}: {name} of example {infinite[0]} is infinite; look at its two texts")
    return frame


def join_scores(systems: Sequence[Sequence[str | Path]], metrics: Sequence[str]) -> tuple[np.ndarray, list[str], int]:
    """Read the scores of the same examples from several files.

    Args:
        systems: For each system the files of its seeds: as many for all.
        metrics: Which columns.

    Returns:
        Shape ``(systems, metrics, seeds, examples)``, NaN where one could not be scored, the examples in the order of
        their ids; these ids; and how many examples were left out because only some of the files have them.

    Raises:
        DataError: A file is unusable, or the files share no example.
    """
    frames = [[read_scores(path, metrics) for path in files] for files in systems]
    present = [set(frame.index) for seeds in frames for frame in seeds]
    common, every = sorted(set.intersection(*present)), set.union(*present)
    if not common:
        raise DataError(f"{systems[0][0]} and {systems[-1][-1]} have no example in common; score the same test set")
    scores = np.array([[frame.loc[common].to_numpy().T for frame in seeds] for seeds in frames])
    return scores.swapaxes(1, 2), common, len(every) - len(common)


def users_of(texts: str | Path, examples: Sequence[str]) -> np.ndarray:
    """Return the user of each example as a number, counted from 0 without gaps: shape ``(examples,)``.

    A text whose pair the split lacks (`own_texts`) counts as one of a user who has no other.

    Args:
        texts: The pairs of the split (`contracts.TEXTS`).
        examples: Their ids.

    Raises:
        DataError: The file is unusable, or has not all of them.
    """
    pairs = read_table(texts, TEXTS, ["example_id", "user_id"]).to_pandas().set_index("example_id")["user_id"]
    own = [example for example in dict.fromkeys(examples) if is_own(example)]
    pairs = pd.concat([pairs, pd.Series(own, index=own, dtype=pairs.dtype)])
    if missing := set(examples) - set(pairs.index):
        raise DataError(f"{texts}: example {min(missing)} is not there; score the texts of this split again")
    return np.unique(pairs.loc[list(examples)], return_inverse=True)[1]


def same_examples(scores: np.ndarray) -> list[tuple[list[int], np.ndarray]]:
    """Group metrics by the examples that have a score in all systems and seeds.

    Args:
        scores: From `join_scores`.

    Returns:
        The metrics' numbers, and a mask of shape ``(examples,)``, for each group.

    Raises:
        DataError: A metric has no such example.
    """
    kept = ~np.isnan(scores).any(axis=(0, 2))
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, row in enumerate(kept):
        if not row.any():
            raise DataError("statistics: no example is scored for all systems and seeds; score them again")
        groups[row.tobytes()].append(i)
    return [(chosen, kept[chosen[0]]) for chosen in groups.values()]


@dataclass(frozen=True)
class Description:
    """Scores in short: mean, population standard deviation, how many, and how many more could not be scored."""

    mean: float
    std: float
    n: int
    missing: int


def describe(values: np.ndarray) -> Description:
    """Describe scores of shape ``(examples,)``; NaN is counted as missing and left out.

    Raises:
        DataError: No example is scored.
    """
    scored = values[~np.isnan(values)]
    if not len(scored):
        raise DataError(f"statistics: not one of {len(values)} examples is scored; score them again")
    return Description(float(scored.mean()), float(scored.std()), len(scored), len(values) - len(scored))
