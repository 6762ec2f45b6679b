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
        whose = "the larger of the two experiments' spreads" if runs == "larger" else "the spread of the differences"
        return (
            f"A difference counts only if it also exceeds what trainings differ by: p runs, of {fewest} seeds, by "
            f"{whose} over the seeds."
        )
    number = "1 seed" if fewest == 1 else f"{fewest} seeds"
    return (
        f"What differs here differs on these texts and by this training ({number}): another training of the same "
        f"systems may say otherwise, and fewer than {FEWEST} seeds, or statistics.runs: fixed, do not tell."
    )


def own_test(per_seed: np.ndarray, ties: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the t-test of the seeds' differences.

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


def larger_test(
    pair: np.ndarray, example_error: np.ndarray, groups: int, ties: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a t-test whose error has a part of the examples and a part of the runs, the latter never the smaller one.

    With v the largest of the two systems' variances over R seeds and half the variance of their differences, the runs'
    part is 2 v / R, with the 2 (R - 1) degrees of freedom that the two systems have. The parts are added, with
    Satterthwaite's (1946) degrees of freedom. Where one system varies as its trainings do and the other not at all, the
    larger variance is one of R - 1 degrees of freedom, but stands for both: the factor 2 makes up for it.

    Args:
        pair: The two systems' values of each seed, shape ``(2, metrics, 2, seeds)``.
        example_error: Standard error of the difference over examples or users, shape ``(2, metrics)``.
        groups: How many examples or users that is of.
        ties: What counts as no difference, shape ``(metrics,)``.
        confidence: Of the interval.

    Returns:
        As `own_test`.
    """
    seeds, per_seed = pair.shape[-1], pair[..., 0, :] - pair[..., 1, :]
    largest = np.maximum(pair.var(axis=-1, ddof=1).max(axis=-1), per_seed.var(axis=-1, ddof=1) / 2)
    runs, examples, freedom = 2 * largest / seeds, example_error**2, 2.0 * (seeds - 1)
    total, parts = runs + examples, examples**2 / max(groups - 1, 1) + runs**2 / freedom
    joint = np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1.0), freedom)
    return _t(per_seed.mean(axis=-1), np.sqrt(total), joint, ties, confidence)


def _t(
    difference: np.ndarray, error: np.ndarray, freedom: np.ndarray, ties: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    differs, varies = np.abs(difference) > ties, error > ties
    t = np.where(varies, np.abs(difference) / np.where(varies, error, 1.0), np.inf)
    width = error * stats.t.ppf((1 + confidence) / 2, freedom)
    return np.where(differs, 2 * stats.t.sf(t, freedom), 1.0), difference - width, difference + width
