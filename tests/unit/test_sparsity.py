"""Scores by group of users: who is in which group, what is averaged, and what is said where nothing is."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from tests.unit.test_split import Stage, grid
from xrec_repro.contracts import GRAPH, TEXTS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.estimates import estimates
from xrec_repro.io import read_json, write_table
from xrec_repro.own_texts import own_id
from xrec_repro.paper import sparsity_figure
from xrec_repro.paper.sparsity import FEWEST, ZERO_SHOT, example_groups, write_sparsity
from xrec_repro.paper.sparsity_figure import figure4
from xrec_repro.statistic_settings import Settings

STATISTICS = {
    "seed": 3,
    "bootstrap_samples": 300,
    "permutations": 10,
    "interval": "bca",
    "confidence": 0.9,
    "test": "permutation",
    "correction": "holm",
    "alpha": 0.05,
    "reference": "xrec",
    "primary": None,
    "clusters": "user",
    "runs": "both",
}
SETTINGS = {"groups": 5, "metrics": ["bleurt", "bertscore_f1"], "statistics": STATISTICS}
FIGURE = {"metrics": ["bleurt"], "confidence": 0.9}
NEW = (21, 22)  # users without a train edge


class World:
    """Users 0 to 20, of whom user n has n // 3 + 1 train edges; everyone has test examples but users 0 to 3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train = {user: user // 3 + 1 for user in range(21)}
        edges = [(user, item, "train") for user, count in self.train.items() for item in range(count)]
        self.edges = [*edges, *((user, 30, "test") for user in (*self.train, *NEW))]
        owners = [user for user in (*self.train, *NEW) if user > 3 for _ in range(1 + user % 3)]
        self.tests = {f"{7 * place % 1000:06d}": user for place, user in enumerate(owners)}
        self.pairs = [(example, user, "test", user in NEW) for example, user in self.tests.items()]
        self.pairs += [("900000", 3, "train", False), ("900001", NEW[0], "val", True)]
        self.write()

    def write(self, order=iter) -> None:
        rows = [dict(zip(GRAPH.names, edge, strict=True)) for edge in order(self.edges)]
        write_table(self.folder / "graph.parquet", rows, GRAPH)
        kept = ("example_id", "user", "split", "zero_shot")
        rows = [dict(zip(kept, pair, strict=True)) for pair in order(self.pairs)]
        write_table(self.folder / "texts.parquet", rows, TEXTS)

    def row(self, experiment: str = "xrec", seed: int = 1, scores: pd.DataFrame | None = None, **over) -> dict:
        """Write scores, by default random ones, and describe them as the workflow does."""
        if scores is None:
            rng = np.random.default_rng([seed, len(experiment)])
            values = rng.normal(loc=[0, 5], size=(len(self.tests), 2))
            scores = pd.DataFrame(values, index=list(self.tests), columns=SETTINGS["metrics"])
        path = self.folder / f"{experiment}{seed}.parquet"
        schema = pa.schema([("example_id", pa.string()), *((name, pa.float64()) for name in scores)])
        write_table(path, scores.rename_axis("example_id").reset_index(), schema)
        files = {"scores": path, "graph": self.folder / "graph.parquet", "texts": self.folder / "texts.parquet"}
        names = {"dataset": "yelp", "dataset_label": "Yelp", "experiment": experiment, "seed": seed}
        return names | {"experiment_label": experiment.upper(), **files, **over}

    def group(self, rows: list[dict], **over) -> list[dict]:
        self.files = [self.folder / "groups.json", self.folder / "groups.csv"]
        write_sparsity(rows, SETTINGS | over, *self.files)
        return read_json(self.files[0])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(sparsity_figure, "save", lambda figure, *paths: figures.append(figure))
    return figures


# --- Groups of examples -----------------------------------------------------------------------------------


def test_examples_are_cut_in_equal_parts_the_most_frequent_users_first():
    users = {"e1": "often", "e2": "rare", "e3": "often", "e4": "b", "e5": "a", "e6": "often", "e7": "rare", "e8": "new"}
    groups = example_groups(users, {"often": 9, "rare": 1, "a": 4, "b": 4, "idle": 5}, groups=3)
    assert groups == {
        **dict.fromkeys(["e1", "e3", "e6"], "ds1"),
        **dict.fromkeys(["e5", "e4"], "ds2"),  # equally frequent
        **dict.fromkeys(["e2", "e7"], "ds3"),
        "e8": ZERO_SHOT,
    }
    groups = example_groups(dict.fromkeys("dbca", "one"), {"one": 2}, groups=2)
    assert groups == {"a": "ds1", "b": "ds1", "c": "ds2", "d": "ds2"}, "a user may be in two groups"


