"""The rows of the paper stage as runs: experiments with all their seeds, compared with one another."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrec_repro.errors import DataError
from xrec_repro.paper.inputs import with_summaries
from xrec_repro.statistics import Comparison, Settings, compare_files, corrected


@dataclass(frozen=True)
class Run:
    """An experiment on a data set, all its seeds.

    Attributes:
        files: scores.parquet of each of `seeds`.
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


def load_runs(rows: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Group the rows of the paper stage by data set and experiment, and read what their scores are.

    Args:
        rows: One a data set, experiment and seed: dataset, dataset_label, published_as, experiment,
            experiment_label, seed, kind, maybe few, and `scores` and `summary`: paths (of the latter also the content).

    Raises:
        DataError: A row is given twice, a summary is malformed, or seeds differ in metrics or signatures.
    """
    groups: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for row in with_summaries(list(rows)):
        group = groups[row["dataset"], row["experiment"]]
        if row["seed"] in group:
            raise DataError(f"{row['dataset']}/{row['experiment']}/seed{row['seed']} is given twice; name it once")
        group[row["seed"]] = row
    return [_run([group[seed] for seed in sorted(group)]) for group in groups.values()]


def _run(rows: Sequence[Mapping[str, Any]]) -> Run:
    first, cells = rows[0], {}
    for row in rows:
        place = f"{row['dataset']}/{row['experiment']}/seed{row['seed']}"
        summary = row["summary"]
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
    )


def compare_runs(system: Run, other: Run, settings: Settings, metrics: Sequence[str] | None = None) -> list[Comparison]:
    """Compare two experiments of a data set on the metrics that both have (of those named, if any are).

    Raises:
        DataError: They have other seeds, a metric has two signatures, or they share no scored example.
    """
    place = f"{system.dataset}: {system.experiment} and {other.experiment}"
    if system.seeds != other.seeds:
        raise DataError(f"{place} have the seeds {system.seeds} and {other.seeds}; run both with the same")
    shared = [name for name in metrics or system.signatures if name in system.signatures and name in other.signatures]
    for name in shared:
        one, two = system.signatures[name], other.signatures[name]
        if one != two:
            raise DataError(f"{place}: {name} would mix {one!r} and {two!r}; score both with the same settings")
    names = system.experiment, other.experiment
    return compare_files(system.files, other.files, names, shared, settings, system.corpus) if shared else []


def compare_to_reference(
    rows: Iterable[Mapping[str, Any]], reference: str, settings: Settings, metrics: Sequence[str] | None = None
) -> dict[tuple[str, str, str], Comparison]:
    """Compare every experiment with the reference experiment on its data set, as the marks of one table.

    Args:
        rows: As for `load_runs`.
        reference: Key of an experiment; data sets without it have no comparison.
        settings: How.
        metrics: Which of the metrics; by default all that both experiments have.

    Returns:
        (data set, experiment, column) -> comparison, the column being a metric or ``<metric>_std``. Holm's
        correction is over all of them that are of primary metrics.
    """
    runs = load_runs(rows)
    found: dict[tuple[str, str, str], Comparison] = {}
    for base in (run for run in runs if run.experiment == reference):
        for run in runs:
            if run.dataset == base.dataset and run is not base:
                for one in compare_runs(run, base, settings, metrics):
                    found[run.dataset, run.experiment, one.column] = one
    return dict(zip(found, corrected(list(found.values()), settings), strict=True))
