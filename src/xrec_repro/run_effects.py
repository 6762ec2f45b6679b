"""Whether a difference is larger than what trainings of the same two systems differ by, from a few seeds of each.

Resampling examples holds the trained models fixed: it tells whether other texts would show the same difference, not
whether another training would. The seeds tell the latter. Arrays have the shape ``(2, metrics, seeds)``: differences of
means, then of standard deviations.
"""

from collections.abc import Iterable

import numpy as np
from scipy import stats

FEWEST = 3  # seeds of which a spread says something


def scope_note(seeds: Iterable[int], runs: str) -> str:
    """Return in a line what verdicts are about: these trainings, or also others.

    Args:
        seeds: How many seeds each experiment has.
        runs: ``statistics.runs``.
    """
    fewest = min(seeds)
    if fewest >= FEWEST and runs != "fixed":
        whose = "all trained experiments together" if runs == "pooled" else "the two experiments"
        return (
            f"A difference counts only if it also exceeds what trainings differ by: p runs, of {fewest} seeds, by the "
            f"spread over the seeds of {whose}."
        )
    number = "1 seed" if fewest == 1 else f"{fewest} seeds"
    return (
        f"What differs here differs on these texts and by this training ({number}): another training of the same "
        f"systems may say otherwise, and fewer than {FEWEST} seeds, or statistics.runs: fixed, do not tell."
    )


def own_test(per_seed: np.ndarray, ties: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the t-test of the seeds' differences, which assumes nothing of other experiments.

    t = mean / (sd / sqrt(seeds)), with seeds - 1 degrees of freedom.

    Args:
        per_seed: Shape ``(2, metrics, seeds)``.
        ties: What counts as no difference, shape ``(metrics,)``.
        confidence: Of the interval, e.g. 0.95.

    Returns:
        p (two-sided; 1 without a difference, 0 where all seeds have the same one) and the ends of the interval of the
        difference, each of shape ``(2, metrics)``.
    """
    seeds = per_seed.shape[-1]
    error = per_seed.std(axis=-1, ddof=1) / np.sqrt(seeds)
    return _t(per_seed.mean(axis=-1), error, np.full(error.shape, seeds - 1.0), ties, confidence)


def pooled_test(
    per_seed: np.ndarray,
    pool: np.ndarray,
    example_error: np.ndarray,
    groups: int,
    ties: np.ndarray,
    confidence: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a t-test whose error has a part of the examples and a part of the runs, the latter of all experiments.

    Of S experiments and R seeds, what is left of the seeds' values after the mean of each experiment and of each seed
    is taken from it has a variance v with (S - 1)(R - 1) degrees of freedom; a difference of two has 2 v / R. That
    supposes that trainings of all S differ by as much, which nothing here can check. The two parts are added, with
    Satterthwaite's (1946) degrees of freedom.

    Args:
        per_seed: Shape ``(2, metrics, seeds)``.
        pool: The values of all experiments that are trained, shape ``(2, metrics, experiments, seeds)``.
        example_error: Standard error of the difference over examples or users, shape ``(2, metrics)``.
        groups: How many examples or users that is of.
        ties: What counts as no difference, shape ``(metrics,)``.
        confidence: Of the interval.

    Returns:
        As `own_test`.
    """
    seeds = per_seed.shape[-1]
    left = pool - pool.mean(axis=-1, keepdims=True)
    left -= left.mean(axis=-2, keepdims=True)
    freedom = (pool.shape[-2] - 1) * (seeds - 1)
    runs, examples = 2 * (left**2).sum(axis=(-1, -2)) / freedom / seeds, example_error**2
    total, parts = runs + examples, examples**2 / max(groups - 1, 1) + runs**2 / freedom
    joint = np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1.0), float(freedom))
    return _t(per_seed.mean(axis=-1), np.sqrt(total), joint, ties, confidence)


def _t(
    difference: np.ndarray, error: np.ndarray, freedom: np.ndarray, ties: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    differs, varies = np.abs(difference) > ties, error > ties
    t = np.where(varies, np.abs(difference) / np.where(varies, error, 1.0), np.inf)
    width = error * stats.t.ppf((1 + confidence) / 2, freedom)
    return np.where(differs, 2 * stats.t.sf(t, freedom), 1.0), difference - width, difference + width
