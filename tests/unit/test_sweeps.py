"""Sweeps and deviations: the experiments that a sweep stands for, its figure, and the table of the switches."""

import copy
import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from tests.conftest import load_script
from tests.unit.test_figures import assert_readable
from xrec_repro.config import expand_sweeps, load_config, merge, recommender, settings, sweep_members
from xrec_repro.config_rules import check_config
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.estimates import bootstrap_interval
from xrec_repro.io import write_json, write_table
from xrec_repro.paper import curves
from xrec_repro.paper.curves import figure_sweeps
from xrec_repro.statistic_settings import Settings

EXPERTS = {"base": "glassbox/xrec", "key": "adapter.experts", "values": [1, 8, 16]}
STATISTICS = {
    "seed": 3,
    "bootstrap_samples": 300,
    "permutations": 999,
    "interval": "percentile",
    "confidence": 0.9,
    "test": "permutation",
    "correction": "holm",
    "alpha": 0.05,
    "reference": "xrec",
    "primary": None,
    "clusters": "user",
    "runs": "both",
}
METRICS = ["faithfulness_f1", "bertscore_f1", "validation_loss"]


@pytest.fixture
def config(root):
    return load_config(root / "config/config.yaml")


def swept(config: dict, **sweeps_of: dict) -> dict:
    return merge(config, {"sweeps": sweeps_of})


# --- Expansion --------------------------------------------------------------------------------------------------------


def test_a_sweep_stands_for_its_base_with_one_setting_changed(config):
    config = swept(config, experts=EXPERTS)
    check_config(config)
    before = copy.deepcopy(config)
    expanded = expand_sweeps(config)
    assert config == before, "the configuration given is left alone"
    new = {name: entry for name, entry in expanded["experiments"].items() if name not in config["experiments"]}
    assert new == {
        f"xrec-experts-{n}": {
            "label": f"XRec, experts {n}",
            "method": "xrec",
            "published_model": None,
            "overrides": {"adapter": {"experts": n}},
        }
        for n in (1, 16)
    }
    pairs = [*config["run"]["experiments"], "glassbox/xrec-experts-1", "glassbox/xrec-experts-16"]
    assert expanded["run"]["experiments"] == pairs
    base = settings(config, "glassbox", "xrec")
    assert settings(expanded, "glassbox", "xrec-experts-16") == merge(base, {"adapter": {"experts": 16}})


def test_members_are_the_same_before_and_after_expansion(config):
    config = swept(config, experts=EXPERTS)
    members = [(1, "xrec-experts-1"), (8, "xrec"), (16, "xrec-experts-16")]
    assert sweep_members(config, "experts") == members
    assert sweep_members(expand_sweeps(config), "experts") == members


def test_without_sweeps_nothing_changes(config):
    assert config["sweeps"] == {}
    assert expand_sweeps(config) == config


def test_a_base_that_the_run_lacks_joins_it(config):
    config["run"]["experiments"] = ["glassbox/no_profile"]
    expanded = expand_sweeps(swept(config, experts=EXPERTS | {"values": [8, 2]}))
    pairs = ["glassbox/no_profile", "glassbox/xrec", "glassbox/xrec-experts-2"]
    assert expanded["run"]["experiments"] == pairs


def test_the_swept_value_wins_over_all_overrides_of_the_base(config):
    base = {"adapter": {"experts": 3, "dropout": 0.1}}
    config["experiments"]["xrec"] |= {"overrides": base, "per_dataset": {"glassbox": {"adapter": {"experts": 5}}}}
    config = swept(config, experts=EXPERTS | {"values": [3, 5]})
    check_config(config)
    assert sweep_members(config, "experts") == [(3, "xrec-experts-3"), (5, "xrec")]
    adapter = settings(expand_sweeps(config), "glassbox", "xrec-experts-3")["adapter"]
    assert (adapter["experts"], adapter["dropout"]) == (3, 0.1)


