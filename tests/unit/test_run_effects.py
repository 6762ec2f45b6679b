"""What trainings differ by, and what users share: tests and intervals by hand, and how often all of them are wrong."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xrec_repro import resampling, run_effects
from xrec_repro.errors import DataError
from xrec_repro.estimates import bootstrap_interval, clusters_of, estimates
from xrec_repro.scores import users_of
from xrec_repro.statistic_settings import Settings
from xrec_repro.statistics import compare_files

SETTINGS = Settings(
    seed=0, bootstrap_samples=299, permutations=999, interval="bca", confidence=0.95, test="permutation",
    correction="holm", alpha=0.05, reference="full", primary=None, clusters="user", runs="both",
)  # fmt: skip
TIES = np.array([1e-12])


def test_own_test_is_the_t_test_of_the_seeds():
    per_seed = np.array([[[0.1, 0.2, 0.4]], [[0.0, 0.0, 0.0]]])
    p, low, high = run_effects.own_test(per_seed, TIES, 0.95)
    theirs = stats.ttest_1samp(per_seed[0, 0], 0)
    assert p[0, 0] == pytest.approx(theirs.pvalue)
    assert (low[0, 0], high[0, 0]) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert (p[1, 0], low[1, 0], high[1, 0]) == (1, 0, 0)


def test_runs_that_do_not_differ_leave_the_decision_to_the_examples():
    p, low, high = run_effects.own_test(np.full((2, 1, 3), 0.2), TIES, 0.95)
    assert (p == 0).all() and low == pytest.approx(0.2) and high == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("one", "two", "variance"),
    [
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], 1.0),  # the larger of both
        ([5.0, 5.0, 5.0], [1.0, 3.0, 5.0], 4.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], 2.0),  # of differences that trainings draw apart, half of what these have
    ],
)
def test_larger_test_by_hand(one, two, variance):
    pair = np.array([[[one, two]]] * 2)
    p, low, high = run_effects.larger_test(pair, np.full((2, 1), 0.3), 41, TIES, 0.9)
    difference, runs, examples = np.mean(one) - np.mean(two), 2 * variance / 3, 0.09
    freedom = (runs + examples) ** 2 / (runs**2 / 4 + examples**2 / 40)
    error = np.sqrt(runs + examples)
    assert p[0, 0] == pytest.approx(1 if difference == 0 else 2 * stats.t.sf(abs(difference) / error, freedom))
    assert high[0, 0] - difference == pytest.approx(difference - low[0, 0])
    assert high[0, 0] - difference == pytest.approx(error * stats.t.ppf(0.95, freedom))


@pytest.mark.parametrize(
    ("seeds", "runs", "part"),
    [
        ([1], "both", "by this training (1 seed)"),
        ([2, 3], "both", "by this training (2 seeds)"),
        ([3], "fixed", "by this training (3 seeds)"),
        ([3], "both", "of 3 seeds, by the spread of the differences over the seeds"),
        ([5], "larger", "of 5 seeds, by the larger of the two experiments' spreads over the seeds"),
    ],
)
def test_scope_is_said(seeds, runs, part):
    assert part in run_effects.scope_note(seeds, runs)


def write(path, f1, ids=None):
    pd.DataFrame({"example_id": ids or [f"e{i:03}" for i in range(len(f1))], "f1": f1}).to_parquet(path, index=False)
    return path


def texts(path, users):
    n = len(users)
    pd.DataFrame(
        {
            "example_id": [f"e{i:03}" for i in range(n)], "user": np.zeros(n, np.int32), "item": np.zeros(n, np.int32),
            "user_id": users, "item_id": ["i"] * n, "split": ["test"] * n, "zero_shot": [False] * n,
        }
    ).to_parquet(path, index=False)  # fmt: skip
    return path


def three_seeds(folder, shift=0.1, noise=0.0, n=40):
    """Two systems whose difference is `shift`, of which the seeds' own parts are -noise, 0 and noise."""
    rng, files = np.random.default_rng(1), {"a": [], "b": []}
    hard = rng.normal(0, 1, n)
    for seed, own in enumerate((-noise, 0.0, noise)):
        files["a"].append(write(folder / f"a{seed}.parquet", hard + rng.normal(0, 0.01, n) + shift + own))
        files["b"].append(write(folder / f"b{seed}.parquet", hard))
    return files


@pytest.mark.parametrize(("noise", "significant"), [(0.0, True), (0.2, False)])
def test_the_larger_p_decides(tmp_path, noise, significant):
    files = three_seeds(tmp_path, noise=noise)
    one = compare_files(files["a"], files["b"], ("a", "b"), ["f1"], SETTINGS)[0]
    assert one.p_permutation <= 0.002 and one.p == max(one.p_permutation, one.p_runs)
    assert (one.p <= 0.05) == significant == (one.low > 0)
    fixed = compare_files(files["a"], files["b"], ("a", "b"), ["f1"], replace(SETTINGS, runs="fixed"))[0]
    assert (fixed.p_runs, fixed.p) == (None, fixed.p_permutation)
    two = compare_files(files["a"][:2], files["b"][:2], ("a", "b"), ["f1"], SETTINGS)[0]
    assert (two.p_runs, two.p) == (None, two.p_permutation)


