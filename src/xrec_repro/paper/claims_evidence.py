"""The comparisons that bear on a claim: of published numbers, and of this run's scores.

A rule of the kind ``better`` compares a system with others on means and standard deviations; one of the kind
``unique`` compares a metric of each system with a threshold.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import ttest_ind_from_stats

from xrec_repro.errors import ConfigError
from xrec_repro.paper.per_example import read_scores
from xrec_repro.paper.published import PublishedScores, load_published_table1, load_published_table2, study_name
from xrec_repro.paper.runs import Run, compare_runs
from xrec_repro.paper.statistics import Comparison, Settings, corrected, describe, direction

Rule = Mapping[str, Any]
Systems = Mapping[str, Mapping[str, str | None]]  # name -> experiment, published


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One comparison that bears on a claim.

    Attributes:
        source: ``xrec`` or ``study`` (published numbers), or ``run``.
        other: What `system` is compared with: a system, or ``threshold``.
        direction: 1 if the numbers speak for the claim, -1 if against it, 0 if they are equal.
        outcome: The same after the test: 0 where the difference is not significant. Without a test, `direction`.
        basis: ``paired test``, ``direction`` (of numbers without per-example scores) or ``threshold``.
        n: Examples of `system`; in a paired test, those scored for both.
        mixed: Whether the two numbers come from different sources.
        seed: Whose number it is, where each seed is judged by itself.
        p_unpaired: Of two means without per-example scores: Welch's t-test from the standard deviations and numbers of
            examples. It decides nothing, and is too large where the systems find the same examples hard.
        comparison: The paired test.
        exploratory: Whether it compares two experiments by a metric that is not primary: it does not count then.
    """

    source: str
    dataset: str
    metric: str
    aspect: str
    system: str
    other: str
    value: float
    other_value: float
    direction: int
    outcome: int
    basis: str
    n: int
    mixed: bool = False
    seed: int | None = None
    p_unpaired: float | None = None
    comparison: Comparison | None = None
    exploratory: bool = False


@dataclass
class Findings:
    """The evidence from one source, and how many comparisons could not be made, by reason."""

    evidence: list[Evidence] = field(default_factory=list)
    gaps: Counter[str] = field(default_factory=Counter)

    def add_directions(
        self, rule: Rule, values: Mapping[str, float], others: Mapping[str, float], other_n: int, **common: Any
    ) -> None:
        """Compare columns (``<metric>``, ``<metric>_std``) that have no per-example scores behind them."""
        for metric in rule["metrics"]:
            if metric not in values or metric not in others:
                self.gaps[f"{metric}: no number of both"] += 1
                continue
            for aspect in rule["aspects"]:
                column = metric if aspect == "mean" else f"{metric}_std"
                if column in values and column in others:
                    sign = direction(values[column] - others[column], aspect)
                    p = _welch(metric, values, common["n"], others, other_n) if aspect == "mean" else None
                    about = common | {"p_unpaired": p}
                    self._add(about, metric, aspect, values[column], others[column], sign, "direction")

    def add_thresholds(self, rule: Rule, values: Mapping[str, float], **common: Any) -> None:
        """Compare numbers with the rule's threshold."""
        for metric in rule["metrics"]:
            if metric not in values:
                self.gaps[f"{metric}: no number"] += 1
                continue
            sign = 1 if values[metric] >= rule["at_least"] else -1
            self._add(
                {"other": "threshold"} | common, metric, "mean", values[metric], rule["at_least"], sign, "threshold"
            )

    def add_tests(self, rule: Rule, comparisons: Sequence[Comparison], **common: Any) -> None:
        """Add paired tests; their outcomes wait for `decide`."""
        scored = {one.metric for one in comparisons}
        self.gaps.update(f"{metric}: not scored" for metric in rule["metrics"] if metric not in scored)
        for one in comparisons:
            if one.aspect in rule["aspects"]:
                tested = common | {"n": one.n, "comparison": one}
                self._add(tested, one.metric, one.aspect, one.value, one.other_value, one.direction, "paired test")

    def _add(
        self,
        common: Mapping[str, Any],
        metric: str,
        aspect: str,
        value: float,
        other_value: float,
        sign: int,
        basis: str,
    ) -> None:
        numbers = {"value": value, "other_value": other_value, "direction": sign, "outcome": sign}
        self.evidence.append(Evidence(metric=metric, aspect=aspect, basis=basis, **common, **numbers))

    def decide(self, settings: Settings) -> None:
        """Correct the tests of primary metrics for their number and let them decide; others are exploratory.

        A score of a whole set of texts has no test.
        """
        compared = [i for i, item in enumerate(self.evidence) if item.comparison]
        for i, one in zip(compared, corrected([self.evidence[i].comparison for i in compared], settings), strict=True):
            outcome = self.evidence[i].outcome if one.p is None else one.decision(settings)
            exploratory = not settings.is_primary(one.metric)
            self.evidence[i] = replace(self.evidence[i], comparison=one, outcome=outcome, exploratory=exploratory)


