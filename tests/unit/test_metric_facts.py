"""What metrics state of themselves, metrics from outside the package, and what is left out where nothing is there."""

import copy
import json
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.unit.test_foundations import Workflow
from tests.unit.test_score import explanations
from xrec_repro.comparable import unequal_size
from xrec_repro.config import complete, load_config, merge
from xrec_repro.config_rules import check_config
from xrec_repro.contracts import EXAMPLES, EXPLANATIONS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import read_json, write_table
from xrec_repro.job import Job
from xrec_repro.metrics import METRICS, columns
from xrec_repro.metrics.base import Features, Ratings, has_scores
from xrec_repro.metrics.columns import Column, read_stated
from xrec_repro.metrics.registry import build_metric, metric_class, metric_file, metric_names, stated
from xrec_repro.metrics.score import merge_scores, score_explanations
from xrec_repro.paper.claims import _rule_text
from xrec_repro.paper.style import metric_label
from xrec_repro.plan import Plan
from xrec_repro.scores import reason_of, with_summaries
from xrec_repro.statistics import direction

MODULE = """
    from dataclasses import dataclass
    from typing import ClassVar, Literal

    import numpy as np

    from xrec_repro.metrics.base import Metric
    from xrec_repro.metrics.columns import Column

    LIBRARIES = ("numpy",)

    @dataclass(frozen=True, kw_only=True)
    class Words(Metric):
        name: ClassVar[str] = "words"
        columns: ClassVar[dict[str, Column]] = {columns}

        least: int
        side: Literal["a", "b"] = "a"

        def _columns(self, predictions, references):
            return {{"words": np.array([max(self.least, len(text.split())) for text in predictions])}}, {{}}

    METRIC = Words
"""
GOOD = '{"words": Column("Words", decimals=1, smaller_is_better=True)}'
MINE = {"module": "own_words", "least": 2}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module outside the package and return its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(stated=GOOD, name="own_words"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE.format(columns=stated)))
        return name

    sys.modules.pop("own_words", None)
    read_stated.cache_clear()
    yield write
    sys.modules.pop("own_words", None)


@pytest.fixture
def configured(root):
    """Return a function that checks the configuration with sections of `metrics` laid over it, and returns it."""
    base = load_config(root / "config/config.yaml")

    def check(metrics, **more):
        config = complete(merge(base, {"metrics": copy.deepcopy(metrics), **more}))
        check_config(config)
        return config

    return check


@pytest.fixture
def declared():
    """Let a test declare columns, and forget them."""
    yield columns.declare
    columns.declare({})


# --- What is stated ---------------------------------------------------------------------------------------------------


def test_what_metrics_state_is_known_without_importing_them(root):
    code = (
        "import sys; from xrec_repro.metrics.registry import metric_names, stated\n"
        "facts = {name: stated(name, {}) for name in metric_names()}\n"
        "print(len(facts), {'numpy', 'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == f"{len(metric_names())} set()"


@pytest.mark.parametrize("name", metric_names())
def test_a_class_has_what_its_source_states(name):
    kind, told = metric_class(name), stated(name, {})
    assert (kind.needs, kind.columns, kind.files) == (told.needs, told.columns, told.files)
    assert all(column == name or column.startswith(f"{name}_") for column in told.columns)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("{}", r"own_words\.py: Words states no columns; write columns = "),
        ("dict(words=1)", r"Words\.columns: not of literals"),
        ('{"words": len("Words")}', r"Words\.columns: not of literals"),
        ('{"words": Column("Words", digits=1)}', r"own_words cannot be imported \(TypeError: .*'digits'\)"),
    ],
)
def test_what_is_not_stated_as_literals_is_refused(module, configured, stated, message):
    module(stated)
    with pytest.raises(ConfigError, match=message):
        configured({"words": MINE})


