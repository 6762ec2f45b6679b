"""The comparisons that bear on a claim: of published numbers, and of this run's scores.

A rule of the kind ``better`` compares a system with others on means and standard deviations; one of the kind
``unique`` compares a metric of each system with a threshold.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from xrec_repro.comparable import Comparable, unequal_size
from xrec_repro.errors import ConfigError
from xrec_repro.metrics.columns import stated_column
from xrec_repro.published import PublishedScores, load_published_table1, load_published_table2, study_name
from xrec_repro.scores import Run, describe, read_scores
from xrec_repro.statistic_settings import Settings
from xrec_repro.statistics import Comparison, compare_runs, corrected, direction, welch

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
        n: Examples of `system` that were scored; in a paired test, those scored for both.
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
        self,
        rule: Rule,
        values: Mapping[str, float],
        others: Mapping[str, float],
        sizes: Mapping[str, int],
        other_n: int,
        **common: Any,
    ) -> None:
        """Compare columns (``<metric>``, ``<metric>_std``) that have no per-example scores behind them.

        Args:
            rule: The claim's.
            values: Column -> number of the system.
            others: Column -> number of what it is compared with.
            sizes: Metric -> scored examples of the system.
            other_n: Examples of the other.
            common: What else the evidence says.
        """
        for metric in rule["metrics"]:
            if metric not in values or metric not in others:
                self.gaps[f"{metric}: no number of both"] += 1
                continue
            n = sizes[metric]
            if unequal := unequal_size(metric, n, other_n):
                self.gaps[f"{metric}: {unequal}"] += 1
                continue
            for aspect in rule["aspects"]:
                column = metric if aspect == "mean" else f"{metric}_std"
                if column in values and column in others:
                    sign = direction(values[column] - others[column], aspect, metric)
                    p = _p_unpaired(metric, values, n, others, other_n) if aspect == "mean" else None
                    about = common | {"n": n, "p_unpaired": p}
                    self._add(about, metric, aspect, values[column], others[column], sign, "direction")

    def add_thresholds(self, rule: Rule, values: Mapping[str, float], sizes: Mapping[str, int], **common: Any) -> None:
        """Compare numbers, of so many examples each, with the rule's threshold."""
        for metric in rule["metrics"]:
            if metric not in values:
                self.gaps[f"{metric}: no number"] += 1
                continue
            sign = 1 if values[metric] >= rule["at_least"] else -1
            self._add(
                {"other": "threshold", "n": sizes[metric]} | common,
                metric,
                "mean",
                values[metric],
                rule["at_least"],
                sign,
                "threshold",
            )

    def add_tests(
        self, rule: Rule, comparisons: Sequence[Comparison], unequal: Collection[str], least: "Least", **common: Any
    ) -> None:
        """Add paired tests; their outcomes wait for `decide`. Unequal are scores of sets of texts of two sizes."""
        scored = {one.metric: one.n for one in comparisons}
        for metric in rule["metrics"]:
            absent = f"{metric}: sets of unequal N" if metric in unequal else f"{metric}: not scored"
            why = least.examples_lack(metric, scored[metric]) if metric in scored else absent
            self.gaps.update([why] if why else [])
        for one in comparisons:
            if one.aspect in rule["aspects"] and one.n >= least.examples:
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


