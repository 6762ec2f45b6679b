"""Bootstrap and sign-flip permutations of means and standard deviations, many metrics and seeds at once.

Both statistics are functions of first and second moments, and the moments of all resamples are one matrix product of
resampling weights and columns. That gives the numbers of `scipy.stats.bootstrap` and `scipy.stats.permutation_test`
(the tests compare them) without copying the data once a resample.

Arrays of scores have the shape ``(metrics, seeds, examples)`` and hold no NaN. Statistics have the shape
``(2, metrics)``: the mean over seeds of the mean, then that of the population standard deviation. Examples are what is
resampled, or whole clusters of them, such as all examples of a user; what is drawn or swapped keeps its scores of all
metrics, seeds and systems together. `clusters` is the number of each example's cluster, shape ``(examples,)``, counted
from 0 without gaps; None: each example is its own.
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


def bootstrap_distribution(
    scores: np.ndarray, samples: int, rng: np.random.Generator, clusters: np.ndarray | None = None
) -> np.ndarray:
    """Return `observed` of bootstrap samples of the examples, or of their clusters.

    Args:
        scores: Shape ``(metrics, seeds, examples)``.
        samples: How many samples to draw, each of as many examples (or clusters) as there are.
        rng: Its draws depend on the number of examples (or clusters) and of samples alone.
        clusters: Of the examples; a sample of clusters has as many examples as these have.

    Returns:
        Shape ``(samples, 2, metrics)``.
    """
    metrics, seeds, _ = scores.shape
    drawn = _drawn_means(_moments(scores), samples, rng, clusters)
    distribution = np.concatenate([_from_moments(block.reshape(-1, 2, metrics, seeds)) for block in drawn])
    distribution[:, 0] += observed(scores)[0]
    return distribution


def jackknife(scores: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
    """Return `observed` without one example (or cluster) at a time: shape ``(examples or clusters, 2, metrics)``.

    Of a single one nothing is left: it is its own jackknife, which has no influence.
    """
    metrics, seeds, n = scores.shape
    columns, sizes = _summed(_moments(scores), clusters)
    if len(sizes) == 1:
        return observed(scores)[None]
    left = (columns.sum(axis=0) - columns) / (n - sizes)[:, None]
    found = _from_moments(left.reshape(-1, 2, metrics, seeds))
    found[:, 0] += observed(scores)[0]
    return found


def studentised_spread(
    scores: np.ndarray, samples: int, rng: np.random.Generator, confidence: float, clusters: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a studentised bootstrap interval of the standard deviation, on the scale of its logarithm.

    With s the standard deviation averaged over seeds and e its standard error by the delta method, of each sample
    t = (log s* - log s) / (e* / s*); the ends are s exp(-q e / s), q the upper and lower quantile of t. The error of
    the data's s is that of the sum, over clusters, of ((x - mean)^2 - var) / (2 sd), averaged over seeds. A sample's is
    the data's times how its moments of second and fourth order, var(sd) = (m4 - var^2) / (4 var), compare with the
    data's, seed by seed: the correlations between seeds and within clusters stay those of the data.

    Args:
        scores: Shape ``(metrics, seeds, examples)``.
        samples: How many samples to draw.
        rng: As for `bootstrap_distribution`, which draws the same.
        confidence: E.g. 0.95.
        clusters: Of the examples.

    Returns:
        Lower and upper ends, each of shape ``(metrics,)``; NaN where the spread of the spread is not defined, as of
        scores that hardly vary.
    """
    metrics, seeds, n = scores.shape
    centred = _centred(scores)
    columns = np.stack([centred**power for power in range(1, 5)]).reshape(-1, n).T

    def spread(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one, two, three, four = means.reshape(-1, 4, metrics, seeds).swapaxes(0, 1)
        variance = np.maximum(two - one**2, 0.0)
        fourth = four - 4 * one * three + 6 * one**2 * two - 3 * one**4
        error = np.sqrt(np.maximum(fourth - variance**2, 0.0) / (4 * variance))
        return np.sqrt(variance).mean(axis=-1), np.sqrt((error**2).sum(axis=-1))

    with np.errstate(divide="ignore", invalid="ignore"):
        std, error = (value[0] for value in spread(columns.mean(axis=0)[None]))
        scale = standard_error(influence(scores)[1], clusters) / error
        found = [spread(block) for block in _drawn_means(columns, samples, rng, clusters)]
        stds, errors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        t = np.log(stds / std) / (scale * errors / stds)
        quantiles = np.quantile(t, [(1 + confidence) / 2, (1 - confidence) / 2], axis=0)
        ends = std * np.exp(-quantiles * scale * error / std)
    ends[:, ~np.isfinite(ends).all(axis=0)] = np.nan
    return ends[0], ends[1]


def standard_error(influence: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
    """Return the standard error of a mean of contributions that sum to 0, clusters being independent.

    Args:
        influence: What each example adds, shape ``(…, examples)``.
        clusters: Of the examples.

    Returns:
        Shape ``(…)``: with g clusters and S their sums, sqrt(sum S^2 g / (g - 1)) / n; NaN of a single cluster.
    """
    n = influence.shape[-1]
    sums, sizes = _summed(np.moveaxis(influence, -1, 0).reshape(n, -1), clusters)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt((sums**2).sum(axis=0) * (len(sizes) / np.float64(len(sizes) - 1))) / n
    return error.reshape(influence.shape[:-1])


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


def influence(scores: np.ndarray) -> np.ndarray:
    """Return what each example adds to `observed`, to first order: shape ``(2, metrics, examples)``.

    To the mean x - mean, to the standard deviation ((x - mean)^2 - var) / (2 sd), averaged over seeds; of scores that
    do not vary, 0.
    """
    centred, std = _centred(scores), scores.std(axis=-1, keepdims=True)
    shares = np.where(std > 0, (centred**2 - std**2) / (2 * np.where(std > 0, std, 1.0)), 0.0)
    return np.stack([centred, shares]).mean(axis=2)


def effective_size(scores: np.ndarray) -> np.ndarray:
    """Return n over the kurtosis, averaged over seeds: shape ``(metrics,)``; 0 where scores do not vary.

    How many examples a standard deviation rests on: n / 3 of a normal distribution, few where a few texts are far off.
    """
    squares = _centred(scores) ** 2
    fourth = (squares**2).sum(axis=-1)
    return (squares.sum(axis=-1) ** 2 / np.where(fourth > 0, fourth, 1.0)).mean(axis=-1)


def permutation_distribution(
    system: np.ndarray,
    other: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
    clusters: np.ndarray | None = None,
) -> tuple[np.ndarray, bool]:
    """Return `observed` of one system less that of another after swapping them on a random half of the examples.

    An example, or a whole cluster of them, is swapped in all metrics and seeds together. For the standard deviation
    each system is first centred at its own mean, seed by seed: else a difference of means would count as spread once it
    is swapped.

    Args:
        system: Shape ``(metrics, seeds, examples)``.
        other: The same examples and seeds.
        permutations: How many to draw. If there are no more swaps than that, each is made once, as scipy does.
        rng: Its draws depend on the number of examples (or clusters) and of permutations alone.
        clusters: Of the examples.

    Returns:
        Shape ``(permutations, 2, metrics)``, and whether it is exact.
    """
    metrics, seeds, n = system.shape
    one, two = _centred(system), _centred(other)
    shift = (system - other).mean(axis=1)
    swapped = np.stack([one - two, one**2 - two**2]) / 2
    kept = np.stack([one + two, one**2 + two**2]).mean(axis=-1) / 2
    columns, sizes = _summed(np.concatenate([shift, swapped.reshape(-1, n)]).T / n, clusters)
    flipped = len(sizes)
    exact, blocks = flipped < permutations.bit_length(), []
    for signs in _signs(flipped, 2**flipped if exact else permutations, exact, rng):
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


def _summed(columns: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of columns ``(examples, …)`` over each cluster, and how many examples it has."""
    if clusters is None:
        return columns, np.ones(len(columns))
    sums = np.zeros((clusters.max() + 1, columns.shape[1]))
    np.add.at(sums, clusters, columns)
    return sums, np.bincount(clusters).astype(float)


def _drawn_means(
    columns: np.ndarray, samples: int, rng: np.random.Generator, clusters: np.ndarray | None
) -> Iterator[np.ndarray]:
    """Yield blocks of the means of columns ``(examples, …)`` over bootstrap samples of examples or clusters."""
    columns, sizes = _summed(columns, clusters)
    n = len(sizes)
    for rows in _blocks(samples, n):
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        yield (times / (times @ sizes)[:, None]) @ columns


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