def test_unknown_needs_are_refused(tmp_path):
    (tmp_path / "m.py").write_text("class M:\n    needs = ('stars',)\n    columns = {'m': Column('M')}\nMETRIC = M\n")
    with pytest.raises(ConfigError, match=r"M\.needs: 'stars' is not one of reference, truth, rating, feature"):
        read_stated(tmp_path / "m.py")
    (tmp_path / "n.py").write_text("METRIC = 3\n")
    with pytest.raises(ConfigError, match=r"n\.py: no METRIC that names a class"):
        read_stated(tmp_path / "n.py")


def test_a_class_that_changes_what_its_source_states_is_refused(module, tmp_path):
    name = module()
    with (tmp_path / f"{name}.py").open("a") as stream:
        stream.write('Words.needs = ("truth",)\n')
    with pytest.raises(ConfigError, match=r"metrics\.words: needs, columns and files of Words are read from"):
        build_metric("words", MINE)


def test_columns_that_were_not_stated_are_refused(module):
    module('{"other": Column("Other")}')
    with pytest.raises(DataError, match="words: gives words, but states other"):
        build_metric("words", MINE).score(["a"], ["b"])


# --- Metrics from outside ---------------------------------------------------------------------------------------------


def test_a_metric_from_outside_is_built_and_scores(module, configured):
    module()
    section = configured({"use": ["usr", "mine"], "mine": MINE})["metrics"]["mine"]
    metric = build_metric("mine", section)
    assert metric.signature == "words|least:2|side:a"
    assert metric.score(["a b c", "a"], ["", ""]).columns["words"].tolist() == [3.0, 2.0]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"bleut": {"model": "x"}}, r"metrics\.bleut: unknown key \(did you mean 'bleurt'\?\)"),
        ({"bleurt": {"modell": "x"}}, r"metrics\.bleurt\.modell: unknown key \(did you mean 'model'\?\)"),
        ({"use": ["bleut"]}, r"metrics\.use: 'bleut' has no section \(did you mean 'bleurt'\?\)"),
        ({"words": MINE | {"leest": 3}}, r"metrics\.words\.leest: unknown key"),
        ({"words": {"module": "own_words"}}, r"metrics\.words\.least: missing"),
        ({"words": MINE | {"least": "two"}}, r"metrics\.words\.least: 'two' is not of type 'integer'"),
        ({"words": MINE | {"side": "c"}}, r"metrics\.words\.side: 'c' is not one of a, b"),
        ({"words": MINE | {"device": "cpu"}}, r"device: unknown key"),
        ({"words": {"module": "no_such.module"}}, r"metrics\.words\.module: no_such\.module cannot be imported"),
        ({"words": {"module": "json"}}, r"metrics\.words\.module: json has no METRIC"),
        ({"words": {"module": "a b"}}, r"metrics\.words\.module: 'a b' does not match"),
    ],
)
def test_what_is_wrong_with_an_entry_is_named(module, configured, metrics, message):
    module()
    with pytest.raises(ConfigError, match=message):
        configured(metrics)


def test_a_column_of_two_metrics_is_refused(module, configured):
    module('{"usr": Column("USR")}')
    with pytest.raises(ConfigError, match=r"metrics\.words: its column 'usr' is one of usr too"):
        configured({"use": ["words"], "words": MINE})


def test_groups_of_a_score_of_all_texts_are_refused(configured):
    paper = {"paper": {"sparsity": {"metrics": ["fcr"]}}}
    with pytest.raises(ConfigError, match=r"paper\.sparsity\.metrics: fcr is a score of all texts together"):
        configured({}, **paper)


def test_an_installed_package_adds_a_metric(module, configured, tmp_path):
    name = module()
    about = tmp_path / "own-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[xrec_repro.metrics]\nwords = {name}\n")
    configured({"use": ["words"], "words": {"least": 1}})
    assert "words" in METRICS.kinds() and "words" not in metric_names()
    assert metric_class("words").__name__ == "Words"
    with pytest.raises(ConfigError, match=r"metrics\.words\.leest: unknown key"):
        configured({"words": {"leest": 1}})


