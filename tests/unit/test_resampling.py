"""Resampling: the numbers of scipy's bootstrap and permutation test, in bounded memory, with honest error rates."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from xrec_repro import resampling


def pair(metrics: int = 3, seeds: int = 2, n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two skewed systems that find the same examples hard, apart in mean and spread."""
    rng = np.random.default_rng(seed)
    one = rng.gamma(2, 1, (metrics, seeds, n))
    return one, 0.9 * one + rng.normal(0.2, 0.8, one.shape)


def both(scores: np.ndarray, axis: int) -> np.ndarray:
    return np.stack([scores.mean(axis), scores.std(axis)]).mean(axis=2)


def centred(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(axis=-1, keepdims=True)


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("n", [12, 40])
def test_bootstrap_is_scipys(method, n):
    scores, _ = pair(n=n)
    options = {"n_resamples": 400, "method": method, "confidence_level": 0.9, "vectorized": True, "axis": -1}
    theirs = stats.bootstrap((scores,), both, **options, rng=np.random.default_rng(5))
    drawn = resampling.bootstrap_distribution(scores, 400, np.random.default_rng(5))
    np.testing.assert_allclose(np.moveaxis(drawn, 0, -1), theirs.bootstrap_distribution, rtol=1e-12)
    left_out, value = resampling.jackknife(scores), resampling.observed(scores)
    ends = resampling.interval(drawn, value, left_out, resampling.tie_width(scores), 0.9, method)
    np.testing.assert_allclose(ends, theirs.confidence_interval, rtol=1e-10)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_paired_bootstrap_is_scipys(method):
    one, two = pair()

    def less(statistics: np.ndarray) -> np.ndarray:
        return statistics[..., :3] - statistics[..., 3:]

    options = {"n_resamples": 400, "method": method, "paired": True, "vectorized": True, "axis": -1}
    theirs = stats.bootstrap(
        (one, two), lambda a, b, axis: both(a, axis) - both(b, axis), **options, rng=np.random.default_rng(5)
    )
    together = np.concatenate([one, two])
    drawn = less(resampling.bootstrap_distribution(together, 400, np.random.default_rng(5)))
    ends = resampling.interval(
        drawn, less(resampling.observed(together)), less(resampling.jackknife(together)), 1e-12, 0.95, method
    )
    np.testing.assert_allclose(ends, theirs.confidence_interval, rtol=1e-9)


def test_blocks_do_not_change_what_is_drawn(monkeypatch):
    scores, other = pair()
    whole = resampling.bootstrap_distribution(scores, 50, np.random.default_rng(1))
    monkeypatch.setattr(resampling, "_BLOCK", 7 * 40)
    np.testing.assert_allclose(
        resampling.bootstrap_distribution(scores, 50, np.random.default_rng(1)), whole, rtol=1e-12
    )
    null, _ = resampling.permutation_distribution(scores, other, 50, np.random.default_rng(1))
    assert null.shape == (50, 2, 3)


def bca(scores: np.ndarray, samples: int = 200, method: str = "bca") -> np.ndarray:
    drawn = resampling.bootstrap_distribution(scores, samples, np.random.default_rng(0))
    value, left_out = resampling.observed(scores), resampling.jackknife(scores)
    return np.array(resampling.interval(drawn, value, left_out, resampling.tie_width(scores), 0.95, method))


def test_ties_count_half_whatever_the_rounding():
    # Of 5 examples, 1 sample in 26 is the data in another order; a tenth of whole numbers rounds when summed.
    scores = np.array([[[1.0, 2, 2, 7, 9]]])
    np.testing.assert_allclose(bca(scores / 10) * 10, bca(scores), rtol=1e-9)


def test_undefined_bca_falls_back_to_percentiles():
    np.testing.assert_allclose(bca(np.full((1, 1, 6), 0.7)), [[[0.7], [0]]] * 2, atol=1e-12)


def p_values(one: np.ndarray, two: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    null, exact = resampling.permutation_distribution(one, two, draws, np.random.default_rng(seed))
    difference = resampling.observed(one) - resampling.observed(two)
    ties = resampling.tie_width(np.concatenate([one, two], axis=1))
    return resampling.two_sided(null, difference, exact, ties)


def scipys_p(one: np.ndarray, two: np.ndarray, draws: int) -> np.ndarray:
    """Sign flips for means; swaps of centred systems for standard deviations; both of one metric at a time."""
    options = {"permutation_type": "samples", "vectorized": True, "n_resamples": draws, "axis": -1, "rng": 1}
    result = np.empty((2, len(one)))
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        flips = stats.permutation_test(((a - b).mean(axis=0),), lambda x, axis: x.mean(axis), **options)
        swaps = stats.permutation_test(
            (centred(a), centred(b)), lambda x, y, axis: (x.std(axis) - y.std(axis)).mean(-1), **options
        )
        result[:, i] = flips.pvalue, swaps.pvalue
    return result


@pytest.mark.parametrize("n", [2, 7, 9])
def test_exact_permutation_test_is_scipys(n):
    one, two = pair(n=n)
    assert resampling.permutation_distribution(one, two, 512, np.random.default_rng(0))[1]
    np.testing.assert_allclose(p_values(one, two, 512), scipys_p(one, two, 512), rtol=1e-12)


def test_one_permutation_fewer_than_all_is_drawn_at_random():
    one, two = pair(n=9)
    null, exact = resampling.permutation_distribution(one, two, 511, np.random.default_rng(0))
    assert (len(null), exact) == (511, False)


def test_random_permutation_test_agrees_with_scipys():
    one, two = pair(n=30, metrics=2)
    ours, theirs = p_values(one, two, 20_000), scipys_p(one, two, 5_000)
    tails = ours / 2, theirs / 2
    error = 2 * np.sqrt(tails[0] * (1 - tails[0]) / 20_000 + tails[1] * (1 - tails[1]) / 5_000)
    assert (np.abs(ours - theirs) < 4 * error + 2 / 5_000).all()
    assert (theirs > 0.1).any() and (theirs < 0.9).any()


def test_one_example_tells_nothing():
    assert (p_values(np.array([[[1.0]]]), np.array([[[0.0]]]), 99) == 1).all()


def test_a_system_against_itself_has_p_1():
    one, _ = pair(n=300)
    assert (p_values(one, one, 999) == 1).all()


def test_a_shift_is_a_difference_of_means_and_none_of_spread():
    one, _ = pair(n=300)
    assert (p_values(one, one + 0.1, 999)[0] == 2 / 1000).all()
    assert (p_values(one, one + 0.1, 999)[1] == 1).all()


def test_no_difference_is_found_as_often_as_alpha():
    rng = np.random.default_rng(3)
    difficulty = rng.gamma(2, 1, (600, 1, 50))
    one, two = (difficulty + rng.normal(0, 1, difficulty.shape) for _ in range(2))
    shares = (p_values(one, two + 0.5, 999)[1] <= 0.05).mean(), (p_values(one, two, 999)[0] <= 0.05).mean()
    assert all(0.025 < share < 0.08 for share in shares)  # 0.05 and three standard errors of 600 draws
    assert (p_values(one, two + 0.8, 999)[0] <= 0.05).mean() > 0.9


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(method):
    scores = np.random.default_rng(4).gamma(4, 1, (400, 1, 80))
    low, high = bca(scores, 800, method)
    held = ((low <= [[4.0], [2.0]]) & (high >= [[4.0], [2.0]])).mean(axis=1)
    assert 0.91 < held[0] < 0.98
    assert 0.85 < held[1] < 0.98  # a standard deviation of 80 skewed scores is harder


def test_memory_does_not_grow_with_the_number_of_resamples():
    scores = np.random.default_rng(0).normal(size=(1, 1, 50_000))
    peaks = []
    for samples in (80, 400):
        tracemalloc.start()
        resampling.bootstrap_distribution(scores, samples, np.random.default_rng(0))
        resampling.permutation_distribution(scores, scores + 1, samples, np.random.default_rng(0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 80e6  # 400 resamples of 50,000 numbers at once would be 160 MB


def test_holm_by_hand():
    np.testing.assert_allclose(resampling.holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(resampling.holm(np.array([0.6, 0.7])), [1, 1])
    assert resampling.holm(np.array([])).shape == (0,)


def test_holm_rejects_what_its_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.beta(0.3, 2, 12)
        corrected = resampling.holm(p)
        for alpha in (0.01, 0.05, 0.3):
            rejected = set()
            for rank, i in enumerate(np.argsort(p)):
                if p[i] > alpha / (len(p) - rank):
                    break
                rejected.add(int(i))
            assert set(np.flatnonzero(corrected <= alpha).tolist()) == rejected
        assert (corrected >= stats.false_discovery_control(p) - 1e-12).all()  # family-wise is stricter than FDR
        assert (corrected <= np.minimum(1, p * len(p)) + 1e-12).all()  # and no stricter than Bonferroni
