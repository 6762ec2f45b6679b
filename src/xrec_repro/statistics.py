"""Whether two systems differ: from per-example scores alone, unrounded.

Scores and spreads are those of `estimates`. Resampling draws examples, or the examples of whole users; whether another
training would say the same, the seeds tell (`run_effects`). docs/statistics.md explains the choices. Which way a mean
is better, the metric says (`metrics.columns`); of every standard deviation, lower is.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind_from_stats

from xrec_repro import resampling, run_effects
from xrec_repro.errors import DataError
from xrec_repro.estimates import ASPECTS, bootstrap, clusters_of, seed_sd
from xrec_repro.metrics.columns import stated_column
from xrec_repro.scores import Run, describe, join_scores, load_runs, read_scores, same_examples, users_of
from xrec_repro.seeding import numpy_rng
from xrec_repro.statistic_settings import Settings


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems on the same examples.

    Attributes:
        aspect: ``mean`` | ``std``.
        value: Of `system`; None of what follows it is rounded.
        difference: `value` less `other_value`; `low` and `high` bound it: the paired bootstrap's interval, and where
            the test of runs is made, as far as the latter's goes beyond it.
        n: Examples scored for both systems in every seed.
        dropped: Examples of both that could not be scored for one of them.
        unmatched: Examples that only some of the files have.
        seed_sd: Sample standard deviation of the difference over the seeds; None for a single one.
        p_permutation: Two-sided, paired permutation test.
        p_bootstrap: Two-sided: twice the share of paired bootstrap samples on the other side of no difference.
        p_runs: Two-sided, by what trainings differ by (`run_effects`); None with fewer than three seeds.
        p: What decides: that of `Settings.test`, or `p_runs` if that is larger; `p_holm` is it corrected for the
            family, None for exploratory metrics.
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
    p_runs: float | None = None
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
    texts: str | Path | None = None,
) -> list[Comparison]:
    """Compare two systems of these names, without correction for the number of comparisons.

    Args:
        system: scores.parquet of each seed of the first.
        other: Those of the second, of the same seeds.
        names: Of the two.
        metrics: Which columns.
        settings: How.
        corpus: Those of the metrics that are scores of a whole set of texts.
        texts: The pairs of the split, which say whose an example is.

    Raises:
        DataError: A file is unusable, or they share no scored example.
    """
    cube, examples, unmatched = join_scores([system, other], metrics)
    users = users_of(texts, examples) if texts is not None else None
    found: dict[tuple[str, str], Comparison] = {}
    for chosen, kept in same_examples(cube):
        pair = cube[:, chosen][..., kept]
        common = {"n": int(kept.sum()), "dropped": int((~kept).sum()), "unmatched": unmatched, "seeds": len(system)}
        clusters = clusters_of(users, kept, settings)
        for (aspect, i), facts in compare_arrays(*pair, settings, clusters).items():
            found[metrics[chosen[i]], aspect] = Comparison(metrics[chosen[i]], aspect, *names, **common, **facts)
    for metric in (name for name in metrics if name in corpus):
        found.pop((metric, "std"))
        del found[metric, "mean"]
        if one := _corpus_comparison(metric, names, system, other):
            found[metric, "mean"] = one
    return [found[metric, aspect] for metric in metrics for aspect in ASPECTS if (metric, aspect) in found]


def compare_runs(
    system: Run,
    other: Run,
    settings: Settings,
    metrics: Sequence[str] | None = None,
) -> list[Comparison]:
    """Compare two experiments of a data set on the metrics that both have (of those named, if any are).

    Args:
        system: The first.
        other: The second.
        settings: How.
        metrics: Which of the metrics.

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
    files = system.files, other.files
    return compare_files(*files, names, shared, settings, system.corpus, system.texts) if shared else []


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


def compare_arrays(
    system: np.ndarray,
    other: np.ndarray,
    settings: Settings,
    clusters: np.ndarray | None = None,
) -> dict[tuple[str, int], dict[str, Any]]:
    """Compare two systems' scores of the same examples under the same seeds.

    Args:
        system: Of the first, shape ``(metrics, seeds, examples)``, without NaN.
        other: Of the second, of the same shape.
        settings: How.
        clusters: The number of the user of each example (`clusters_of`); None to draw examples one by one.

    Returns:
        (aspect, metric's number) -> what a `Comparison` says of it.
    """
    values, others = resampling.observed(system), resampling.observed(other)
    ties = resampling.tie_width(np.concatenate([system, other], axis=1))
    difference = np.where(np.abs(values - others) <= ties, 0.0, values - others)
    low, high, p_bootstrap = _paired_bootstrap(system, other, difference, ties, settings, clusters)
    rng = numpy_rng(settings.seed, "statistics", "permutations")
    null, exact = resampling.permutation_distribution(system, other, settings.permutations, rng, clusters)
    p_permutation = resampling.two_sided(null, difference, exact, ties)
    p = p_permutation if settings.test == "permutation" else p_bootstrap
    seeds = np.stack([[each.mean(-1), each.std(-1)] for each in (system, other)], axis=2)
    per_seed = seeds[:, :, 0] - seeds[:, :, 1]
    arrays = {"value": values, "other_value": others, "difference": difference}
    arrays |= {"p_permutation": p_permutation, "p_bootstrap": p_bootstrap}
    if settings.runs != "fixed" and per_seed.shape[-1] >= run_effects.FEWEST:
        p_runs, below, above = _run_test(system, other, seeds, ties, settings, clusters)
        p, low, high = np.maximum(p, p_runs), np.minimum(low, below), np.maximum(high, above)
        arrays["p_runs"] = p_runs
    arrays |= {"p": p, "low": low, "high": high}
    found = {}
    for place in np.ndindex(values.shape):
        aspect, i = ASPECTS[place[0]], place[1]
        found[aspect, i] = {name: float(array[place]) for name, array in arrays.items()}
        found[aspect, i]["seed_sd"] = seed_sd(per_seed[place])
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


def _run_test(
    system: np.ndarray,
    other: np.ndarray,
    seeds: np.ndarray,
    ties: np.ndarray,
    settings: Settings,
    clusters: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return p and the interval's ends of the test of `Settings.runs`, each of shape ``(2, metrics)``.

    `seeds` are the values of both in each seed, of shape ``(2, metrics, 2, seeds)``.
    """
    if settings.runs == "both":
        return run_effects.own_test(seeds[:, :, 0] - seeds[:, :, 1], ties, settings.confidence)
    error = resampling.standard_error(resampling.influence(system) - resampling.influence(other), clusters)
    groups = system.shape[-1] if clusters is None else clusters.max() + 1
    return run_effects.larger_test(seeds, error, groups, ties, settings.confidence)


def _paired_bootstrap(
    system: np.ndarray,
    other: np.ndarray,
    difference: np.ndarray,
    ties: np.ndarray,
    settings: Settings,
    clusters: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the interval's ends and the p-values of the differences, each of shape ``(2, metrics)``."""
    both, metrics = np.concatenate([system, other]), len(system)

    def less(statistics: np.ndarray) -> np.ndarray:
        return statistics[..., :metrics] - statistics[..., metrics:]

    drawn, how = less(bootstrap(both, settings, clusters)), (settings.confidence, settings.interval)
    low, high = resampling.interval(drawn, difference, less(resampling.jackknife(both, clusters)), ties, *how)
    return low, high, resampling.two_sided(drawn, np.zeros_like(difference), False, ties)


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
    spread = seed_sd(means[0] - means[1])
    return Comparison(
        metric, "mean", *names, value, other_value, value - other_value, sizes.pop(), len(system), seed_sd=spread
    )
