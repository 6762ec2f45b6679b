"""How sure a score is: from per-example scores alone, unrounded.

A system's score is its mean over the examples, averaged over its seeds; its spread ("stability") is the population
standard deviation over the examples, averaged over its seeds. Resampling draws examples, or the examples of whole users
(`resampling`); docs/statistics.md explains the choices.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xrec_repro import resampling
from xrec_repro.scores import describe, join_scores, same_examples, users_of
from xrec_repro.seeding import numpy_rng
from xrec_repro.statistic_settings import Settings

ASPECTS = ("mean", "std")


@dataclass(frozen=True)
class Estimate:
    """A metric of one system.

    Attributes:
        mean: Over the `n` examples scored in every seed, averaged over the seeds; `mean_low` and `mean_high` bound it.
        std: Population standard deviation likewise. It and all bounds are None for scores of a whole set of texts.
        effective_n: n over the kurtosis, averaged over seeds: how many examples the standard deviation rests on.
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
    effective_n: float | None = None


def bootstrap_interval(
    values: np.ndarray, aspect: str, settings: Settings, users: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the bootstrap interval of the ``mean`` or ``std`` of scores of shape ``(examples,)``, NaN left out.

    Args:
        values: The scores.
        aspect: Of what.
        settings: How.
        users: Whose each example is, a number or None where that is not known.
    """
    describe(values)
    scored = ~np.isnan(values)
    low, high = _bounds(values[scored][None, None], settings, clusters_of(users, scored, settings))
    place = ASPECTS.index(aspect), 0
    return float(low[place]), float(high[place])


def estimates(
    files: Sequence[str | Path],
    metrics: Sequence[str],
    settings: Settings,
    corpus: Collection[str] = (),
    texts: str | Path | None = None,
) -> list[Estimate]:
    """Return mean, spread and their bootstrap intervals of every metric of a system.

    Args:
        files: scores.parquet of each of its seeds.
        metrics: Which columns.
        settings: How.
        corpus: Those of the metrics that are scores of a whole set of texts: of them, only means are given.
        texts: The pairs of the split, which say whose an example is.

    Raises:
        DataError: A file is unusable, or no example is scored in every seed.
    """
    scores, examples, _ = join_scores([files], metrics)
    users = users_of(texts, examples) if texts is not None else None
    found: dict[str, Estimate] = {}
    for chosen, kept in same_examples(scores):
        values = scores[0, chosen][..., kept]
        (mean, std), effective = resampling.observed(values), resampling.effective_size(values)
        low, high = _bounds(values, settings, clusters_of(users, kept, settings))
        for i, row in enumerate(chosen):
            bounds = {"mean_low": low[0, i], "mean_high": high[0, i], "std": std[i]}
            bounds |= {"std_low": low[1, i], "std_high": high[1, i], "effective_n": effective[i]}
            seed_means = [describe(seed).mean for seed in scores[0, row]]
            found[metrics[row]] = Estimate(
                metrics[row],
                float(mean[i]),
                n=int(kept.sum()),
                missing=int((~kept).sum()),
                seed_means=tuple(seed_means),
                seed_sd=seed_sd(seed_means),
                **({} if metrics[row] in corpus else {name: float(bound) for name, bound in bounds.items()}),
            )
    return [found[metric] for metric in metrics]


def clusters_of(users: np.ndarray | None, kept: np.ndarray, settings: Settings) -> np.ndarray | None:
    """Return the clusters of the examples that are kept; None where each is its own, or they are not asked for."""
    if users is None or settings.clusters == "none":
        return None
    values, numbers = np.unique(users[kept], return_inverse=True)
    return numbers if len(values) < len(numbers) else None


def _bounds(
    values: np.ndarray, settings: Settings, clusters: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    drawn, value = bootstrap(values, settings, clusters), resampling.observed(values)
    left_out, ties = resampling.jackknife(values, clusters), resampling.tie_width(values)
    low, high = resampling.interval(drawn, value, left_out, ties, settings.confidence, settings.interval)
    if settings.interval == "bca":  # whose intervals of standard deviations are too short (docs/statistics.md)
        how = settings.bootstrap_samples, _rng(settings), settings.confidence, clusters
        ends = resampling.studentised_spread(values, *how)
        low[1], high[1] = np.where(np.isnan(ends), [low[1], high[1]], ends)
    return low, high


def bootstrap(values: np.ndarray, settings: Settings, clusters: np.ndarray | None) -> np.ndarray:
    """Return `resampling.bootstrap_distribution` as set."""
    return resampling.bootstrap_distribution(values, settings.bootstrap_samples, _rng(settings), clusters)


def _rng(settings: Settings) -> np.random.Generator:
    # The same stream for all: systems and metrics see the same samples of the same number of examples.
    return numpy_rng(settings.seed, "statistics", "bootstrap")


def seed_sd(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation over seeds; None of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
