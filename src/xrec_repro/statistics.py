"""How sure a score is, and whether two systems differ: from per-example scores alone, unrounded.

A system's score is its mean over the examples, averaged over its seeds; its spread ("stability") is the population
standard deviation over the examples, averaged over its seeds. Resampling draws examples (`resampling`);
docs/statistics.md explains the choices. Which way a mean is better, the metric says (`metrics.columns`); of every
standard deviation, lower is.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind_from_stats

from xrec_repro import resampling
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.metrics.columns import stated_column
from xrec_repro.scores import Run, describe, join_scores, load_runs, read_scores, same_examples
from xrec_repro.seeding import numpy_rng

ASPECTS = ("mean", "std")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The section ``statistics`` of the configuration.

    Attributes:
        seed: Of all draws.
        bootstrap_samples: How many samples an interval is made from.
        permutations: How many random swaps a permutation test is made from.
        interval: ``bca`` | ``percentile``.
        confidence: Of the intervals, e.g. 0.95.
        test: ``permutation`` | ``bootstrap``: whose p-value decides.
        correction: ``holm`` | ``none``: whether it is corrected for the number of comparisons before it decides.
        alpha: A difference is significant if its p-value is at most this.
        reference: The experiment with which the others of its data set are compared.
        primary: The metrics whose comparisons are tested as one family and may decide; what is found of any other is
            exploratory. None: all are primary.
    """

    seed: int
    bootstrap_samples: int
    permutations: int
    interval: str
    confidence: float
    test: str
    correction: str
    alpha: float
    reference: str
    primary: Sequence[str] | None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Settings":
        """Build from the section of the configuration.

        Raises:
            ConfigError: A key is unknown or missing, or a value impossible.
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise ConfigError(f"statistics.{key}: unknown key; known are: {', '.join(known)}")
        for key in known:
            if key not in settings:
                raise ConfigError(f"statistics.{key}: missing; config/config.yaml gives its default")
        choices = {"interval": ("bca", "percentile"), "test": ("permutation", "bootstrap")}
        for key, allowed in (choices | {"correction": ("holm", "none")}).items():
            if settings[key] not in allowed:
                raise ConfigError(f"statistics.{key}: {settings[key]!r} is not one of {', '.join(allowed)}")
        for key in ("bootstrap_samples", "permutations"):
            if settings[key] < 1:
                raise ConfigError(f"statistics.{key}: {settings[key]} is too few; draw at least one")
        for key in ("confidence", "alpha"):
            if not 0 < settings[key] < 1:
                raise ConfigError(f"statistics.{key}: {settings[key]} is not between 0 and 1")
        return cls(**settings)

    def is_primary(self, metric: str) -> bool:
        """Tell whether a metric's comparisons are tests; else they are exploratory."""
        return self.primary is None or metric in self.primary