def test_fewer_examples_than_groups_are_refused():
    with pytest.raises(DataError, match="2 test examples of users in the train split cannot make 3 groups"):
        example_groups({"e1": "a", "e2": "a", "e3": "new"}, {"a": 3})


# --- Scores -----------------------------------------------------------------------------------------------


def expected_groups(world: World, groups: int) -> dict[str, str]:
    """Test example -> group, by ranking with pandas."""
    examples = pd.DataFrame({"user": world.tests}).rename_axis("example")
    examples["train"] = examples["user"].map(world.train)
    if groups == 5:
        users = pd.DataFrame({"train": world.train}).rename_axis("user").sort_values(["train", "user"])
        users["group"] = [f"tst{n}" for n, size in enumerate([5, 4, 4, 4, 4], 1) for _ in range(size)]
        return examples["user"].map(users["group"]).fillna(ZERO_SHOT).to_dict()
    known = examples.dropna().reset_index().sort_values(["train", "user", "example"], ascending=[False, True, True])
    known["group"] = [f"ds{1 + 3 * place // len(known)}" for place in range(len(known))]
    return known.set_index("example")["group"].reindex(examples.index).fillna(ZERO_SHOT).to_dict()


@pytest.mark.parametrize("groups", [5, 3])
def test_groups_have_the_numbers_of_the_statistics_of_their_examples_alone(world, groups):
    rows = [world.row(seed=seed) for seed in (2, 1, 3)]
    scores = pd.read_parquet(rows[0]["scores"]).set_index("example_id")
    scores.iloc[[5, 11], 0] = np.nan  # not scored in one of the seeds
    rows[0] = world.row(seed=2, scores=scores)
    expected = expected_groups(world, groups)
    found = world.group(rows, groups=groups)
    assert [row["group"] for row in found] == sorted(set(expected.values()), key=lambda name: (name[0] == "z", name))
    for row in found:
        members = [example for example, group in expected.items() if group == row["group"]]
        assert (row["n"], row["users"]) == (len(members), len({world.tests[example] for example in members}))
        parts = []
        for seed in (1, 2, 3):
            whole = pd.read_parquet(world.folder / f"xrec{seed}.parquet").set_index("example_id")
            world.row("part", seed, whole.loc[members])
            parts.append(world.folder / f"part{seed}.parquet")
        for one in estimates(parts, SETTINGS["metrics"], Settings.from_settings(STATISTICS)):
            mean, *bounds = row["scores"][one.metric]
            assert mean == pytest.approx(one.mean, rel=1e-12)
            shown = [one.mean_low, one.mean_high] if one.n >= FEWEST else None
            assert bounds == (pytest.approx(shown, rel=1e-12) if shown else [None, None])
            assert row["std"][one.metric] == pytest.approx(one.std, rel=1e-12)
            assert row["scored"][one.metric] == one.n
    counts = [world.train.get(world.tests[example], 0) for example in expected]
    for row in found if groups == 3 else ():
        own = [count for count, group in zip(counts, expected.values(), strict=True) if group == row["group"]]
        assert row["train"] == [min(own), max(own)]
    if groups == 5:  # of all users of a group, those without a test example included
        assert [row["train"] for row in found] == [[1, 2], [2, 3], [4, 5], [5, 6], [6, 7], [0, 0]]
    missing = [row["n"] - row["scored"]["bleurt"] for row in found]
    assert sum(missing) == 2 and all(row["n"] == row["scored"]["bertscore_f1"] for row in found)
    assert {tuple(row["seeds"]) for row in found} == {(1, 2, 3)}


def test_one_seed_has_the_mean_and_the_population_s_deviation(world):
    row = world.row()
    scores = pd.read_parquet(row["scores"]).set_index("example_id")["bleurt"]
    found = {one["group"]: one for one in world.group([row])}
    new = scores[[example for example, user in world.tests.items() if user in NEW]].to_numpy()
    mean, low, high = found[ZERO_SHOT]["scores"]["bleurt"]
    assert mean == pytest.approx(new.sum() / len(new), rel=1e-12)
    assert len(new) < FEWEST and low is high is None
    assert found[ZERO_SHOT]["std"]["bleurt"] == pytest.approx(((new - new.mean()) ** 2).mean() ** 0.5, rel=1e-12)