class PublishedNumbers:
    """The papers' tables of scores, asked for by the systems' names of the configuration.

    Attributes:
        datasets: The data sets' published names, in the tables' order.

    Raises:
        DataError: A published table is missing or malformed.
        ConfigError: A system has a published name that occurs in no table.
    """

    def __init__(self, resources_folder: str | Path, systems: Systems) -> None:
        self._systems = systems
        self._rows: dict[tuple[str, str, str], PublishedScores] = {}
        for row in load_published_table1(resources_folder) + load_published_table2(resources_folder):
            self._rows.setdefault((row.reported_by, row.dataset, study_name(row.model)), row)
        self.datasets = list(dict.fromkeys(dataset for _, dataset, _ in self._rows))
        known = {model for _, _, model in self._rows}
        for system, entry in systems.items():
            if entry["published"] is not None and study_name(entry["published"]) not in known:
                raise ConfigError(
                    f"claims.systems.{system}.published: no table has {entry['published']!r}; "
                    f"known: {', '.join(sorted(known))}"
                )

    def find(self, paper: str, dataset: str | None, system: str) -> PublishedScores | None:
        """Return the row of a system that a paper (``xrec`` or ``study``) prints for a data set, if it does.

        The study trained no baselines: of those (systems without an experiment) it reprints the XRec paper's rows.
        """
        entry = self._systems[system]
        name = study_name(entry["published"] or "")
        papers = (paper,) if entry["experiment"] else (paper, "xrec")
        return next((self._rows[key] for at in papers if (key := (at, dataset, name)) in self._rows), None)

    def findings(self, rule: Rule, paper: str) -> Findings:
        """Return what the numbers printed by a paper say of a claim: directions, for there is nothing to test."""
        found = Findings()
        for dataset in rule["published_datasets"] or self.datasets:
            for system in systems_of(rule):
                one = self.find(paper, dataset, system)
                common = {"source": paper, "dataset": dataset, "system": system}
                if one is None:
                    found.gaps[f"{dataset}: no published row of {system}"] += 1
                elif rule["kind"] == "unique":
                    found.add_thresholds(rule, one.values, n=one.n_test, **common)
                else:
                    self._compare(found, rule, one, common)
        return found

    def _compare(self, found: Findings, rule: Rule, one: PublishedScores, common: Mapping[str, Any]) -> None:
        for other in rule["against"]:
            two = self.find(common["source"], common["dataset"], other)
            if two is None:
                found.gaps[f"{common['dataset']}: no published row of {other}"] += 1
                continue
            mixed = one.reported_by != two.reported_by
            sizes = {"n": one.n_test, "other_n": two.n_test}
            found.add_directions(rule, one.values, two.values, other=other, mixed=mixed, **sizes, **common)


def systems_of(rule: Rule) -> Sequence[str]:
    """Return the systems that a claim is about."""
    return rule["systems"] if rule["kind"] == "unique" else [rule["system"]]