def test_small_p_values_are_within_reach_of_three_seeds(tmp_path):
    files, larger = three_seeds(tmp_path, shift=1.0, noise=0.05, n=200), replace(SETTINGS, runs="larger")
    own = compare_files(files["a"], files["b"], ("a", "b"), ["f1"], SETTINGS)[0]
    found = compare_files(files["a"], files["b"], ("a", "b"), ["f1"], larger)[0]
    assert found.p_runs < 1e-4 < 5e-4 < own.p_runs
    assert found.low <= found.difference - 2.7 * 0.05 * np.sqrt(2 / 3)  # t of four degrees of freedom: 2.776
    apart = three_seeds(tmp_path, shift=0.05, noise=0.05, n=200)
    assert compare_files(apart["a"], apart["b"], ("a", "b"), ["f1"], larger)[0].p_runs > 0.2


def test_users_are_drawn_and_swapped_whole():
    users = np.array([0, 0, 1, 2, 2, 2])
    one, two = np.array([[[3.0, 5, 4, 8, 1, 2]]]), np.array([[[1.0, 2, 4, 7, 3, 1]]])
    null, exact = resampling.permutation_distribution(one, two, 99, np.random.default_rng(0), users)
    sums = np.bincount(users, (one - two)[0, 0])
    flips = 1 - 2.0 * (np.arange(8)[:, None] >> np.arange(3) & 1)
    assert exact and null[:, 0, 0] == pytest.approx(flips @ sums / 6)
    drawn = resampling.bootstrap_distribution(one, 50, np.random.default_rng(0), users)
    picks = np.random.default_rng(0).integers(0, 3, (50, 3))
    by_hand = [np.concatenate([one[0, 0, users == user] for user in pick]) for pick in picks]
    assert drawn[:, 0, 0] == pytest.approx([values.mean() for values in by_hand])
    assert drawn[:, 1, 0] == pytest.approx([values.std() for values in by_hand])
    left = resampling.jackknife(one, users)
    assert left[:, 1, 0] == pytest.approx([one[0, 0, users != user].std() for user in range(3)])
    error = resampling.standard_error(one - one.mean(), users)[0, 0]
    assert error == pytest.approx(np.sqrt((np.bincount(users, one[0, 0] - one.mean()) ** 2).sum() * 3 / 2) / 6)


def test_users_come_from_the_split(tmp_path):
    pairs = texts(tmp_path / "t.parquet", ["x", "y", "x", "x"])
    assert users_of(pairs, ["e000", "e001", "e003"]).tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"t\.parquet: example e007 is not there"):
        users_of(pairs, ["e000", "e007"])
    every = np.ones(4, bool)
    assert clusters_of(np.array([4, 7, 4, 4]), every, SETTINGS).tolist() == [0, 1, 0, 0]
    assert clusters_of(np.array([4, 7, 4, 4]), np.array([True, True, False, False]), SETTINGS) is None
    assert clusters_of(np.array([4, 4, 4, 4]), every, replace(SETTINGS, clusters="none")) is None


def test_users_alike_make_intervals_wider(tmp_path):
    taste = np.repeat(np.random.default_rng(0).normal(0, 1, 20), 5)
    file = write(tmp_path / "s.parquet", taste)
    pairs = texts(tmp_path / "t.parquet", np.repeat([f"u{i:02}" for i in range(20)], 5).tolist())
    widths = [
        (one.mean_high - one.mean_low, one.std_high - one.std_low)
        for where in (None, pairs)
        for one in estimates([file], ["f1"], SETTINGS, texts=where)
    ]
    ratios = np.divide(*widths[::-1])
    assert 1.8 < ratios[0] < 2.8 and ratios[1] > 1.8  # sqrt(5) = 2.24
    users = np.repeat(np.arange(20), 5)
    low, high = bootstrap_interval(taste, "mean", SETTINGS, users)
    assert high - low == pytest.approx(widths[1][0])


def test_spread_of_what_hardly_varies_falls_back_to_percentiles(tmp_path):
    for values, ends in ((np.full(30, 0.5), (0, 0)), (np.r_[np.zeros(15), np.ones(15)], None)):
        (one,) = estimates([write(tmp_path / "s.parquet", values)], ["f1"], SETTINGS)
        assert one.std_low <= one.std + 1e-9 and one.std_high >= one.std - 1e-9
        if ends:
            assert (one.std_low, one.std_high, one.effective_n) == (*ends, 0)


def test_effective_size_is_of_the_kurtosis():
    assert resampling.effective_size(np.array([[[-1.0, 1, -1, 1]]]))[0] == 4
    assert resampling.effective_size(np.array([[[0.0] * 99 + [1.0]]]))[0] < 1.1