@dataclass(frozen=True)
class Least:
    """How few scored examples of this run still say something of a claim.

    Attributes:
        examples: Of any comparison (``claims.min_examples``).
        texts: Of a score of a whole set of texts that is compared with a threshold (``claims.min_texts``), where no
            paper printed it of the same system and data set for fewer.
    """

    examples: int
    texts: int

    def examples_lack(self, metric: str, n: int) -> str | None:
        """Return why so few examples say nothing of a claim, or None."""
        return f"{metric}: N {n:,}, at least {self.examples:,} needed" if n < self.examples else None

    def texts_lack(self, metric: str, n: int, published: Collection[int]) -> str | None:
        """Return why a score of so many texts cannot be compared with a threshold, or None.

        Args:
            metric: Its name.
            n: Texts that it was computed from.
            published: Of how many texts it was printed for the same system and data set.
        """
        if stated_column(metric).whole and n < self.texts and n not in published:
            return f"{metric}: N {n:,} against {self.texts:,}"
        return self.examples_lack(metric, n)


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

        The study trained no baselines: of those it reprints the XRec paper's rows.
        """
        papers = (paper, "xrec") if self.reprinted(system) else (paper,)
        keys = [(at, dataset, self._name(system)) for at in papers]
        return next((self._rows[key] for key in keys if key in self._rows), None)

    def reprinted(self, system: str) -> bool:
        """Tell whether a system is a baseline: published, and not run by the study."""
        name = self._name(system)
        return bool(name) and not any((at, model) == ("study", name) for at, _, model in self._rows)

    def _name(self, system: str) -> str:
        return study_name(self._systems[system]["published"] or "")

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
                    found.add_thresholds(rule, one.values, dict.fromkeys(rule["metrics"], one.n_test), **common)
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
            sizes = dict.fromkeys(rule["metrics"], one.n_test)
            found.add_directions(rule, one.values, two.values, sizes, two.n_test, other=other, mixed=mixed, **common)


def systems_of(rule: Rule) -> Sequence[str]:
    """Return the systems that a claim is about."""
    return rule["systems"] if rule["kind"] == "unique" else [rule["system"]]


def run_findings(
    rule: Rule,
    systems: Systems,
    comparable: Comparable,
    published: PublishedNumbers,
    runs: Sequence[Run],
    settings: Settings,
    least: Least,
) -> Findings:
    """Return what this run's scores say of a claim.

    Experiments are compared by paired tests, corrected for their number. Of a system that has no experiment, and of a
    baseline whose experiment did not run, the published numbers are compared, by direction, where the metric was scored
    as they were.

    Args:
        rule: The claim's.
        systems: ``claims.systems`` of the configuration.
        comparable: Whether scores may be compared with published ones.
        published: The papers' numbers.
        runs: All of them.
        settings: Of the tests.
        least: How few examples say nothing.

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
                _compare_threshold(found, rule, run, published, least, common)
            else:
                for other in rule["against"]:
                    experiment = systems[other]["experiment"]
                    about = common | {"other": other}
                    if experiment is None or (experiment not in present and published.reprinted(other)):
                        _compare_published(found, rule, run, published, comparable, least, about)
                    elif experiment not in present:
                        found.gaps[f"{label}: no experiment in this run for {other}"] += 1
                    else:
                        tests = compare_runs(run, present[experiment], settings, rule["metrics"])
                        unequal = run.corpus & present[experiment].corpus - {one.metric for one in tests}
                        found.add_tests(rule, tests, unequal, least, **about)
    found.decide(settings)
    return found


def _compare_threshold(
    found: Findings, rule: Rule, run: Run, published: PublishedNumbers, least: Least, common: Mapping[str, Any]
) -> None:
    rows = [published.find(paper, run.published_as, common["system"]) for paper in ("xrec", "study")]
    printed = {row.n_test for row in rows if row}
    for seed, path in zip(run.seeds, run.files, strict=True):
        values, sizes = _seed_values(run, path, rule["metrics"])
        enough = []
        for metric in rule["metrics"]:
            why = least.texts_lack(metric, sizes[metric], printed) if metric in sizes else f"{metric}: not scored"
            enough += [] if why else [metric]
            found.gaps.update([why] if why else [])
        found.add_thresholds(rule | {"metrics": enough}, values, sizes, seed=seed, **common)


def _compare_published(
    found: Findings,
    rule: Rule,
    run: Run,
    published: PublishedNumbers,
    comparable: Comparable,
    least: Least,
    common: Mapping[str, Any],
) -> None:
    row = published.find("xrec", run.published_as, common["other"])
    if row is None:
        found.gaps[f"{run.dataset_label}: no published row of {common['other']}"] += 1
        return
    seeds = [_seed_values(run, path, rule["metrics"]) for path in run.files]
    sizes = {metric: min(n[metric] for _, n in seeds) for metric in seeds[0][1]}
    alike = []
    for metric in (name for name in rule["metrics"] if name in sizes and name in row.values):
        why = comparable.difference(metric, run.signatures[metric], sizes[metric], row.reported_by, row.n_test)
        reason = f"{metric}: not scored as the published numbers were: {why}" if why else None
        reason = reason or least.examples_lack(metric, sizes[metric])
        alike += [] if reason else [metric]
        found.gaps.update([reason] if reason else [])
    values = {column: fmean(each[column] for each, _ in seeds) for column in seeds[0][0]}
    found.add_directions(rule | {"metrics": alike}, values, row.values, sizes, row.n_test, mixed=True, **common)


def _p_unpaired(
    metric: str, values: Mapping[str, float], n: int, others: Mapping[str, float], other_n: int
) -> float | None:
    means, spreads = ([of.get(column) for of in (values, others)] for column in (metric, f"{metric}_std"))
    return None if None in spreads else welch(means, spreads, (n, other_n))


def _seed_values(run: Run, path: str | Path, metrics: Sequence[str]) -> tuple[dict[str, float], dict[str, int]]:
    """Return column -> number of one seed, as the tables print it, and metric -> examples that were scored."""
    chosen = [metric for metric in metrics if metric in run.signatures]
    frame = read_scores(path, chosen)
    values: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for metric in chosen:
        about = describe(frame[metric].to_numpy())
        values[metric], sizes[metric] = about.mean, about.n
        if metric not in run.corpus:
            values[f"{metric}_std"] = about.std
    return values, sizes