def test_the_table_has_the_numbers_of_the_json(world):
    found = world.group([world.row(), world.row("fixed"), world.row("fixed", 2)])
    with world.files[1].open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 2 * len(found) == 2 * 6 * 2
    for line, (row, metric) in zip(lines, ((r, m) for r in found for m in SETTINGS["metrics"]), strict=True):
        assert (line["experiment"], line["group"], line["metric"]) == (row["experiment"], row["group"], metric)
        assert [int(line[name]) for name in ("users", "n", "scored")] == [row["users"], row["n"], row["scored"][metric]]
        assert int(line["seeds"]) == len(row["seeds"])
        assert [int(line["train_min"]), int(line["train_max"])] == row["train"]
        mean_low_high = row["scores"].get(metric, ["", "", ""])
        assert [float(line[name] or "nan") for name in ("mean", "low", "high")] == pytest.approx(
            [float(value or "nan") for value in mean_low_high], rel=0, abs=0, nan_ok=True
        )
        assert (float(line["std"]) if line["std"] else None) == row["std"].get(metric)


@pytest.mark.parametrize("groups", [5, 3])
def test_the_order_of_rows_and_files_changes_no_byte(world, groups):
    rows = [world.row(seed=1), world.row(seed=2)]
    world.group(rows, groups=groups)
    before = [path.read_bytes() for path in world.files]
    world.write(order=lambda lines: sorted(lines, key=str, reverse=True))
    for seed in (1, 2):
        world.row(seed=seed, scores=pd.read_parquet(rows[seed - 1]["scores"]).set_index("example_id").iloc[::-1])
    world.group(rows[::-1], groups=groups)
    assert [path.read_bytes() for path in world.files] == before


@pytest.mark.filterwarnings("error")
def test_a_group_without_a_test_example_is_said_and_drawn(world, tmp_path):
    few = [example for example, user in world.tests.items() if user > 12 and user not in NEW][:6]
    scores = pd.DataFrame({"bleurt": np.arange(6.0)}, index=few)
    part = world.row("part", scores=scores, few=True, kind="demo")
    found = world.group([part], metrics=["bleurt"])
    sizes = {row["group"]: row["n"] for row in found}
    assert list(sizes) == ["tst1", "tst2", "tst3", "tst4", "tst5", ZERO_SHOT]
    assert sizes["tst1"] == sizes[ZERO_SHOT] == 0 and sum(sizes.values()) == 6
    empty = found[0]
    assert (empty["scores"], empty["std"], empty["scored"], empty["users"]) == ({}, {}, {"bleurt": 0}, 0)
    caption = figure4(found, tmp_path / "f.pdf", tmp_path / "f.png", FIGURE)
    assert (tmp_path / "f.pdf").stat().st_size and (tmp_path / "f.png").stat().st_size
    assert "† a part of the test set only (Yelp: PART)." in caption and "Warning: what a generated world" in caption


def test_figure4_marks_subsets_and_says_where_a_metric_is_missing(world, drawn):
    scores = pd.read_parquet(world.row()["scores"]).set_index("example_id")
    rows = [world.row(), world.row("part", few=True)]
    rows.append(world.row("other", 1, scores[["bertscore_f1"]], dataset="amazon", dataset_label="Amazon"))
    found = world.group(rows, groups=3)
    assert all("bleurt" not in row["scored"] for row in found if row["dataset"] == "amazon")
    caption = figure4(found, "f.pdf", "f.png", FIGURE)
    assert "most train interactions (ds1) to those with the fewest" in caption and "Warning" not in caption
    yelp, amazon = drawn[0].axes
    assert [text.get_text() for text in amazon.texts] == ["not scored"] and not yelp.texts
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["XREC", "PART†", "OTHER"]
    train = {row["group"]: row["train"] for row in found if row["dataset"] == "yelp"}
    expected = [f"{train[name][0]}–{train[name][1]}" for name in ("ds1", "ds2", "ds3")]
    assert [label.get_text().split("\n")[0] for label in yelp.get_xticklabels()] == [*expected, "0"]