def test_a_metric_from_outside_is_planned_by_its_own_file(module, configured, root, tmp_path):
    module()
    plan = Plan(configured({"use": ["words"], "words": MINE}), root)
    assert metric_file("words", MINE) == str(tmp_path / "own_words.py")
    assert set(plan.metric_libraries("words")) == {"numpy"}
    assert plan.metric_columns()["words"]["words"] == asdict(Column("Words", "", 1, True))
    wildcards = SimpleNamespace(dataset="glassbox", experiment="xrec", seed="1")
    assert (plan.runs_model("words"), plan.metric_places(wildcards, "words")) == (False, {})
    before, usr = (plan.metric_code("score_explanations", name) for name in ("words", "usr"))
    (tmp_path / "own_words.py").write_text((tmp_path / "own_words.py").read_text() + "X = 1\n")
    code = (
        "import sys, json; from pathlib import Path; from xrec_repro.plan import Plan\n"
        "plan = Plan(json.load(sys.stdin), Path(sys.argv[1]))\n"
        "print(*(plan.metric_code('score_explanations', name) for name in ('words', 'usr')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        input=json.dumps(configured({"use": ["words"], "words": MINE})),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{root / 'src'}"},
    )
    after, same = done.stdout.split()
    assert after != before and same == usr


# --- What they need ---------------------------------------------------------------------------------------------------


def test_the_plan_leaves_out_what_an_experiment_cannot_have(configured, root, monkeypatch):
    config = configured({"use": ["usr", "faithfulness", "rmse", "fmr"]})
    plan = Plan(config, root)
    assert plan.metrics("glassbox", "xrec") == ["usr", "faithfulness", "fmr"]
    monkeypatch.setattr("xrec_repro.methods.xrec.METHOD.predicts", frozenset({"ratings"}))
    assert plan.metrics("glassbox", "xrec") == ["usr", "faithfulness", "rmse", "fmr"]
    monkeypatch.setattr(plan, "source", lambda dataset: "amazon")
    assert plan.metrics("glassbox", "xrec") == ["usr", "rmse", "fmr"]
    wildcards = _Wildcards(dataset="glassbox", experiment="xrec", seed="1")
    assert set(plan.metric_inputs(wildcards, "rmse")) == {"explanations", "examples"}
    assert set(plan.metric_inputs(wildcards, "faithfulness")) == {"explanations", "truth"}
    assert set(plan.metric_inputs(wildcards, "usr")) == {"explanations"}
    assert plan.by_texts(wildcards) == ["usr", "rmse", "fmr"]
    assert set(plan.shared_inputs(wildcards, plan.by_texts(wildcards))) == {"explanations", "examples"}


def test_metrics_share_a_job_unless_they_are_asked_for_long(configured, root):
    wildcards = _Wildcards(dataset="glassbox", experiment="xrec")
    use = ["llamascore", "gptscore", "bertscore", "usr", "bleurt"]
    config = configured({"use": use}) | {"run": {**configured({})["run"], "seeds": [1, 2]}}
    plan = Plan(config, root)
    assert plan.by_models() == ["llamascore", "bertscore", "bleurt"]
    assert [name for name in use if plan.is_apart(name)] == ["gptscore"]
    assert plan.by_texts(wildcards) == ["usr"]
    own = "glassbox/xrec/seed{}/metrics/{}/scores.parquet"
    made = [own.format(seed, name) for name in use if name != "usr" for seed in (1, 2)]
    assert [path.removeprefix("results/demo/") for path in plan.scores(wildcards)["scores"]] == made
    read = plan.shared_inputs(wildcards, plan.by_models())
    assert set(read) == {"explanations", "llamascore.model", "bleurt.model"} and len(read["explanations"]) == 2
    assert Plan(config | {"scatter": {"generation": 1, "judging": 2}}, root).by_models() == ["bertscore", "bleurt"]
    large = {"llamascore": config["metrics"]["llamascore"] | {"model": "a/b", "revision": "a" * 40}}
    assert Plan(config | {"metrics": config["metrics"] | large}, root).by_models() == ["bertscore", "bleurt"]