def test_every_kind_of_value_makes_a_name_that_the_schema_allows(config):
    config = swept(
        config,
        rate={"base": "glassbox/xrec", "key": "tuning.learning_rate", "values": [1e-4, 0.02, 0.5]},
        rows={"base": "glassbox/xrec", "key": "embeddings.as", "values": ["trained", "shuffled"]},
        profiles={"base": "glassbox/xrec", "key": "prompt.profiles", "values": [True, False]},
    )
    check_config(config)
    names = [name for sweep in config["sweeps"] for _, name in sweep_members(config, sweep)]
    expected = ["xrec-rate-0_0001", "xrec", "xrec-rate-0_5", "xrec", "xrec-rows-shuffled", "xrec"]
    assert names == [*expected, "xrec-profiles-False"]
    assert settings(expand_sweeps(config), "glassbox", "xrec-rows-shuffled")["embeddings"]["as"] == "shuffled"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "adapter.expert"}, r"sweeps.s.key: there is no setting adapter.expert \(did you mean 'experts'\?\)"),
        ({"key": "adaptor.experts"}, r"there is no setting adaptor.experts \(did you mean 'adapter'\?\)"),
        ({"key": "adapter.experts.more"}, "there is no setting adapter.experts.more"),
        ({"key": "split.seed"}, "sweeps.s.key: split is shared by all experiments of a data set"),
        ({"key": "recommenders.lightgcn.dims"}, r"no setting recommenders.lightgcn.dims \(did you mean 'dim'\?\)"),
        ({"key": "recommenders.bprmf.dim"}, "xrec takes its embeddings of 'lightgcn'; sweep recommenders.lightgcn"),
        ({"key": "recommenders.lightgcn"}, "xrec takes its embeddings of 'lightgcn'; sweep recommenders.lightgcn"),
        ({"key": "adapter"}, "experiments.xrec-s-1.overrides.adapter: 1 is not of type 'object'"),
        ({"base": "glassbox/xrek"}, r"sweeps.s.base names 'xrek', which is not in experiments \(did you mean 'xrec'"),
        ({"base": "glasbox/xrec"}, "sweeps.s.base names 'glasbox', which is not in datasets"),
        ({"base": "xrec"}, "sweeps.s.base: 'xrec' does not match"),
        ({"values": [0]}, "experiments.xrec-s-0.overrides.adapter.experts: 0 is less than the minimum of 1"),
        ({"values": []}, r"sweeps.s.values: \[\] should be non-empty"),
        ({"values": [2, 2]}, "sweeps.s.values: .* has non-unique elements"),
        ({"valves": [2]}, r"sweeps.s.valves: unknown key \(did you mean 'values'\?\)"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line(config, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(swept(config, s=EXPERTS | change))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_taken_is_refused(config):
    config["experiments"]["xrec-experts-16"] = config["experiments"]["xrec"]
    with pytest.raises(ConfigError, match=r"sweeps.experts: 'xrec-experts-16', for its value 16, is in experiments"):
        check_config(swept(config, experts=EXPERTS))


def test_tables_may_name_what_a_sweep_adds(config):
    named = {"paper": {"tables": {"table2": ["xrec", "xrec-experts-16"]}}}
    check_config(merge(swept(config, experts=EXPERTS), named))
    with pytest.raises(ConfigError, match="names 'xrec-experts-16', which is not in experiments"):
        check_config(merge(config, named))


def test_the_overlay_sweeps_experts_and_widths(root):
    config = load_config(root / "config/config.yaml", root / "config/sweeps.yaml")
    check_config(config)
    expanded = expand_sweeps(config)
    chosen = [settings(expanded, "glassbox", name)["embeddings"]["of"] for _, name in sweep_members(config, "width")]
    assert chosen == ["lightgcn-dim-16", "lightgcn-dim-32", "lightgcn", "lightgcn-dim-128"]
    whole = recommender(expanded, "glassbox", "lightgcn")
    assert [recommender(expanded, "glassbox", name) for name in chosen] == [
        whole | {"dim": dim} for dim in (16, 32, 64, 128)
    ]
    assert [value for value, _ in sweep_members(config, "experts")] == [1, 2, 4, 8, 16]


# --- Figure -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, *paths: figures.append(figure))
    return figures


def write_run(folder: Path, scores: dict[str, np.ndarray], loss: float | None = 0.5, **signatures: str) -> dict:
    """Write one experiment and seed as the workflow does; return the files by kind."""
    count = len(next(iter(scores.values())))
    schema = pa.schema([("example_id", pa.string()), *((name, pa.float64()) for name in scores)])
    names = [f"e{number:03d}" for number in range(count)]
    write_table(folder / "metrics/scores.parquet", {"example_id": names, **scores}, schema)
    summary = {name: {"mean": 0.0, "std": 1.0, "signature": signatures.get(name, f"{name}|v:1")} for name in scores}
    if "usr" in summary:
        summary["usr"]["std"] = None
    write_json(folder / "metrics/summary.json", summary)
    write_json(folder / "method/provenance.json", {"result": {"validation_loss": loss}})
    files = {kind: folder / f"metrics/{kind}.{ending}" for kind, ending in (("scores", "parquet"), ("summary", "json"))}
    return files | {"train": folder / "method/provenance.json"}


def noise(*names: object, count: int = 40) -> np.ndarray:
    return np.random.default_rng([len(str(name)) + 7 * place for place, name in enumerate(names)]).random(count)


def member(folder: Path, value, sweep: str = "experts", own: bool = False, seed: int = 1, **over) -> dict:
    """Write and describe one value of a sweep, its scores random."""
    place = sum(map(ord, f"{sweep}{value}"))
    rng = np.random.default_rng([seed, place])
    scores = over.pop("scores", {name: rng.random(30) for name in METRICS[:2]})
    files = write_run(folder / f"{sweep}-{value}-{seed}", scores, over.pop("loss", place / 1000 + seed / 100))
    names = {"dataset": "glassbox", "dataset_label": "Glassbox", "published_as": None, "few": False, "kind": "demo"}
    names |= {"experiment": f"xrec-{sweep}-{value}", "experiment_label": "", "base_label": "XRec", "seed": seed}
    return names | {"sweep": sweep, "key": f"adapter.{sweep}", "value": value, "own": own} | files | over


def draw(folder: Path, rows: list[dict], metrics: list[str] = METRICS) -> tuple[str, list[dict]]:
    """Draw; return the caption and the lines of the CSV file."""
    files = [folder / f"sweeps.{ending}" for ending in ("pdf", "png", "csv")]
    caption = figure_sweeps(rows, {"metrics": metrics, "statistics": STATISTICS}, *files)
    with files[2].open(encoding="utf-8", newline="") as stream:
        return caption, list(csv.DictReader(stream))


def two_sweeps(folder: Path) -> list[dict]:
    experts = [member(folder, value, own=value == 8) for value in (1, 2, 8, 16)]
    return experts + [member(folder, value, "width", own=value == 64) for value in (16, 64)]


def test_the_numbers_are_means_with_bootstrap_intervals_and_losses(tmp_path, drawn):
    rows = two_sweeps(tmp_path)
    _, lines = draw(tmp_path, rows)
    assert len(lines) == 6 * 3
    for row in rows:
        scores = sweeps_scores(row)
        own = {one["metric"]: one for one in lines if one["experiment"] == row["experiment"]}
        assert {(one["sweep"], one["value"]) for one in own.values()} == {(row["sweep"], str(row["value"]))}
        assert [own[name]["own"] for name in METRICS] == [str(row["own"])] * 3
        for name in METRICS[:2]:
            bounds = bootstrap_interval(scores[name], "mean", Settings.from_settings(STATISTICS))
            found = [float(own[name][key]) for key in ("mean", "low", "high")]
            assert found == pytest.approx([scores[name].mean(), *bounds], abs=1e-12)
            assert (own[name]["n"], own[name]["missing"], own[name]["seeds"]) == ("30", "0", "1")
        loss = json.loads(row["train"].read_text())["result"]["validation_loss"]
        assert own["validation_loss"]["mean"] == repr(loss)
        assert own["validation_loss"]["low"] == own["validation_loss"]["n"] == own["validation_loss"]["seed_sd"] == ""


def sweeps_scores(row: dict) -> dict[str, np.ndarray]:
    frame = pd.read_parquet(row["scores"])
    return {name: frame[name].to_numpy() for name in METRICS[:2]}


def test_what_is_drawn_is_what_was_measured(tmp_path, drawn):
    rows = two_sweeps(tmp_path)
    caption, lines = draw(tmp_path, rows[::-1])  # drawn from the smallest value to the largest, whatever their order
    figure = drawn[0]
    assert_readable(figure)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["Glassbox: width", "Glassbox: experts"]
    assert [axes.get_xlabel() for axes in figure.axes[-2:]] == ["adapter.width", "adapter.experts"]
    for place, name in enumerate(METRICS):
        panel = figure.axes[2 * place + 1]
        assert panel.get_xscale() == "log"
        own = {float(one["value"]): one for one in lines if one["sweep"] == "experts" and one["metric"] == name}
        curve = panel.lines[0]
        assert curve.get_xdata().tolist() == [1, 2, 8, 16]
        assert curve.get_ydata().tolist() == [float(own[value]["mean"]) for value in (1, 2, 8, 16)]
        spans = sorted(tuple(y for _, y in part.get_segments()[0]) for part in panel.collections)
        assert spans == sorted((float(o["low"]), float(o["high"])) for o in own.values() if o["low"])
        dotted = [one for one in panel.lines if one.get_linestyle() == ":"]
        assert [list(one.get_xdata()) for one in dotted] == [[8, 8]]
    assert (
        "90% bootstrap interval" in caption
        and "lower is better" in caption
        and "Warning: what a generated world" in caption
    )


def test_means_over_seeds_show_their_seeds(tmp_path, drawn):
    rows = [member(tmp_path, value, seed=seed, few=True) for value in (2, 3) for seed in (1, 2)]
    caption, lines = draw(tmp_path, rows)
    first = next(one for one in lines if one["value"] == "2" and one["metric"] == "bertscore_f1")
    means = [sweeps_scores(row)["bertscore_f1"].mean() for row in rows[:2]]
    assert [float(part) for part in first["seed_means"].split()] == pytest.approx(means)
    assert float(first["mean"]) == pytest.approx(np.mean(means))
    assert float(first["seed_sd"]) == pytest.approx(np.std(means, ddof=1))
    loss = next(one for one in lines if one["value"] == "2" and one["metric"] == "validation_loss")
    assert float(loss["seed_sd"]) == pytest.approx(math.sqrt(0.01**2 / 2))
    assert "single seeds (2)" in caption and "†" in caption
    assert drawn[0].legends[0].get_texts()[0].get_text() == "XRec†"
    assert drawn[0].axes[0].get_xscale() == "linear", "2 and 3 span too little for a logarithm"


def test_what_is_known_of_a_range_is_drawn(tmp_path, drawn):
    rows = two_sweeps(tmp_path)
    summary = json.loads(rows[0]["summary"].read_text())
    summary["faithfulness_f1"]["counts"] = {"faithfulness_f1_chance": 0.5, "faithfulness_f1_reference": 9.0}
    write_json(rows[0]["summary"], summary)
    write_json(rows[3]["summary"], summary)
    draw(tmp_path, rows)
    assert [[text.get_text() for text in axes.texts] for axes in drawn[0].axes] == [
        ["chance 0.50 (dashed), references 9.00 ↑"], *[[]] * 5,
    ]  # fmt: skip
    assert_readable(drawn[0])


def test_words_are_points_without_a_line(tmp_path, drawn):
    draw(tmp_path, [member(tmp_path, value, "form") for value in ("output", "input", "none")], METRICS[:1])
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["output", "input", "none"]
    assert axes.lines[0].get_linestyle() == "None"
    assert_readable(drawn[0])


def test_what_a_sweep_lacks_is_said_and_what_none_has_is_left_out(tmp_path, drawn):
    rows = [member(tmp_path, value) for value in (1, 2)]
    rows += [member(tmp_path, value, "width", train=None) for value in (16, 32)]
    _, lines = draw(tmp_path, rows, [*METRICS, "bleurt"])
    assert {one["metric"] for one in lines} == set(METRICS)
    assert len(drawn[0].axes) == 6
    assert [[text.get_text() for text in axes.texts] for axes in drawn[0].axes] == [*[[]] * 5, ["not measured"]]
    _, lines = draw(tmp_path, [member(tmp_path, value, loss=None) for value in (1, 2)])
    assert {one["metric"] for one in lines} == set(METRICS[:2]), "no validation texts, no loss"


def test_the_same_rows_give_the_same_bytes(tmp_path):
    rows = two_sweeps(tmp_path)
    for folder in ("a", "b"):
        draw(tmp_path / folder, rows)
    for ending in ("pdf", "png", "csv"):
        assert (tmp_path / f"a/sweeps.{ending}").read_bytes() == (tmp_path / f"b/sweeps.{ending}").read_bytes()


def test_what_cannot_be_drawn_is_refused(tmp_path, drawn):
    rows = [member(tmp_path, value) for value in (1, 2)]
    with pytest.raises(DataError, match="there is no sweep to draw; describe one in sweeps"):
        draw(tmp_path, [])
    with pytest.raises(ConfigError, match="paper.sweeps.metrics: none of them is there"):
        draw(tmp_path, rows, ["bleurt"])
    write_run(rows[1]["scores"].parents[1], sweeps_scores(rows[1]), bertscore_f1="another")
    with pytest.raises(DataError, match="sweeps.experts: bertscore_f1 would mix 'bertscore_f1|v:1' and 'another'"):
        draw(tmp_path, rows)
    write_json(rows[0]["train"], {"result": {}})
    with pytest.raises(DataError, match="provenance.json: result.validation_loss is missing; tune"):
        draw(tmp_path, rows)
    rows[0]["train"].write_text('{"result": {"validation_loss": NaN}}')
    with pytest.raises(DataError, match="provenance.json: result.validation_loss is nan; tune"):
        draw(tmp_path, rows)


# --- Deviations -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deviations(root):
    """The command docs/deviations.py as a module."""
    return load_script(root / "docs/deviations.py")


def overlay(root) -> dict:
    return load_config(root / "config/config.yaml", root / "config/deviations.yaml")


def test_each_experiment_of_the_overlay_flips_one_switch(root):
    config = overlay(root)
    check_config(config)
    base = settings(config, "glassbox", "xrec")
    pairs = [pair.split("/") for pair in config["run"]["experiments"]]
    assert pairs[0] == ["glassbox", "xrec"] and len(pairs) == 14
    for dataset, name in pairs[1:]:
        chosen = settings(config, dataset, name)
        changed = [section for section in base if chosen[section] != base[section]]
        assert len(changed) == 1, f"{name} is as the demo, or more than a switch: {changed}"
        assert config["experiments"][name]["overrides"].keys() == set(changed)


@pytest.fixture
def run(root, tmp_path) -> tuple[dict, Path]:
    """Three experiments of 40 examples: the base, one that is better by 0.2 everywhere, one with other noise."""
    config = overlay(root)
    config["statistics"] = STATISTICS
    config["run"]["experiments"] = [f"glassbox/{name}" for name in ("xrec", "greedy", "early_stopping")]
    base = noise("base") / 2
    runs = {"xrec": (base, 0.5), "greedy": (base + 0.2, 0.5), "early_stopping": (noise("other", 1) / 2, 0.6)}
    for name, (scores, loss) in runs.items():
        columns = {"faithfulness_f1": scores, "bertscore_f1": scores / 2, "usr": np.ones(40)}
        write_run(tmp_path / f"glassbox/{name}/seed1", columns, loss)
    return config, tmp_path


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in text.splitlines() if row.startswith("|")]


def test_the_table_compares_each_switch_with_the_base(run, deviations):
    config, folder = run
    text = deviations.table(config, folder)
    heads, _, first, greedy, stopping = cells(text)
    assert heads[0] == "switch" and heads[5:7] == ["difference", "p (Holm)"]
    base, other = noise("base") / 2, noise("other", 1) / 2
    low, high = bootstrap_interval(base, "mean", Settings.from_settings(STATISTICS))
    interval = f"{low:.4f} to {high:.4f}"
    means = [f"{base.mean() / 2:.4f}", "1.0000"]
    assert first == ["none (XRec)", "40", "0.5000", f"{base.mean():.4f}", interval, "–", "–", *means]
    assert greedy[0] == "generation.decoding: greedy"
    assert greedy[5:7] == ["+0.2000", f"{2 * 2 / 1000:.4f}"], "the least p of 999 permutations, times two lines"
    assert stopping[0] == r"tuning.early\_stopping: {start: 0.2, patience: 0.1, window: 10}"
    assert stopping[2] == "0.6000"
    assert stopping[5] == f"{other.mean() - base.mean():+.4f}"
    assert "corrected by Holm for all 2 lines" in text


def test_an_experiment_that_tunes_nothing_has_no_loss(run, deviations):
    config, folder = run
    (folder / "glassbox/greedy/seed1/method/provenance.json").unlink()
    assert cells(deviations.table(config, folder))[3][2] == "–"


def test_a_run_without_the_base_or_the_score_is_refused(run, deviations):
    config, folder = run
    write_run(folder / "glassbox/greedy/seed1", {"bertscore_f1": noise("b")})
    with pytest.raises(DataError, match="faithfulness_f1 is missing; add faithfulness to metrics.use"):
        deviations.table(config, folder)
    config["run"]["experiments"].pop(0)
    with pytest.raises(DataError, match="glassbox has no xrec; name it in run.experiments"):
        deviations.table(config, folder)


def test_the_command_fills_the_page_between_its_markers(root, run, deviations, tmp_path, capsys):
    config, folder = run
    page, written = tmp_path / "page.md", tmp_path / "overlay.yaml"
    page.write_text((root / "docs/deviations.md").read_text(encoding="utf-8"), encoding="utf-8")
    written.write_text(json.dumps({key: config[key] for key in ("run", "experiments", "statistics")}))
    arguments = [str(folder), "--config", str(written), "--write", str(page)]
    assert deviations.main(arguments) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == deviations.table(config, folder).strip()
    once = page.read_text(encoding="utf-8")
    assert once.split("<!-- measured -->")[1].split("<!-- /measured -->")[0].strip() == printed
    assert deviations.main(arguments) == 0
    assert page.read_text(encoding="utf-8") == once, "a second time changes nothing"
    page.write_text("no markers", encoding="utf-8")
    assert deviations.main(arguments) == 1
    assert "page.md: needs a line <!-- measured -->" in capsys.readouterr().err
    assert deviations.main([str(tmp_path / "none")]) != 0
    assert "summary.json: no such file" in capsys.readouterr().err
