"""Bootstrap and sign-flip permutations of means and standard deviations, many metrics and seeds at once.

Both statistics are functions of first and second moments, and the moments of all resamples are one matrix product of
resampling weights and columns. That gives the numbers of `scipy.stats.bootstrap` and `scipy.stats.permutation_test`
(the tests compare them) without copying the data once a resample.

Arrays of scores have the shape ``(metrics, seeds, examples)`` and hold no NaN. Statistics have the shape
``(2, metrics)``: the mean over seeds of the mean, then that of the population standard deviation. Examples are what is
resampled; an example keeps its scores of all metrics, seeds and systems together.
"""

from collections.abc import Iterator
from itertools import count

import numpy as np
from scipy.special import ndtr, ndtri

_BLOCK = 2_000_000  # resampling weights held at once (16 MB), whatever the number of examples
_TIE = 1e-12  # differences below this share of the scores' size are rounding errors


def observed(scores: np.ndarray) -> np.ndarray:
    """Return mean and population standard deviation, averaged over seeds: shape ``(2, metrics)``."""
    return np.stack([scores.mean(axis=-1), scores.std(axis=-1)]).mean(axis=-1)


def bootstrap_distribution(scores: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return `observed` of bootstrap samples of the examples.

    Args:
        scores: Shape ``(metrics, seeds, examples)``.
        samples: How many samples to draw, each of as many examples as there are.
        rng: Its draws depend on the number of examples and of samples alone.

    Returns:
        Shape ``(samples, 2, metrics)``.
    """
    metrics, seeds, n = scores.shape
    columns, blocks = _moments(scores), []
    for rows in _blocks(samples, n):
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) / n
        blocks.append(_from_moments((weights @ columns).reshape(rows, 2, metrics, seeds)))
    distribution = np.concatenate(blocks)
    distribution[:, 0] += observed(scores)[0]
    return distribution


def jackknife(scores: np.ndarray) -> np.ndarray:
    """Return `observed` without one example at a time: shape ``(examples, 2, metrics)``.

    Of a single example nothing is left: it is its own jackknife, which has no influence.
    """
    metrics, seeds, n = scores.shape
    if n == 1:
        return observed(scores)[None]
    columns = _moments(scores)
    left = _from_moments(((columns.sum(axis=0) - columns) / (n - 1)).reshape(n, 2, metrics, seeds))
    left[:, 0] += observed(scores)[0]
    return left


def interval(
    distribution: np.ndarray,
    value: np.ndarray,
    left_out: np.ndarray,
    tolerance: np.ndarray,
    confidence: float,
    method: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a two-sided bootstrap interval.

    Args:
        distribution: The statistic of each bootstrap sample, shape ``(samples, …)``.
        value: The statistic of the data, shape ``(…)``.
        left_out: The statistic without each example (`jackknife`), shape ``(examples, …)``.
        tolerance: What counts as a tie with `value` (`tie_width`), shape ``(…)``.
        confidence: E.g. 0.95.
        method: ``percentile``, or ``bca``: bias-corrected and accelerated (Efron, 1987). Where the latter is
            undefined, because the statistic hardly varies, the percentiles are returned.

    Returns:
        Lower and upper ends, each of shape ``(…)``.
    """
    distribution = np.where(np.abs(distribution - value) <= tolerance, value, distribution)
    levels = np.multiply.outer([(1 - confidence) / 2, (1 + confidence) / 2], np.ones_like(value))
    if method == "bca":
        with np.errstate(divide="ignore", invalid="ignore"):
            below = ((distribution < value).mean(axis=0) + (distribution <= value).mean(axis=0)) / 2
            bias, influence = ndtri(below), left_out.mean(axis=0) - left_out
            acceleration = (influence**3).sum(axis=0) / (6 * (influence**2).sum(axis=0) ** 1.5)
            shifted = bias + ndtri(levels)
            corrected = ndtr(bias + shifted / (1 - acceleration * shifted))
        levels = np.where(np.isfinite(bias) & np.isfinite(corrected), corrected, levels)
    ends = np.empty_like(levels)
    for place in np.ndindex(value.shape):
        ends[:, *place] = np.quantile(distribution[:, *place], levels[:, *place])
    return ends[0], ends[1]


def permutation_distribution(
    system: np.ndarray, other: np.ndarray, permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, bool]:
    """Return `observed` of one system less that of another after swapping them on a random half of the examples.

    An example is swapped in all metrics and seeds together. For the standard deviation each system is first centred
    at its own mean, seed by seed: else a difference of means would count as spread once it is swapped.

    Args:
        system: Shape ``(metrics, seeds, examples)``.
        other: The same examples and seeds.
        permutations: How many to draw. If there are no more swaps than that, each is made once, as scipy does.
        rng: Its draws depend on the number of examples and of permutations alone.

    Returns:
        Shape ``(permutations, 2, metrics)``, and whether it is exact.
    """
    metrics, seeds, n = system.shape
    one, two = _centred(system), _centred(other)
    shift = (system - other).mean(axis=1)
    swapped = np.stack([one - two, one**2 - two**2]) / 2
    kept = np.stack([one + two, one**2 + two**2]).mean(axis=-1) / 2
    columns = np.concatenate([shift, swapped.reshape(-1, n)]).T / n
    exact, blocks = n < permutations.bit_length(), []
    for signs in _signs(n, 2**n if exact else permutations, exact, rng):
        means = signs @ columns
        turned = means[:, metrics:].reshape(-1, 2, metrics, seeds)
        spread = _from_moments(kept + turned)[:, 1] - _from_moments(kept - turned)[:, 1]
        blocks.append(np.stack([means[:, :metrics], spread], axis=1))
    return np.concatenate(blocks), exact


def two_sided(distribution: np.ndarray, value: np.ndarray, exact: bool, tolerance: np.ndarray) -> np.ndarray:
    """Return twice the smaller share of `distribution` that is at least as far out as `value`, at most 1.

    Args:
        distribution: Shape ``(permutations, …)``.
        value: Shape ``(…)``.
        exact: Whether every permutation is there; if not, the data's own counts as one of them, so that p > 0
            (Phipson and Smyth, 2010).
        tolerance: What counts as a tie (`tie_width`), shape ``(…)``.
    """
    added = 0 if exact else 1
    tails = [(distribution <= value + tolerance).sum(axis=0), (distribution >= value - tolerance).sum(axis=0)]
    return np.minimum(1.0, 2 * (np.min(tails, axis=0) + added) / (len(distribution) + added))


def tie_width(scores: np.ndarray) -> np.ndarray:
    """Return, for each metric, the difference up to which two numbers are equal but for rounding: ``(metrics,)``."""
    return _TIE * np.abs(scores).max(axis=(1, 2))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values corrected for their number by Holm's step-down method (1979).

    The i-th smallest of m is multiplied by m - i + 1; none gets smaller than the one before it, none exceeds 1.
    Rejecting what is at most alpha keeps the chance of any false rejection in the family at alpha at most, whatever
    the dependence between the tests.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _centred(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(axis=-1, keepdims=True)


def _moments(scores: np.ndarray) -> np.ndarray:
    """Return the centred scores and their squares: shape ``(examples, 2 * metrics * seeds)``."""
    centred = _centred(scores)
    return np.stack([centred, centred**2]).reshape(-1, scores.shape[-1]).T


def _from_moments(moments: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation, averaged over seeds, from moments of shape ``(rows, 2, metrics, seeds)``."""
    first, second = moments[:, 0], moments[:, 1]
    return np.stack([first, np.sqrt(np.maximum(second - first**2, 0.0))], axis=1).mean(axis=-1)


def _blocks(total: int, n: int) -> Iterator[int]:
    """Yield how many resamples of n examples to make at once."""
    size = max(1, _BLOCK // n)
    for start in count(0, size):
        if start >= total:
            return
        yield min(size, total - start)


def _signs(n: int, total: int, exact: bool, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks of rows of n signs: all of them if `exact`, else random ones."""
    start = 0
    for rows in _blocks(total, n):
        if exact:
            bits = np.arange(start, start + rows)[:, None] >> np.arange(n) & 1
        else:
            packed = np.frombuffer(rng.bytes(rows * -(-n // 8)), np.uint8)
            bits = np.unpackbits(packed.reshape(rows, -1), axis=1, count=n)
        yield 1.0 - 2.0 * bits
        start += rows
