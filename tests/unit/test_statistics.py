"""Statistics from files of per-example scores: estimates, paired comparisons, families, the appendix."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xrec_repro.contracts import TEXTS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.estimates import bootstrap_interval, estimates
from xrec_repro.io import write_table
from xrec_repro.own_texts import own_id
from xrec_repro.paper.appendix import write_statistics
from xrec_repro.scores import describe, load_runs, users_of
from xrec_repro.seeding import numpy_rng
from xrec_repro.statistic_settings import Settings
from xrec_repro.statistics import compare_files, compare_to_reference, corrected

SECTION = {
    "seed": 0, "bootstrap_samples": 199, "permutations": 199, "interval": "bca", "confidence": 0.95,
    "test": "permutation", "correction": "holm", "alpha": 0.05, "reference": "full", "primary": None,
    "clusters": "user", "runs": "both",
}  # fmt: skip
SETTINGS = Settings.from_settings(SECTION)
NAMES = ("f1", "judge")


def write(path: Path, columns: dict, ids: list[str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(next(iter(columns.values())))
    pd.DataFrame({"example_id": ids or [f"e{i:03}" for i in range(n)], **columns}).to_parquet(path, index=False)
    return path


def scores(seed: int, shift: float = 0.0, n: int = 30) -> dict[str, np.ndarray]:
    hard = np.random.default_rng(0).gamma(2, 1, n)
    own = np.random.default_rng(seed).normal(shift, 0.5, (2, n))
    return {"f1": hard + own[0], "judge": 10 * (hard + own[1])}


def row(folder: Path, experiment: str, seed: int, columns: dict, **changes) -> dict:
    cells = {
        name: {"std": None if name == "usr" else 0.1, "signature": f"{name}|v:1"} for name in columns
    } | changes.pop("cells", {})  # fmt: skip
    base = {
        "dataset": "books", "dataset_label": "Books", "published_as": None, "experiment": experiment, "seed": seed,
        "experiment_label": experiment.title(), "kind": "measured", "few": False, "summary": cells,
        "scores": write(folder / experiment / f"{seed}.parquet", columns),
    }  # fmt: skip
    return base | changes


@pytest.fixture
def rows(tmp_path) -> list[dict]:
    """Two seeds of two experiments; USR is a score of a whole set of texts."""
    return [
        row(tmp_path, name, seed, scores(10 * i + seed, -0.4 * i) | {"usr": np.r_[0.0, np.ones(29)]})
        for i, name in enumerate(("full", "less"))
        for seed in (1, 2)
    ]


def paired(files: dict, reference: str, metrics, settings: Settings, corpus=()) -> list:
    """Compare the files of each experiment, or of its seeds, with those of the reference, as one family."""
    files = {name: own if isinstance(own, list) else [own] for name, own in files.items()}
    others = [name for name in files if name != reference]
    found = [
        compare_files(files[name], files[reference], (name, reference), metrics, settings, corpus) for name in others
    ]
    return corrected([one for ones in found for one in ones], settings)


def by_column(comparisons) -> dict:
    return {one.column: one for one in comparisons}


def test_describe_leaves_missing_scores_out_and_counts_them():
    about = describe(np.array([1.0, np.nan, 3.0, 5.0]))
    assert (about.mean, about.n, about.missing) == (3.0, 3, 1)
    assert about.std == pytest.approx(np.sqrt(8 / 3))  # population: divided by 3
    with pytest.raises(DataError, match="not one of 2 examples is scored"):
        describe(np.array([np.nan, np.nan]))


@pytest.mark.parametrize(("aspect", "statistic", "method"), [("mean", np.mean, "bca"), ("std", np.std, "percentile")])
def test_interval_is_scipys_with_the_named_seed(aspect, statistic, method):
    values = scores(1)["f1"]
    theirs = stats.bootstrap(
        (values,), statistic, n_resamples=199, method=method, rng=numpy_rng(0, "statistics", "bootstrap")
    ).confidence_interval  # fmt: skip
    settings = replace(SETTINGS, interval=method)
    ours = bootstrap_interval(np.r_[values, np.nan], aspect, settings)
    assert ours == pytest.approx(tuple(theirs), rel=1e-9)


def test_estimates_over_seeds_keep_their_spread(tmp_path):
    one, two = scores(1)["f1"], scores(2)["f1"]
    two[4] = np.nan
    files = [write(tmp_path / f"{i}.parquet", {"f1": values}) for i, values in enumerate((one, two))]
    (found,) = estimates(files, ["f1"], SETTINGS)
    both = np.array([np.delete(one, 4), np.delete(two, 4)])
    assert (found.n, found.missing) == (29, 1)
    assert found.mean == pytest.approx(both.mean())
    assert found.std == pytest.approx(both.std(axis=1).mean())  # averaging the scores first would shrink it
    assert found.seed_means == pytest.approx((one.mean(), np.nanmean(two)))
    assert found.seed_sd == pytest.approx(np.std([one.mean(), np.nanmean(two)], ddof=1))
    assert found.mean_low < found.mean < found.mean_high


def test_scores_of_a_whole_set_have_no_interval(tmp_path):
    (found,) = estimates([write(tmp_path / "a.parquet", {"usr": np.r_[0.0, np.ones(9)]})], ["usr"], SETTINGS, ["usr"])
    assert (found.mean, found.n, found.std, found.mean_low, found.seed_sd) == (0.9, 10, None, None, None)


def test_comparison_by_hand(tmp_path):
    one = write(tmp_path / "one.parquet", {"f1": [3.0, 5.0, 4.0, np.nan, 8.0, 0.0]}, list("abcdef"))
    two = write(tmp_path / "two.parquet", {"f1": [9.0, 1.0, 2.0, 4.0, 1.0, 7.0]}, list("xabcde"))
    mean, std = paired({"one": one, "two": two}, "two", ["f1"], SETTINGS)
    a, b = np.array([3.0, 5, 4, 8]), np.array([1.0, 2, 4, 7])  # examples a, b, c and e
    assert (mean.system, mean.other, mean.n, mean.dropped, mean.unmatched) == ("one", "two", 4, 1, 2)
    assert (mean.value, mean.other_value, mean.difference) == (5.0, 3.5, 1.5)
    assert mean.superiority == (3 + 0.5) / 4
    assert mean.d_z == pytest.approx(1.5 / np.std([2, 3, 0, 1], ddof=1))
    assert mean.p_permutation == 4 / 16  # the tie doubles the one flip that leaves all differences positive
    assert (std.aspect, std.column, std.direction) == ("std", "f1_std", 1)  # a spread that is smaller is better
    assert std.ratio == pytest.approx(a.std() / b.std())
    assert std.difference == pytest.approx(a.std() - b.std())
    assert (std.d_z, std.superiority, mean.ratio, mean.seed_sd) == (None, None, None, None)


def test_comparison_of_a_system_with_itself_finds_nothing(tmp_path):
    file = write(tmp_path / "a.parquet", scores(1))
    for one in paired({"a": file, "b": file}, "a", NAMES, SETTINGS):
        assert (one.difference, one.low, one.high, one.p_permutation, one.p_bootstrap, one.p_holm) == (0, 0, 0, 1, 1, 1)
        assert (one.direction, one.decision(SETTINGS)) == (0, 0)
        assert (one.d_z, one.superiority) == ((None, 0.5) if one.aspect == "mean" else (None, None))


def test_neither_order_nor_company_changes_a_comparison(tmp_path):
    one, two = scores(1), scores(2, 0.3)
    two["judge"][3] = np.nan
    files = {"a": write(tmp_path / "a.parquet", one), "b": write(tmp_path / "b.parquet", two)}
    together = by_column(paired(files, "a", NAMES, SETTINGS))
    mixed = np.random.default_rng(0).permutation(30)
    files["b"] = write(
        tmp_path / "mixed.parquet", {k: v[mixed] for k, v in two.items()}, [f"e{i:03}" for i in mixed]
    )  # fmt: skip
    alone = by_column(one for name in NAMES for one in paired(files, "a", [name], SETTINGS))
    for column, first in together.items():
        second = alone[column]
        assert first.n == second.n == (29 if "judge" in column else 30)
        for key in ("difference", "low", "high", "p_permutation", "p_bootstrap"):
            assert getattr(first, key) == pytest.approx(getattr(second, key), rel=1e-9)


def test_several_seeds_are_swapped_and_drawn_together(tmp_path):
    arrays = [[scores(10 * system + seed, 0.2 * system, n=7)["f1"] for seed in (1, 2)] for system in (0, 1)]
    files = [
        [write(tmp_path / f"{i}{j}.parquet", {"f1": values}) for j, values in enumerate(seeds)]
        for i, seeds in enumerate(arrays)
    ]
    settings = Settings.from_settings(SECTION | {"interval": "percentile"})
    mean, std = paired({"b": files[1], "a": files[0]}, "a", ["f1"], settings)
    a, b = map(np.array, arrays)
    assert mean.seeds == 2
    assert mean.seed_sd == pytest.approx(np.std(b.mean(axis=1) - a.mean(axis=1), ddof=1))
    assert std.difference == pytest.approx((b.std(axis=1) - a.std(axis=1)).mean())
    theirs = stats.permutation_test(
        ((b - a).mean(axis=0),), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True
    )
    assert mean.p_permutation == pytest.approx(theirs.pvalue)  # exact: 128 swaps
    boot = stats.bootstrap(
        (a, b), lambda x, y, axis: (y.std(axis) - x.std(axis)).mean(axis=0), paired=True, vectorized=True, axis=-1,
        n_resamples=199, method="percentile", rng=numpy_rng(0, "statistics", "bootstrap"),
    )  # fmt: skip
    assert (std.low, std.high) == pytest.approx(tuple(boot.confidence_interval), rel=1e-6)
    below = (boot.bootstrap_distribution <= 0).sum(), (boot.bootstrap_distribution >= 0).sum()
    assert std.p_bootstrap == pytest.approx(min(1, 2 * (min(below) + 1) / 200))


def test_scores_of_a_whole_set_are_not_tested(tmp_path):
    files = {
        "a": write(tmp_path / "a.parquet", {"usr": np.ones(10)}),
        "b": write(tmp_path / "b.parquet", {"usr": np.r_[np.zeros(2), np.ones(6), 0.0, 1.0]}),
        "c": write(tmp_path / "c.parquet", {"usr": np.ones(3)}),  # of fewer texts: not compared
    }
    (one,) = paired(files, "a", ["usr"], SETTINGS, corpus=["usr"])
    assert (one.system, one.value, one.other_value, one.n) == ("b", 0.7, 1.0, 10)
    assert (one.p, one.p_holm, one.low, one.direction, one.decision(SETTINGS)) == (None, None, None, -1, 0)


@pytest.mark.parametrize(
    ("change", "decided"),
    [({}, 0), ({"correction": "none"}, 1), ({"correction": "none", "alpha": 0.03}, 0), ({"alpha": 0.17}, 1)],
)
def test_the_corrected_p_decides(tmp_path, change, decided):
    settings = Settings.from_settings(SECTION | change)
    file = write(tmp_path / "a.parquet", scores(1))
    found = paired({"a": file, "b": file}, "a", ["f1"], settings)[0]
    family = corrected([replace(found, p=p, difference=1.0) for p in (0.04, 0.9, 0.8, 0.7)], settings)
    assert family[0].p_holm == pytest.approx(0.16)
    assert family[0].decision(settings) == decided


def test_bootstrap_may_decide_instead(tmp_path):
    files = {name: write(tmp_path / f"{name}.parquet", scores(i, i / 9)) for i, name in enumerate("ab")}
    for test in ("permutation", "bootstrap"):
        for one in paired(files, "a", NAMES, Settings.from_settings(SECTION | {"test": test})):
            assert one.p == getattr(one, f"p_{test}")


def test_table_of_comparisons_is_one_family(rows, tmp_path):
    other = [
        row(tmp_path / "o", name, 1, scores(7 + i), dataset="other", dataset_label="Other")
        for i, name in enumerate(("full", "third"))
    ]
    found = compare_to_reference(rows + other, "full", SETTINGS)
    assert list(found) == [
        ("books", "less", column) for column in ("f1", "f1_std", "judge", "judge_std", "usr")
    ] + [("other", "third", column) for column in ("f1", "f1_std", "judge", "judge_std")]  # fmt: skip
    p = sorted(one.p for one in found.values() if one.p is not None)
    assert len(p) == 8
    assert min(one.p_holm for one in found.values() if one.p_holm is not None) == pytest.approx(min(1, 8 * p[0]))
    assert found["books", "less", "f1"].difference < 0
    assert compare_to_reference(rows, "absent", SETTINGS) == {}
    assert len(compare_to_reference(rows, "full", SETTINGS, ["f1"])) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"books/less/seed1 is given twice"),
        ({"seed": 3}, r"books: less and full have the seeds \(1, 3\) and \(1, 2\)"),
        ({"summary": {"f1": {"signature": "f1"}}}, r"books/less/seed2: its summary lacks std or signature"),
        ({"summary": {"f1": {"signature": "f1|v:2", "std": 1}}}, r"books/less/seed2: f1 was not scored as in seed 1"),
    ],
)
def test_rows_that_do_not_fit_together_are_named(rows, change, message):
    rows[3] |= change
    with pytest.raises(DataError, match=message):
        compare_to_reference(rows, "full", SETTINGS)


def test_two_signatures_are_not_compared(rows):
    for one in rows[2:]:
        one["summary"] = one["summary"] | {"f1": {"std": 0.1, "signature": "f1|v:2"}}
    with pytest.raises(DataError, match=r"books: less and full: f1 would mix 'f1\|v:2' and 'f1\|v:1'"):
        compare_to_reference(rows, "full", SETTINGS)


@pytest.mark.parametrize(
    ("columns", "ids", "message"),
    [
        ({"judge": [1.0, 2.0]}, ["a", "b"], r"b\.parquet: column 'f1' is missing"),
        ({"f1": [1.0, 2.0]}, ["a", "a"], r"b\.parquet: example a occurs twice"),
        ({"f1": [1.0, np.inf]}, ["a", "b"], r"b\.parquet: f1 of example b is infinite"),
        ({"f1": [1.0, 2.0]}, ["c", "d"], r"have no example in common"),
        ({"f1": [np.nan, 2.0]}, ["a", "z"], r"no example is scored for all systems and seeds"),
    ],
)
def test_unusable_files_are_named(tmp_path, columns, ids, message):
    files = {
        "a": write(tmp_path / "a.parquet", {"f1": [1.0, 2.0]}, ["a", "b"]),
        "b": write(tmp_path / "b.parquet", columns, ids),
    }
    with pytest.raises(DataError, match=message):
        paired(files, "a", ["f1"], SETTINGS)


def test_files_that_are_not_there_or_not_whole(tmp_path):
    file = write(tmp_path / "a.parquet", {"f1": [1.0, 2.0]})
    (tmp_path / "broken.parquet").write_text("x")
    for files, message in (
        ({"a": file, "b": tmp_path / "none.parquet"}, r"none\.parquet: no such file"),
        ({"a": file, "b": tmp_path / "broken.parquet"}, r"broken\.parquet: not a whole Parquet file"),
    ):
        with pytest.raises(DataError, match=message):
            paired(files, "a", ["f1"], SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpa": 1}, r"statistics\.alpa: unknown key"),
        ({"interval": "normal"}, r"statistics\.interval: 'normal' is not one of bca, percentile"),
        ({"test": "t"}, r"statistics\.test: 't' is not one of"),
        ({"correction": "fdr"}, r"statistics\.correction: 'fdr' is not one of"),
        ({"permutations": 0}, r"statistics\.permutations: 0 is too few"),
        ({"confidence": 95}, r"statistics\.confidence: 95 is not between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Settings.from_settings(SECTION | change)


def test_missing_settings_are_refused():
    with pytest.raises(ConfigError, match=r"statistics\.seed: missing"):
        Settings.from_settings({key: value for key, value in SECTION.items() if key != "seed"})


def test_appendix_has_every_number(rows, tmp_path):
    out = tmp_path / "statistics.json", tmp_path / "statistics.md"
    rows = [one | {"kind": "demo", "few": one["experiment"] == "less"} for one in rows]
    write_statistics(rows, SECTION, *out)
    record = json.loads(out[0].read_text(), parse_constant=lambda text: pytest.fail(text))
    assert record["settings"] == SECTION
    assert [(one["experiment"], one["metric"]) for one in record["estimates"]] == [
        (name, metric) for name in ("full", "less") for metric in (*NAMES, "usr")
    ]
    first = record["estimates"][0]
    frames = [pd.read_parquet(rows[i]["scores"])["f1"] for i in (0, 1)]
    assert first["seed_means"] == pytest.approx([frame.mean() for frame in frames])
    assert first["std"] == pytest.approx(np.mean([frame.std(ddof=0) for frame in frames]))
    assert (first["seeds"], first["signature"], first["kind"]) == ([1, 2], "f1|v:1", "demo")
    assert [one["metric"] for one in record["comparisons"]] == ["f1", "f1", "judge", "judge", "usr"]
    text = out[1].read_text()
    assert f"| Full | f1 | {first['mean']:.4f} | {first['mean_low']:.4f} to {first['mean_high']:.4f} |" in text
    assert "Holm: corrected for all 4 tests" in text
    assert "Warning: what a generated world (demo)" in text and "| Less† | f1\\_std |" in text
    assert "averages over the seeds" in text and "`judge|v:1`" in text
    before = [path.read_bytes() for path in out]
    write_statistics(rows, SECTION, *out)
    assert [path.read_bytes() for path in out] == before


def test_only_primary_metrics_are_one_family_and_decide(rows, tmp_path):
    for experiment, level in (("full", 0), ("x", 9)):
        for seed in (1, 2):
            rows.append(row(tmp_path / "o", experiment, seed, scores(7 + level, level), dataset="other"))
    every = replace(SETTINGS, alpha=0.1)
    settings = replace(every, primary=["f1"])
    found, before = (compare_to_reference(rows, "full", one) for one in (settings, every))
    for place, one in found.items():
        assert one.p == before[place].p
        assert (one.p_holm is None) == (one.metric != "f1")
    family = [one for one in found.values() if one.metric == "f1"]
    assert min(one.p_holm for one in family) == pytest.approx(4 * min(one.p for one in family))
    place = ("other", "x", "judge")
    assert found[place].p <= settings.alpha and before[place].decision(every) == 1
    assert found[place].decision(settings) == found[place].decision(replace(settings, correction="none")) == 0


@pytest.mark.parametrize(("primary", "family"), [(["f1"], 2), ([], 0), (["charm"], 0)])
def test_appendix_marks_what_is_exploratory(rows, tmp_path, primary, family):
    out = tmp_path / "statistics.json", tmp_path / "statistics.md"
    write_statistics(rows, SECTION | {"primary": primary}, *out)
    compared = json.loads(out[0].read_text())["comparisons"]
    assert [one["metric"] for one in compared if not one["exploratory"]] == ["f1"] * family
    assert all(one["p"] is not None and one["p_holm"] is None for one in compared if one["metric"] == "judge")
    text = out[1].read_text()
    confirmed, explored = text.split("Differences from full, exploratory.")
    assert f"corrected for all {family} tests of primary metrics ({', '.join(primary) or 'none'})" in text
    assert explored.count("| exploratory |") == 5 - family and "| exploratory |" not in confirmed
    assert "not corrected for the number" in explored
    assert ("Differences from full." in confirmed) == bool(family)


def test_appendix_says_when_no_corrected_p_could_reach_alpha(rows, tmp_path):
    out = tmp_path / "statistics.json", tmp_path / "statistics.md"
    write_statistics(rows, SECTION | {"permutations": 99}, *out)
    assert "99 draws are too few to reach alpha after this correction; raise statistics.permutations" in (
        out[1].read_text()
    )
    write_statistics(rows, SECTION | {"permutations": 999}, *out)
    assert "too few" not in out[1].read_text()


def test_appendix_needs_rows_but_no_reference(rows, tmp_path):
    out = tmp_path / "statistics.json", tmp_path / "statistics.md"
    with pytest.raises(DataError, match=r"statistics\.json: there is nothing to describe"):
        write_statistics([], SECTION, *out)
    write_statistics(rows[:2], SECTION, *out)
    assert json.loads(out[0].read_text())["comparisons"] == []
    assert "nothing is compared" in out[1].read_text()


def test_runs_gather_seeds_in_order(rows):
    runs = load_runs(rows[::-1])
    assert [(run.experiment, run.seeds) for run in runs] == [("less", (1, 2)), ("full", (1, 2))]
    assert runs[0].corpus == {"usr"}
    assert runs[0].files == (rows[2]["scores"], rows[3]["scores"])


def test_a_text_of_no_pair_of_the_split_is_of_a_user_of_its_own(tmp_path):
    users = {"a": "u1", "b": "u2", "c": "u1"}
    rows = [{"example_id": example, "user_id": user} for example, user in users.items()]
    write_table(tmp_path / "texts.parquet", rows, TEXTS)
    found = users_of(tmp_path / "texts.parquet", ["c", own_id(0, 10), "a", own_id(1, 10), "b"])
    assert len(set(found)) == 4
    assert found[0] == found[2]
    with pytest.raises(DataError, match="example z is not there"):
        users_of(tmp_path / "texts.parquet", ["a", "z"])