@dataclass(frozen=True)
class Estimate:
    """A metric of one system.

    Attributes:
        mean: Over the `n` examples scored in every seed, averaged over the seeds; `mean_low` and `mean_high` bound it.
        std: Population standard deviation likewise. It and all bounds are None for scores of a whole set of texts.
        missing: Examples left out because some seed could not score them.
        seed_means: The mean of each seed over all that it could score: what summary.json and the tables have.
        seed_sd: Sample standard deviation of `seed_means`; None for a single seed.
    """

    metric: str
    mean: float
    n: int
    missing: int
    seed_means: tuple[float, ...]
    seed_sd: float | None
    mean_low: float | None = None
    mean_high: float | None = None
    std: float | None = None
    std_low: float | None = None
    std_high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems on the same examples.

    Attributes:
        aspect: ``mean`` | ``std``.
        value: Of `system`; None of what follows it is rounded.
        difference: `value` less `other_value`; `low` and `high` bound it (paired bootstrap).
        n: Examples scored for both systems in every seed.
        dropped: Examples of both that could not be scored for one of them.
        unmatched: Examples that only some of the files have.
        seed_sd: Sample standard deviation of the difference over the seeds; None for a single one.
        p_permutation: Two-sided, paired permutation test.
        p_bootstrap: Two-sided: twice the share of paired bootstrap samples on the other side of no difference.
        p: Of the two, the one that decides; `p_holm` is it corrected for the family, None for exploratory metrics.
        d_z: Mean of the paired differences over their sample standard deviation (means only).
        superiority: Share of examples where `system` scores higher, ties counting half (means only).
        ratio: `value` over `other_value` (standard deviations only).

    Everything after `difference` but `n` and `seed_sd` is None for a score of a whole set of texts, such as USR: its
    examples are not independent observations.
    """

    metric: str
    aspect: str
    system: str
    other: str
    value: float
    other_value: float
    difference: float
    n: int
    seeds: int
    dropped: int | None = None
    unmatched: int | None = None
    low: float | None = None
    high: float | None = None
    seed_sd: float | None = None
    p_permutation: float | None = None
    p_bootstrap: float | None = None
    p: float | None = None
    p_holm: float | None = None
    d_z: float | None = None
    superiority: float | None = None
    ratio: float | None = None

    @property
    def column(self) -> str:
        """The column of the tables: the metric, or ``<metric>_std``."""
        return self.metric if self.aspect == "mean" else f"{self.metric}_std"

    @property
    def direction(self) -> int:
        """1 if `system` is better, -1 if it is worse, 0 if the numbers are equal."""
        return direction(self.difference, self.aspect, self.metric)

    def decision(self, settings: Settings) -> int:
        """Return `direction` where the difference is significant, else 0; an exploratory one decides nothing."""
        p = self.p_holm if settings.correction == "holm" else self.p
        return self.direction if settings.is_primary(self.metric) and p is not None and p <= settings.alpha else 0


def direction(difference: float, aspect: str, metric: str) -> int:
    """Return 1 where a difference is an improvement, -1 where it is the contrary, 0 where there is none."""
    smaller = aspect == "std" or stated_column(metric).smaller_is_better
    return int(np.sign(difference)) * (-1 if smaller else 1)


def bootstrap_interval(values: np.ndarray, aspect: str, settings: Settings) -> tuple[float, float]:
    """Return the bootstrap interval of the ``mean`` or ``std`` of scores of shape ``(examples,)``, NaN left out."""
    describe(values)
    low, high = _bounds(values[~np.isnan(values)][None, None], settings)
    place = ASPECTS.index(aspect), 0
    return float(low[place]), float(high[place])


def estimates(
    files: Sequence[str | Path], metrics: Sequence[str], settings: Settings, corpus: Collection[str] = ()
) -> list[Estimate]:
    """Return mean, spread and their bootstrap intervals of every metric of a system.

    Args:
        files: scores.parquet of each of its seeds.
        metrics: Which columns.
        settings: How.
        corpus: Those of the metrics that are scores of a whole set of texts: of them, only means are given.

    Raises:
        DataError: A file is unusable, or no example is scored in every seed.
    """
    scores, _ = join_scores([files], metrics)
    found: dict[str, Estimate] = {}
    for chosen, kept in same_examples(scores):
        values = scores[0, chosen][..., kept]
        (mean, std), (low, high) = resampling.observed(values), _bounds(values, settings)
        for i, row in enumerate(chosen):
            bounds = {"mean_low": low[0, i], "mean_high": high[0, i], "std": std[i]}
            bounds |= {"std_low": low[1, i], "std_high": high[1, i]}
            seed_means = [describe(seed).mean for seed in scores[0, row]]
            found[metrics[row]] = Estimate(
                metrics[row],
                float(mean[i]),
                n=int(kept.sum()),
                missing=int((~kept).sum()),
                seed_means=tuple(seed_means),
                seed_sd=_seed_sd(seed_means),
                **({} if metrics[row] in corpus else {name: float(bound) for name, bound in bounds.items()}),
            )
    return [found[metric] for metric in metrics]


def corrected(comparisons: Sequence[Comparison], settings: Settings) -> list[Comparison]:
    """Return the comparisons with `p_holm`, all those of primary metrics with a p-value being one family."""
    tested = [i for i, one in enumerate(comparisons) if one.p is not None and settings.is_primary(one.metric)]
    result = list(comparisons)
    for i, p in zip(tested, resampling.holm(np.array([comparisons[i].p for i in tested])), strict=True):
        result[i] = replace(comparisons[i], p_holm=float(p))
    return result


def compare_files(
    system: Sequence[str | Path],
    other: Sequence[str | Path],
    names: tuple[str, str],
    metrics: Sequence[str],
    settings: Settings,
    corpus: Collection[str] = (),
) -> list[Comparison]:
    """Compare two systems of these names, without correction for the number of comparisons."""
    cube, unmatched = join_scores([system, other], metrics)
    found: dict[tuple[str, str], Comparison] = {}
    for chosen, kept in same_examples(cube):
        pair = cube[:, chosen][..., kept]
        common = {"n": int(kept.sum()), "dropped": int((~kept).sum()), "unmatched": unmatched, "seeds": len(system)}
        for (aspect, i), facts in _tests(*pair, settings).items():
            found[metrics[chosen[i]], aspect] = Comparison(metrics[chosen[i]], aspect, *names, **common, **facts)
    for metric in (name for name in metrics if name in corpus):
        found.pop((metric, "std"))
        del found[metric, "mean"]
        if one := _corpus_comparison(metric, names, system, other):
            found[metric, "mean"] = one
    return [found[metric, aspect] for metric in metrics for aspect in ASPECTS if (metric, aspect) in found]


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


def welch(means: Sequence[float], spreads: Sequence[float], sizes: Sequence[int]) -> float | None:
    """Return the p-value of Welch's test of two means; None if nothing varies, or one is of a single example.

    Args:
        means: Of both.
        spreads: Their population standard deviations.
        sizes: Of how many examples they are.
    """
    if not any(spreads) or min(sizes) < 2:
        return None
    sds = [std * math.sqrt(n / (n - 1)) for std, n in zip(spreads, sizes, strict=True)]
    (one, two), (sd, other_sd), (n, other_n) = means, sds, sizes
    return float(ttest_ind_from_stats(one, sd, n, two, other_sd, other_n, equal_var=False).pvalue)


def _tests(system: np.ndarray, other: np.ndarray, settings: Settings) -> dict[tuple[str, int], dict[str, Any]]:
    """Return (aspect, metric's number) -> what a `Comparison` says of two arrays ``(metrics, seeds, examples)``."""
    values, others = resampling.observed(system), resampling.observed(other)
    ties = resampling.tie_width(np.concatenate([system, other], axis=1))
    difference = np.where(np.abs(values - others) <= ties, 0.0, values - others)
    low, high, p_bootstrap = _paired_bootstrap(system, other, difference, ties, settings)
    rng = numpy_rng(settings.seed, "statistics", "permutations")
    null, exact = resampling.permutation_distribution(system, other, settings.permutations, rng)
    p_permutation = resampling.two_sided(null, difference, exact, ties)
    p = p_permutation if settings.test == "permutation" else p_bootstrap
    per_seed = np.stack([system.mean(-1) - other.mean(-1), system.std(-1) - other.std(-1)])
    found = {}
    for place in np.ndindex(values.shape):
        aspect, i = ASPECTS[place[0]], place[1]
        arrays = {"value": values, "other_value": others, "difference": difference, "low": low, "high": high}
        arrays |= {"p_permutation": p_permutation, "p_bootstrap": p_bootstrap, "p": p}
        found[aspect, i] = {name: float(array[place]) for name, array in arrays.items()}
        found[aspect, i]["seed_sd"] = _seed_sd(per_seed[place])
        found[aspect, i] |= (
            _effects((system[i] - other[i]).mean(axis=0), ties[i])
            if aspect == "mean"
            else {"ratio": float(values[place] / others[place]) if others[place] > ties[i] else None}
        )
    return found


def _effects(shift: np.ndarray, tie: float) -> dict[str, float | None]:
    """Return the effect sizes of paired differences of shape ``(examples,)``."""
    spread = shift.std(ddof=1) if len(shift) > 1 else 0.0
    wins = (shift > tie).mean() + (np.abs(shift) <= tie).mean() / 2
    return {"d_z": float(shift.mean() / spread) if spread > tie else None, "superiority": float(wins)}


def _paired_bootstrap(
    system: np.ndarray, other: np.ndarray, difference: np.ndarray, ties: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the interval's ends and the p-values of the differences, each of shape ``(2, metrics)``."""
    both, metrics = np.concatenate([system, other]), len(system)

    def less(statistics: np.ndarray) -> np.ndarray:
        return statistics[..., :metrics] - statistics[..., metrics:]

    drawn, how = less(_bootstrap(both, settings)), (settings.confidence, settings.interval)
    low, high = resampling.interval(drawn, difference, less(resampling.jackknife(both)), ties, *how)
    return low, high, resampling.two_sided(drawn, np.zeros_like(difference), False, ties)


def _bounds(values: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    drawn, value, left_out = _bootstrap(values, settings), resampling.observed(values), resampling.jackknife(values)
    ties, how = resampling.tie_width(values), (settings.confidence, settings.interval)
    return resampling.interval(drawn, value, left_out, ties, *how)


def _bootstrap(values: np.ndarray, settings: Settings) -> np.ndarray:
    # The same stream for all: systems and metrics see the same samples of the same number of examples.
    rng = numpy_rng(settings.seed, "statistics", "bootstrap")
    return resampling.bootstrap_distribution(values, settings.bootstrap_samples, rng)


def _corpus_comparison(
    metric: str, names: tuple[str, str], system: Sequence[str | Path], other: Sequence[str | Path]
) -> Comparison | None:
    """Compare a score of a whole set of texts: each system's own set, all of it, and no test.

    Such scores fall with the size of the set: those of sets of two sizes do not compare, and None is returned.
    """
    found = [[describe(read_scores(path, [metric])[metric].to_numpy()) for path in files] for files in (system, other)]
    means = np.array([[one.mean for one in seeds] for seeds in found])
    value, other_value = map(float, means.mean(axis=1))
    if len(sizes := {one.n for seeds in found for one in seeds}) > 1:
        return None
    spread = _seed_sd(means[0] - means[1])
    return Comparison(
        metric, "mean", *names, value, other_value, value - other_value, sizes.pop(), len(system), seed_sd=spread
    )


def _seed_sd(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