def test_what_a_summary_knows_of_a_metric_s_range_is_kept(world):
    counts = {"bleurt_chance": 0.1, "bleurt_reference": 0.9, "empty": 3}
    summary = {"bleurt": {"mean": 1, "counts": counts}, "bertscore_f1": {"mean": 1}}
    found = world.group([world.row(summary=summary), world.row("other")])
    ranges = {row["experiment"]: row["ranges"] for row in found}
    assert ranges == {"xrec": {"bleurt": {"chance": 0.1, "reference": 0.9}}, "other": {}}


def test_figure4_says_why_where_none_of_its_metrics_could_be_scored(world, tmp_path):
    other = pd.read_parquet(world.row()["scores"]).set_index("example_id")[["bertscore_f1"]]
    found = world.group([world.row(scores=other) | {"failed": {"bleurt": "the model is gone"}}], metrics=["bleurt"])
    assert all(row["scored"] == {} for row in found)
    caption = figure4(found, tmp_path / "f.pdf", tmp_path / "f.png", FIGURE | {"metrics": ["bleurt"]})
    assert caption == "No metric of this figure has scores. bleurt: the model is gone"
    assert (tmp_path / "f.pdf").stat().st_size and (tmp_path / "f.png").stat().st_size


def test_cold_users_of_the_split_are_the_zero_shot_group(tmp_path):
    stage = Stage(tmp_path).core(grid(20, 12))
    stage.run(cold_users=0.15)
    tests = [row for row in stage.texts if row["split"] == "test"]
    cold = {row["user"] for row in stage.texts if row["zero_shot"]}
    scores = pd.DataFrame({"bleurt": [float(row["user"] in cold) for row in tests]})
    scores.index = [row["example_id"] for row in tests]
    world = World(tmp_path / "world")
    files = {"graph": tmp_path / "graph.parquet", "texts": tmp_path / "texts_out.parquet"}
    found = {r["group"]: r for r in world.group([world.row(scores=scores) | files], metrics=["bleurt"])}
    assert len(cold) == 3 and found[ZERO_SHOT]["n"] == sum(row["user"] in cold for row in tests) > 0
    assert {group: row["scores"]["bleurt"][0] for group, row in found.items() if row["n"]} == {
        group: float(group == ZERO_SHOT) for group, row in found.items() if row["n"]
    }


# --- Errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "error", "message"),
    [
        ({"groups": 4}, ConfigError, r"paper\.sparsity\.groups: 4; say 5 \(XRec\) or 3 \(GaVaMoE\)"),
        ({"metrics": ["charm"]}, ConfigError, r"paper\.sparsity\.metrics: none of charm is scored"),
        ({"statistics": STATISTICS | {"alpha": 2}}, ConfigError, r"statistics\.alpha"),
    ],
)
def test_settings_that_cannot_be_used_are_named(world, over, error, message):
    with pytest.raises(error, match=message):
        world.group([world.row()], **over)
    assert not any(path.exists() for path in world.files)


def test_texts_of_no_pair_of_the_split_belong_to_no_group(world):
    scores = pd.read_parquet(world.row()["scores"]).set_index("example_id")
    want = world.group([world.row(scores=scores)])
    own = scores.iloc[:1].rename(lambda _: own_id(7, 100))
    assert world.group([world.row(scores=pd.concat([scores, own]))]) == want
    assert world.group([world.row(scores=scores), world.row("authors", scores=own)]) == want


def test_rows_that_cannot_be_grouped_are_named(world):
    with pytest.raises(DataError, match=r"groups\.json: there are no scores to group"):
        world.group([])
    with pytest.raises(DataError, match="yelp/xrec/seed1 is given twice"):
        world.group([world.row(), world.row()])
    scores = pd.read_parquet(world.row()["scores"]).set_index("example_id")
    apart = [world.row(seed=1, scores=scores.iloc[:5]), world.row(seed=2, scores=scores.iloc[5:])]
    with pytest.raises(DataError, match=r"xrec1\.parquet shares no example with the other seeds"):
        world.group(apart)
    trained = world.row(scores=scores.rename({scores.index[0]: "900000"}))
    with pytest.raises(DataError, match=r"xrec1\.parquet: 900000 is no test example of .*texts\.parquet"):
        world.group([trained])


def test_files_of_two_splits_are_refused(world):
    world.pairs[0] = (*world.pairs[0][:3], True)
    world.write()
    with pytest.raises(DataError, match=r"texts\.parquet: user 4 has 2 train edges in .*graph\.parquet"):
        world.group([world.row()])
    assert not any(path.exists() for path in world.files)