def test_an_experiment_that_nothing_can_score_is_refused(configured, root):
    with pytest.raises(ConfigError, match=r"metrics\.use: none of mae can score glassbox/xrec"):
        Plan(configured({"use": ["mae"]}), root)


class _Wildcards(SimpleNamespace):
    def keys(self):
        return vars(self)

    def __getitem__(self, name):
        return vars(self)[name]


# --- Ratings and features ---------------------------------------------------------------------------------------------


def known(folder: Path, **columns_: list) -> Path:
    """Write examples e0, e1, … with these columns."""
    rows = [
        dict.fromkeys(EXAMPLES.names) | {"example_id": f"e{i}"} | {name: each[i] for name, each in columns_.items()}
        for i in range(len(next(iter(columns_.values()))))
    ]
    write_table(folder / "examples.parquet", rows, EXAMPLES)
    return folder / "examples.parquet"


def score(folder: Path, name: str, predicted: Path, examples: Path) -> dict:
    outputs = folder / f"{name}.parquet", folder / f"{name}.json"
    score_explanations(predicted, name, {}, *outputs, examples_parquet=examples)
    return read_json(outputs[1])


def rated(folder: Path, ratings: list[float | None]) -> Path:
    rows = pq.read_table(explanations(folder / "e.parquet", ["x"] * len(ratings))).to_pylist()
    write_table(folder / "e.parquet", [row | {"rating": r} for row, r in zip(rows, ratings, strict=True)], EXPLANATIONS)
    return folder / "e.parquet"


def test_ratings_are_joined_by_example_and_clamped_to_those_of_all_splits(tmp_path):
    examples = known(tmp_path, rating=[4.0, 2.0, None, 5.0, 1.0, 3.0])  # e4, e5: of other splits
    predicted = rated(tmp_path, [9.0, 2.5, 3.0, None])
    mae, rmse = (score(tmp_path, name, predicted, examples)[name] for name in ("mae", "rmse"))
    assert (mae["mean"], mae["n"], mae["missing"]) == (0.75, 2, 2)  # |5 - 4|, |2.5 - 2|
    assert mae["signature"] == "mae|clamped:yes|v:1|range:1-5"
    assert rmse["mean"] == pytest.approx((1.25 / 2) ** 0.5) and rmse["std"] is None
    assert mae["counts"] == {"clamped": 1}


def test_ratings_that_are_all_right_have_no_error():
    scores = build_metric("rmse", {}).score(["x", "y"], ["", ""], ratings=Ratings([4, 3], [4, 3], 1, 5))
    assert scores.columns["rmse"].tolist() == [0.0, 0.0]


def test_features_are_whole_words_of_all_splits(tmp_path):
    examples = known(tmp_path, feature=["pool", "bar", None, "wifi", "bar"])
    predicted = explanations(tmp_path / "e.parquet", ["The pool, bar's pool!", "barn (wifi)", "Bar; it's fine"])
    found = {name: score(tmp_path, name, predicted, examples)[name] for name in ("fmr", "fcr", "div")}
    assert (found["fmr"]["mean"], found["fmr"]["n"], found["fmr"]["missing"]) == (0.5, 2, 1)
    assert found["fcr"]["mean"] == pytest.approx(1.0)
    assert found["div"]["mean"] == 0.0
    assert found["fcr"]["signature"] == "fcr|tokens:words|v:1|features:3"


def test_div_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(9)]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(40)]
    scores = build_metric("div", {}).score(texts, texts, features=Features([None] * 40, frozenset(words[:6])))
    sets = [set(text.split()) & set(words[:6]) for text in texts]
    pairs = [len(sets[i] & sets[j]) for i in range(40) for j in range(i)]
    assert scores.columns["div"].mean() == pytest.approx(np.mean(pairs))
    with pytest.raises(DataError, match="div: one text has no other to compare it with"):
        build_metric("div", {}).score(["a"], ["a"], features=Features([None], frozenset("a")))