def run_findings(
    rule: Rule,
    systems: Systems,
    signatures: Mapping[str, Sequence[str]],
    published: PublishedNumbers,
    runs: Sequence[Run],
    settings: Settings,
) -> Findings:
    """Return what this run's scores say of a claim.

    Experiments are compared by paired tests, corrected for their number. With a system that has no experiment, its
    published numbers are compared, by direction, where the metric was scored as they were.

    Args:
        rule: The claim's.
        systems: ``claims.systems`` of the configuration.
        signatures: ``claims.published_signatures``: metric -> what a signature must have to be like the published.
        published: The papers' numbers.
        runs: All of them.
        settings: Of the tests.

    Raises:
        DataError: A file is unusable, or two experiments cannot be compared.
    """
    found = Findings()
    datasets: dict[str, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        datasets[run.dataset][run.experiment] = run
    for present in datasets.values():
        label = next(iter(present.values())).dataset_label
        for system in systems_of(rule):
            run = present.get(systems[system]["experiment"] or "")
            common = {"source": "run", "dataset": label, "system": system}
            if run is None:
                found.gaps[f"{label}: no experiment in this run for {system}"] += 1
            elif rule["kind"] == "unique":
                for seed, path in zip(run.seeds, run.files, strict=True):
                    values, n = _seed_values(run, path, rule["metrics"])
                    found.add_thresholds(rule, values, seed=seed, n=n, **common)
            else:
                for other in rule["against"]:
                    experiment = systems[other]["experiment"]
                    if experiment is None:
                        _compare_published(found, rule, run, published, other, signatures, common)
                    elif experiment not in present:
                        found.gaps[f"{label}: no experiment in this run for {other}"] += 1
                    else:
                        tests = compare_runs(run, present[experiment], settings, rule["metrics"])
                        found.add_tests(rule, tests, other=other, **common)
    found.decide(settings)
    return found


def _compare_published(
    found: Findings,
    rule: Rule,
    run: Run,
    published: PublishedNumbers,
    other: str,
    signatures: Mapping[str, Sequence[str]],
    common: Mapping[str, Any],
) -> None:
    row = published.find("xrec", run.published_as, other)
    if row is None:
        found.gaps[f"{run.dataset_label}: no published row of {other}"] += 1
        return
    alike = []
    for metric in rule["metrics"]:
        if metric in run.signatures and metric in row.values:
            if metric in signatures and set(signatures[metric]) <= set(run.signatures[metric].split("|")):
                alike.append(metric)
            else:
                found.gaps[f"{metric}: not scored as the published numbers were"] += 1
    seeds = [_seed_values(run, path, alike) for path in run.files]
    values = {column: fmean(each[column] for each, _ in seeds) for column in seeds[0][0]}
    sizes = {"n": min(n for _, n in seeds), "other_n": row.n_test}
    found.add_directions(rule | {"metrics": alike}, values, row.values, other=other, mixed=True, **sizes, **common)


def _welch(metric: str, values: Mapping[str, float], n: int, others: Mapping[str, float], other_n: int) -> float | None:
    """Return the p-value of two means, or None without both standard deviations (population, as printed)."""
    spreads = [values.get(f"{metric}_std"), others.get(f"{metric}_std")]
    if None in spreads or not any(spreads) or min(n, other_n) < 2:
        return None
    one, two = (std * math.sqrt(size / (size - 1)) for std, size in zip(spreads, (n, other_n), strict=True))
    return float(ttest_ind_from_stats(values[metric], one, n, others[metric], two, other_n, equal_var=False).pvalue)


def _seed_values(run: Run, path: str | Path, metrics: Sequence[str]) -> tuple[dict[str, float], int]:
    """Return column -> number of one seed, as the tables print it, and the number of examples."""
    chosen = [metric for metric in metrics if metric in run.signatures]
    frame = read_scores(path, chosen)
    values: dict[str, float] = {}
    for metric in chosen:
        about = describe(frame[metric].to_numpy())
        values[metric] = about.mean
        if metric not in run.corpus:
            values[f"{metric}_std"] = about.std
    return values, len(frame)