# --- How often they are wrong; docs/statistics.md has the table that -s prints ---------------------------------------
def cube(rng, n, run, users=None, correlation=0.3):
    """Two systems without a true difference, three seeds: scores of sd 1, half of it how hard an example is.

    run: The effect of a run on its scores, in sd; of each system, or of both.
    """
    hard, own = rng.normal(0, np.sqrt(0.5), n), rng.normal(0, 0.5, (2, n))
    if users is not None:
        shared = rng.normal(0, 0.5, (2, users.max() + 1))[:, users]
        own = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    noise = rng.normal(0, 0.5, (2, 3, n))
    return hard + own[:, None] + noise + np.reshape(run, (-1, 1, 1)) * rng.normal(0, 1, (2, 3, 1))


def p_values(pair, clusters, rng):
    """p of means and spreads: fixed trainings, and with each test of runs."""
    one, two = pair[0][None], pair[1][None]
    null, exact = resampling.permutation_distribution(one, two, 399, rng, clusters)
    difference = resampling.observed(one) - resampling.observed(two)
    fixed = resampling.two_sided(null, difference, exact, TIES)
    seeds = np.stack([[s.mean(-1), s.std(-1)] for s in (one, two)], axis=2)
    own = run_effects.own_test(seeds[:, :, 0] - seeds[:, :, 1], TIES, 0.95)[0]
    error = resampling.standard_error(resampling.influence(one) - resampling.influence(two), clusters)
    groups = one.shape[-1] if clusters is None else clusters.max() + 1
    larger = run_effects.larger_test(seeds, error, groups, TIES, 0.95)[0]
    return np.array([fixed, np.maximum(fixed, own), np.maximum(fixed, larger)])[..., 0]


def share_of(shares):
    return "  ".join(f"{share:5.3f}" for share in shares)


@pytest.mark.slow
@pytest.mark.parametrize("n", [300, 852, 3000])
@pytest.mark.parametrize("run", [0.0, 0.02, 0.1, 0.3, (0.1, 0.0), (0.3, 0.0)])
def test_no_difference_is_found_in_seven_percent_at_most(n, run):
    rng, times = np.random.default_rng([n, int(np.sum(run) * 100)]), 500 if n < 3000 else 250
    p = np.array([p_values(cube(rng, n, run), None, rng) for _ in range(times)])
    shares = (p <= 0.05).mean(axis=0)  # (fixed, both, larger) x (mean, spread)
    told = (share_of(each) for each in shares)
    print("\nn {} run {}: fixed {}  both {}  larger {}".format(n, run, *told))
    limit = 0.07 + 1.65 * np.sqrt(0.07 * 0.93 / times)
    assert (shares[1:] <= limit).all()
    if np.min(run) >= 0.1:
        assert shares[0, 0] > 0.2  # held fixed, a run's own effect passes for the system's


@pytest.mark.slow
@pytest.mark.parametrize("run", [0.0, 0.1])
def test_users_alike_are_no_difference(run):
    rng, users = np.random.default_rng(int(run * 10)), np.repeat(np.arange(60), 10)
    pairs = [cube(rng, 600, run, users, 1.0) for _ in range(400)]
    whole, single = (np.array([p_values(pair, of, rng) for pair in pairs]) for of in (users, None))
    print(f"\nusers run {run}: whole {share_of((whole <= 0.05).mean(axis=0)[:, 0])} ", end="")
    print(f"single {share_of((single <= 0.05).mean(axis=0)[:, 0])}")
    limit = 0.07 + 1.65 * np.sqrt(0.07 * 0.93 / 400)
    assert (whole[:, 1:] <= 0.05).mean(axis=0).max() <= limit
    if not run:
        assert (whole[:, 0, 0] <= 0.05).mean() <= limit < (single[:, 0, 0] <= 0.05).mean()


SHAPES = {
    "normal": (lambda rng, n: rng.normal(0, 1, n), 0.0, 1.0),
    "beta(8, 2)": (lambda rng, n: rng.beta(8, 2, n), 0.8, stats.beta(8, 2).std()),
    "lognormal(0.25)": (lambda rng, n: rng.lognormal(0, 0.25, n), np.exp(0.25**2 / 2), stats.lognorm(0.25).std()),
    "lognormal(0.5)": (lambda rng, n: rng.lognormal(0, 0.5, n), np.exp(0.5**2 / 2), stats.lognorm(0.5).std()),
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_of_300_scores_hold_the_truth(shape):
    rng, (draw, mean, std) = np.random.default_rng(5), SHAPES[shape]
    scores = np.array([[draw(rng, 300)] for _ in range(1500)])
    drawn = resampling.bootstrap_distribution(scores, 999, np.random.default_rng(0))
    about = resampling.observed(scores), resampling.jackknife(scores), resampling.tie_width(scores)
    low, high = resampling.interval(drawn, *about, 0.95, "bca")
    ends = resampling.studentised_spread(scores, 999, np.random.default_rng(0), 0.95)
    held = [((low <= t) & (t <= high)).mean() for low, high, t in ((low[0], high[0], mean), (*ends, std))]
    bca = ((low[1] <= std) & (std <= high[1])).mean()
    print(f"\n{shape}: mean {held[0]:.3f}, std {held[1]:.3f} (bca {bca:.3f})")
    assert min(held) >= 0.92 - 1.65 * np.sqrt(0.92 * 0.08 / 1500)