@pytest.mark.parametrize(
    ("name", "ratings", "facts", "reason"),
    [
        ("mae", [None, None], {"rating": [1.0, 2.0]}, "the method predicted no rating of any of 2 examples"),
        ("rmse", [3.0, 4.0], {"rating": [None, None]}, "the data have no rating of any of 2 examples"),
        ("fmr", [None, None], {"feature": [None, None]}, "the data have no feature of any of 2 examples"),
    ],
)
def test_what_is_not_there_at_all_leaves_a_reason_and_no_failure(tmp_path, name, ratings, facts, reason):
    predicted, examples = rated(tmp_path, ratings), known(tmp_path, **facts)
    summary = score(tmp_path, name, predicted, examples)
    assert summary == {name: {"absent": reason}} and not has_scores(summary[name])
    usr = score(tmp_path, "usr", predicted, examples)
    outputs = tmp_path / "scores.parquet", tmp_path / "summary.json"
    merge_scores([(tmp_path / f"{one}.parquet", tmp_path / f"{one}.json") for one in ("usr", name)], *outputs)
    assert read_json(outputs[1]) == usr | summary
    assert pq.read_schema(outputs[0]).names == ["example_id", "usr"]
    row = {"dataset": "d", "experiment": "e", "seed": 1, "summary": outputs[1]}
    assert with_summaries([row])[0] | {"summary": None} == row | {"failed": {}, "summary": None}
    assert set(with_summaries([row])[0]["summary"]) == {"usr"}


def test_ratings_that_nobody_gave_are_asked_for():
    with pytest.raises(DataError, match=r"mae: needs predicted and true ratings, .*leave this metric out"):
        build_metric("mae", {}).score(["a"], ["b"])
    with pytest.raises(DataError, match="mae: 1 predictions but 2 true ratings"):
        build_metric("mae", {}).score(["a"], ["b"], ratings=Ratings([1], [1, 2], 1, 5))


# --- Who prints them asks ---------------------------------------------------------------------------------------------


def test_smaller_is_better_where_the_column_says_so():
    assert (direction(0.1, "mean", "usr"), direction(0.1, "mean", "mae"), direction(0.1, "std", "mae")) == (1, -1, -1)
    assert (metric_label("mae"), metric_label("bertscore_f1"), metric_label("mystery")) == (
        "MAE ↓",
        "BERTScore F1",
        "mystery",
    )
    rule = {"kind": "better", "hold": "all", "system": "A", "against": ["B"], "aspects": ["mean"]}
    for metrics, word in ((["mae"], "lower"), (["usr"], "higher"), (["usr", "mae"], "better")):
        assert f"A has a {word} mean than" in _rule_text(rule | {"metrics": metrics})


def test_scores_of_a_whole_corpus_compare_at_one_size():
    assert unequal_size("fcr", 3, 4) and not unequal_size("fcr", 3, 3) and not unequal_size("fmr", 3, 4)


def test_a_job_that_prints_scores_knows_the_columns_that_its_rule_names(tmp_path, declared):
    declared({})
    job = Workflow(tmp_path, "cpu")
    job.params["metric_columns"] = {"mine": {"words": asdict(Column("Words of it"))}}
    with Job(job):
        assert metric_label("words") == "Words of it"


def test_declared_columns_take_the_place_of_those_of_the_package(declared):
    assert reason_of("bertscore_f1", {"bertscore": "why"}) == "why"
    declared({"mine": {"words": asdict(Column("Words", smaller_is_better=True))}})
    assert (metric_label("words"), metric_label("usr")) == ("Words ↓", "usr")
    assert reason_of("words", {"mine": "why"}) == "why" and reason_of("usr", {"mine": "why"}) is None
