"""Figures: what is drawn is what was given, nothing is cut off, and the same input gives the same bytes."""

import csv
import math
import re
import statistics
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from xrec_repro.comparable import Comparable
from xrec_repro.contracts import TRUTH
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.io import write_json, write_table
from xrec_repro.paper import ablation, curves, embeddings, sparsity_figure, style
from xrec_repro.paper.curves import figure3, smooth
from xrec_repro.paper.embeddings import figure_embeddings, known_clusters, project
from xrec_repro.paper.sparsity import FEWEST, ZERO_SHOT, scores_by_group, sparsity_groups
from xrec_repro.paper.sparsity_figure import figure4
from xrec_repro.published import load_published_table1, load_published_table2

EXPERIMENTS = {
    "xrec": "XRec",
    "no_profile": "XRec w/o profile",
    "no_injection": "XRec w/o injection",
    "no_profile_no_injection": "XRec w/o prof. & inj.",
    "no_embeddings": "XRec w/o embed.",
    "fixed_moe": "XRec fixed MoE",
}
PUBLISHED = {"amazon": "Amazon-books", "yelp": "Yelp", "google": "Google-reviews"}
METRICS = [["llamascore", "gptscore"], ["bertscore_f1"]]
FULL = {"metrics": METRICS, "axes": "full", "confidence": 0.95}
ZOOMED = FULL | {"axes": "zoomed"}
SIGNATURES = {  # as published
    "llamascore": "llamascore|model:meta-llama/Llama-3.1-8B-Instruct|rev:0e9e39f249a16976918f6564b8830bc894c89659"
    "|mode:parse|dtype:bfloat16",
    "bertscore_f1": "bertscore|model:FacebookAI/roberta-large|rev:722cf37b1afa9454edce342e7895e588b6ff1d59"
    "|layer:17|idf:no|rescale:roberta-large",
    "bartscore": "bartscore|model:facebook/bart-large-cnn|rev:37f520fa929c961707657b28798b30c003dd100b"
    "|weights:-|direction:pred_to_ref|max_length:1024|dtype:float32",
    "usr": "usr|tokens:whitespace",
}
COMPARABLE = Comparable(Path(__file__).parents[2] / "resources")


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Collect the figures instead of writing them."""
    figures: list[Figure] = []
    for module in (ablation, curves, embeddings, sparsity_figure):
        monkeypatch.setattr(module, "save", lambda figure, *paths: figures.append(figure))
    return figures


@pytest.fixture(scope="module")
def published(root) -> list:
    return load_published_table1(root / "resources") + load_published_table2(root / "resources")


def result(dataset: str, experiment: str, place: int, seed: int = 1, **changes) -> dict:
    summary = {
        "llamascore": {"mean": 60.0 - place + seed, "std": 20.0 + place},
        "bertscore_f1": {"mean": 0.4 - 0.01 * place, "std": 0.1 + 0.01 * place},
        "bartscore": {"mean": -3.0 - 0.1 * place, "std": 0.4},
        "usr": {"mean": 1.0, "std": None},
    }
    summary = {metric: cell | {"n": 3000, "signature": SIGNATURES[metric]} for metric, cell in summary.items()}
    base = {"dataset": dataset, "dataset_label": PUBLISHED.get(dataset, dataset.title()), "few": False}
    base |= {"published_as": PUBLISHED.get(dataset), "experiment": experiment, "kind": "measured", "seed": seed}
    return base | {"experiment_label": EXPERIMENTS[experiment], "summary": summary} | changes


def figure2(*given) -> str:
    return ablation.figure2(*given, COMPARABLE)


def results(*datasets: str, **changes) -> list[dict]:
    return [result(d, e, place, **changes) for d in datasets for place, e in enumerate(EXPERIMENTS)]


def panel(figure: Figure, title: str, label: str):
    """Return the axes in the column of a title and the row of a label."""
    column = next(axes for axes in figure.axes if axes.get_title().startswith(title))
    left = column.get_subplotspec().colspan
    return next(a for a in figure.axes if a.get_ylabel() == label and a.get_subplotspec().colspan == left)


def heights(axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def points(axes) -> list[float]:
    """Return the height of each lone point, from the left."""
    return [one.get_ydata()[0] for one in axes.lines if one.get_marker() in style.MARKERS]


def whiskers(axes) -> list[tuple[float, float]]:
    bars = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    return [tuple(y for _, y in bar.lines[2][0].get_segments()[0]) for bar in bars]


def tick_labels(axes) -> list[list[Text]]:
    """Return the labels of both axes that are drawn: those within its limits."""
    both = []
    for place, (axis, limits) in enumerate([(axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())]):
        labels = [label for label in axis.get_ticklabels() if label.get_text()]
        both.append([label for label in labels if limits[0] <= label.get_position()[place] <= limits[1]])
    return both


def assert_readable(figure: Figure) -> None:
    """No text is cut off or smaller than 8 points, no two labels overlap, and the legend covers no title."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    axes = [axes for axes in figure.axes if axes.get_visible()]
    ticks = [labels for one in axes for labels in tick_labels(one)]
    texts = [text for one in axes for text in (*one.texts, one.title, one.xaxis.label, one.yaxis.label)]
    texts += [*figure.texts, *figure.legends[0].get_texts(), *(label for labels in ticks for label in labels)]
    boxes = {text: text.get_window_extent(renderer) for text in texts if text.get_text()}
    for text, box in boxes.items():
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
        assert text.get_fontsize() >= 8, text
    for labels in ticks:
        assert not any(boxes[a].overlaps(boxes[b]) for a, b in pairwise(labels) if not a.get_rotation()), labels
    legend = figure.legends[0].get_window_extent(renderer)
    assert not any(legend.overlaps(boxes[one.title]) for one in axes if one.get_title())


# --- Style ------------------------------------------------------------------------------------------------------------


def test_looks_differ_in_grey_and_never_repeat_together():
    assert len({style.look(n).hatch for n in range(7)}) == len({style.look(n).marker for n in range(7)}) == 7
    assert len({style.look(n).line for n in range(7)}) == 7
    assert len({(style.look(n).colour, style.look(n).hatch) for n in range(56)}) == 56


def test_files_have_the_same_bytes_whatever_the_machine_s_settings(tmp_path, published):
    rows = results("glassbox", kind="demo")
    one, other = tmp_path / "one", tmp_path / "other"
    caption = figure2(rows, published, one / "f.pdf", one / "f.png", FULL)
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 30, "axes.facecolor": "red"}):
        assert figure2(rows, published, other / "f.pdf", other / "f.png", FULL) == caption
    for name in ("f.pdf", "f.png"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert b"CreationDate" not in (one / "f.pdf").read_bytes()
    with Image.open(one / "f.png") as image:
        assert image.width == 1440  # 7.2 inches
        pixels = np.asarray(image.convert("L"))
    assert pixels[0].min() == pixels[-1].min() == pixels[:, 0].min() == 255  # nothing runs over the edge


def test_files_have_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys; from xrec_repro.paper.style import *\n"
        "with drawing(3, 2) as f:\n"
        "    f.subplots().bar([1], [2], hatch='//'); footnote(f, 'a note'); save(f, sys.argv[1], sys.argv[2])"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, f"{name}.pdf", f"{name}.png"], cwd=tmp_path, check=True)
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_captions_can_be_left_out_and_sizes_set(tmp_path, published, drawn):
    options = {
        "captions": False,
        "sizes": {"figure2": [6, 8.5], "figure2_zoomed": None, "figure3": [3.4, 3], "figure4": [3.4, 5]},
    }
    rows = [row for place, name in enumerate(EXPERIMENTS) for row in grouped("Yelp", name, place)]
    points = {"XRec": np.random.default_rng(8).normal(size=(40, 8))}
    losses = np.random.default_rng(1).gamma(4, 0.1, 300).tolist()
    captions = [
        figure2(results("amazon"), published, "f.pdf", "f.png", FULL | options),
        figure2(results("amazon"), published, "f.pdf", "f.png", ZOOMED | options),
        figure3([curve(tmp_path, losses)], "f.pdf", "f.png", {"method": "rolling", "window": 5} | options),
        figure4(rows, "f.pdf", "f.png", {"metrics": ["bleurt"], "confidence": 0.9} | options),
        figure_embeddings(points, ["user"] * 40, "f.pdf", "f.png", PCA | options),
    ]
    assert all(captions) and not any(figure.texts or figure.get_supxlabel() for figure in drawn)
    sizes = [tuple(figure.get_size_inches()) for figure in drawn]
    assert sizes[0] == (6, 8.5) and sizes[2:4] == [(3.4, 3), (3.4, 5)]
    assert sizes[1][0] == 7.2 and sizes[4] == (4.5, 3.8)
    for figure in (drawn[0], *drawn[2:4]):
        assert_readable(figure)


# --- Figure 2 ---------------------------------------------------------------------------------------------------------


def test_published_panels_show_the_printed_numbers(root, published, drawn):
    figure2(results("amazon"), published, "f.pdf", "f.png", FULL)
    with (root / "resources/published/study_table2.csv").open(encoding="utf-8", newline="") as stream:
        study = list(csv.DictReader(stream))
    for label, column in [("LlamaScore", "llamascore"), ("BERTScore F1 std", "bertscore_f1_std")]:
        assert heights(panel(drawn[0], "(b)", label)) == [float(row[column]) for row in study]
    assert heights(panel(drawn[0], "(a)", "GPTScore")) == [82.57, 81.77]
    assert heights(panel(drawn[0], "(a)", "BERTScore F1 std")) == [0.0800, 0.0786]
    assert heights(panel(drawn[0], "(c)", "LlamaScore")) == [61.0, 60.0, 59.0, 58.0, 57.0, 56.0]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == list(EXPERIMENTS.values())
    assert_readable(drawn[0])


def test_published_means_have_the_interval_of_their_printed_deviation(published, drawn):
    figure2(results("amazon"), published, "f.pdf", "f.png", FULL | {"metrics": [["bertscore_f1"], ["usr"]]})
    reach = [1.959964 * std / math.sqrt(n) for std, n in ((0.0790, 3000), (0.0837, 3000), (0.3357, 3000))]
    found = whiskers(panel(drawn[0], "(b)", "BERTScore F1"))
    assert len(found) == 6
    for ends, mean, half in zip(found, (0.3982, 0.3913, 0.2684), reach, strict=False):
        assert ends == pytest.approx((mean - half, mean + half), abs=1e-6)
    fixed = 1.959964 * 0.3081 / math.sqrt(300)
    assert found[-1] == pytest.approx((0.2422 - fixed, 0.2422 + fixed), abs=1e-6)
    assert not whiskers(panel(drawn[0], "(b)", "BERTScore F1 std")) and not whiskers(panel(drawn[0], "(b)", "USR"))


def test_chance_and_the_references_are_lines_where_they_are_known(published, drawn):
    counts = {"faithfulness_f1_chance": 0.09, "faithfulness_f1_reference": 0.9}
    rows = results("glassbox", "amazon", kind="demo")
    for place, row in enumerate(rows[:6]):
        cell = {"mean": 0.1 + place / 100, "std": 0.2, "n": 9, "signature": "faithfulness|v:1", "counts": counts}
        row["summary"]["faithfulness_f1"] = cell
    for settings in (FULL, ZOOMED):
        caption = figure2(rows, published, "f.pdf", "f.png", settings | {"metrics": [*METRICS, ["faithfulness_f1"]]})
        assert "Dashed: chance" in caption
        assert_readable(drawn[-1])
    full, zoomed = (panel(figure, "(c)", "Faithfulness F1") for figure in drawn)
    assert [one.get_segments()[0].tolist() for one in full.collections] == [
        [[-0.5, 0.09], [5.5, 0.09]], [[-0.5, 0.9], [5.5, 0.9]],
    ]  # fmt: skip
    assert full.get_ylim()[1] > 0.9
    assert [one.get_segments()[0][0][1] for one in zoomed.collections] == [0.09]  # the other would flatten the points
    assert not panel(drawn[0], "(c)", "Faithfulness F1 std").collections


def test_full_axes_start_at_zero_and_agree_and_zoomed_ones_have_points(published, drawn):
    rows = results(*PUBLISHED)
    for settings in (FULL, ZOOMED):
        figure2(rows, published, "f.pdf", "f.png", settings | {"metrics": [*METRICS, ["bartscore"]]})
        assert_readable(drawn[-1])
    full, zoomed = drawn
    for axes in full.axes:
        low, high = axes.get_ylim()
        assert (low < -4 and high == 0) if axes.get_ylabel() == "BARTScore" else (low == 0 and high > 0)
        assert min(heights(axes)) > low and max(heights(axes)) <= high
    assert panel(full, "(a)", "GPTScore").get_ylim() == panel(full, "(c)", "LlamaScore").get_ylim()
    for axes, beside in zip(zoomed.axes, full.axes, strict=True):
        low, high = axes.get_ylim()
        assert not axes.patches and points(axes) == heights(beside)
        assert 0 < low < min(points(axes)) or max(points(axes)) < high < 0
    assert [t.get_text() for t in full.axes[-1].get_xticklabels()] == list(PUBLISHED.values())


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ("model:smol@sha256:0123456789ab|rev:-|mode:parse|dtype:bfloat16", "another model, smol@sha256:0123456789ab"),
        (SIGNATURES["llamascore"].partition("|")[2].replace("parse", "expected"), "mode expected, published parse"),
    ],
)
def test_what_was_scored_otherwise_has_an_axis_of_its_own(published, drawn, signature, why):
    rows = results("amazon")
    for row in rows:
        row["summary"]["llamascore"] |= {"mean": 2.0, "signature": f"llamascore|{signature}"}
        row["intervals"] = {"llamascore": (1.5, 2.5)}
    for settings in (FULL, ZOOMED):
        caption = figure2(rows, published, "f.pdf", "f.png", settings)
        assert "LlamaScore (this run) has an axis of its own" in caption and why in caption
        assert_readable(drawn[-1])
        labels = [one.yaxis.label.get_window_extent() for one in drawn[-1].axes]
        assert not any(a.overlaps(b) for a, b in combinations(labels, 2))
    mine = panel(drawn[0], "(c)", "LlamaScore\n(this run)")
    assert mine.get_ylim()[1] < 3 < panel(drawn[0], "(b)", "LlamaScore").get_ylim()[1]
    assert panel(drawn[0], "(b)", "LlamaScore").get_ylim() == panel(drawn[0], "(a)", "GPTScore").get_ylim()
    assert panel(drawn[0], "(c)", "BERTScore F1").get_ylim() == panel(drawn[0], "(b)", "BERTScore F1").get_ylim()
    assert panel(drawn[0], "(c)", "LlamaScore std\n(this run)").get_ylim()[0] == 0
    assert whiskers(mine) == [(1.5, 2.5)] * 6 and whiskers(panel(drawn[0], "(b)", "LlamaScore"))
    near = panel(drawn[1], "(c)", "LlamaScore\n(this run)")
    assert points(near) == [2.0] * 6 and 1 < near.get_ylim()[0] < 1.5 and 2.5 < near.get_ylim()[1] < 3.5


def test_subsets_are_marked_and_intervals_drawn(published, drawn):
    rows = results("amazon")
    rows[2] |= {"few": True, "intervals": {"llamascore": (58.0, 61.5), "llamascore_std": (21.0, 23.0)}}
    caption = figure2(rows, published, "f.pdf", "f.png", FULL)
    measured = panel(drawn[0], "(c)", "LlamaScore")
    assert [(t.get_text(), round(t.xy[0])) for t in measured.texts] == [("†", 2)]
    assert "† a part of the test set" in caption and "95 % bootstrap" in caption
    assert whiskers(panel(drawn[0], "(c)", "LlamaScore std")) == [(21.0, 23.0)]
    assert whiskers(measured) == [(58.0, 61.5)]
    # The study's own marks: w/o prof. & inj., and fixed MoE.
    assert [round(t.xy[0]) for t in panel(drawn[0], "(b)", "LlamaScore").texts] == [3, 5]


def test_several_seeds_become_their_mean_and_deviation(published, drawn):
    rows = [*results("amazon", seed=1), *results("amazon", seed=2), *results("amazon", seed=6)]
    caption = figure2(rows, published, "f.pdf", "f.png", FULL)
    assert "means over 3 seeds" in caption
    measured = panel(drawn[0], "(c)", "LlamaScore")
    assert heights(measured) == pytest.approx([63 - place for place in range(6)])
    spread = statistics.stdev([61, 62, 66])
    assert whiskers(measured)[0] == pytest.approx((63 - spread, 63 + spread))


def test_demo_shows_published_panels_whole_warns_and_says_what_is_not_scored(published, drawn):
    rows = results("glassbox", kind="demo")
    for row in rows:
        del row["summary"]["llamascore"]
    caption = figure2(rows, published, "f.pdf", "f.png", FULL | {"metrics": [*METRICS, ["usr"]]})
    assert "not to be compared" in caption
    assert "not scored" in {text.get_text() for axes in drawn[0].axes for text in axes.texts}
    assert len(heights(panel(drawn[0], "(b)", "LlamaScore"))) == 10  # six of Amazon, two each of the others
    assert "USR std" not in {axes.get_ylabel() for axes in drawn[0].axes}  # nobody has it
    assert_readable(drawn[0])


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {}, "f.pdf: there is nothing to draw; name an experiment"),
        (results("amazon") + results("amazon"), {}, "amazon/xrec/seed1 is given twice"),
        (results("amazon", summary={"usr": {"mean": float("nan"), "std": 1}}), {}, "mean of usr is not a finite"),
        (results("amazon", summary={"usr": {"mean": 1.0}}), {}, "std of usr is not a finite"),
        (results("amazon"), {"axes": "log"}, "paper.figure2.axes: 'log'; say full or zoomed"),
        (results("amazon"), {"metrics": [[]]}, "paper.figure2.metrics: a list without a metric"),
        (results("amazon"), {"metrics": [["charm"]]}, "none of them is scored or published"),
    ],
)
def test_figure2_names_what_is_wrong(published, tmp_path, rows, settings, message):
    with pytest.raises((DataError, ConfigError), match=re.escape(message)):
        figure2(rows, published, tmp_path / "f.pdf", tmp_path / "f.png", FULL | settings)
    assert not list(tmp_path.iterdir())


# --- Figure 3 ---------------------------------------------------------------------------------------------------------


def curve(
    tmp_path,
    losses: list[float],
    experiment: str = "xrec",
    dataset: str = "Glassbox",
    seed: int = 1,
    validation: float | None = 1.5,
) -> dict:
    path = tmp_path / f"{dataset}-{experiment}-{seed}.parquet"
    schema = pa.schema({"step": pa.int32(), "loss": pa.float64()})
    write_table(path, {"step": range(1, len(losses) + 1), "loss": losses}, schema)
    train = path.with_suffix(".json")
    write_json(train, {"result": {"validation_loss": validation}})
    names = {"dataset_label": dataset, "experiment_label": EXPERIMENTS[experiment], "seed": seed}
    return names | {"training": path, "train": train}


def hollow(axes) -> list[tuple[float, ...]]:
    """Return the heights of each series of hollow points."""
    return [tuple(one.get_ydata()) for one in axes.lines if one.get_linestyle() == "None"]


def test_smoothing_agrees_with_its_definition():
    losses = np.random.default_rng(0).normal(size=40).tolist()
    rolling = [np.mean(losses[max(0, i - 6) : i + 1]) for i in range(40)]
    assert smooth(losses, "rolling", 7) == pytest.approx(rolling)
    keep = 1 - 2 / (7 + 1)
    total = weight = 0.0
    averages = []
    for loss in losses:
        total, weight = total * keep + loss, weight * keep + 1
        averages.append(total / weight)
    assert smooth(losses, "ema", 7) == pytest.approx(averages)
    assert smooth(losses, "rolling", 1).tolist() == losses


def test_figure3_draws_raw_and_smoothed_losses(tmp_path, drawn):
    rng = np.random.default_rng(1)
    full, fixed = (1 + rng.gamma(4, 0.1, n) for n in (1300, 200))
    given = [curve(tmp_path, full.tolist()), curve(tmp_path, fixed.tolist(), "fixed_moe")]
    given.append(curve(tmp_path, fixed.tolist(), "fixed_moe", "Yelp", 2))
    caption = figure3(given, "f.pdf", "f.png", {"method": "rolling", "window": 25})
    assert "the mean of the last 25 steps" in caption and "Faint: every step" in caption and "thin" not in caption
    left, right = drawn[0].axes
    assert (left.get_title(), right.get_title()) == ("Glassbox", "Yelp")
    raw, _, smoothed = left.lines[:3]
    assert raw.get_ydata().tolist() == full.tolist() and raw.get_rasterized()
    steps = np.asarray(smoothed.get_xdata()).astype(int)
    assert (steps[0], steps[-1]) == (1, 1300)
    assert smoothed.get_ydata() == pytest.approx(smooth(full, "rolling", 25)[steps - 1])
    other = next(one for one in left.lines if one.get_color() == style.COLOURS[1] and not one.get_rasterized())
    assert smoothed.get_linestyle() != other.get_linestyle()
    assert hollow(left) == [(1.5,), (1.5,)] and hollow(right) == [(1.5,)]
    assert_readable(drawn[0])


def test_figure3_of_many_experiments_has_no_single_steps_and_fits_the_smoothed_losses(tmp_path, drawn):
    names = ("xrec", "no_profile", "fixed_moe")
    given = [
        curve(tmp_path, np.random.default_rng(n).gamma(4, 0.3, 300).tolist(), name) for n, name in enumerate(names)
    ]
    caption = figure3(given, "f.pdf", "f.png", {"method": "rolling", "window": 25})
    assert "Faint" not in caption and "thin" not in caption
    (axes,) = drawn[0].axes
    lines = [one for one in axes.lines if len(one.get_xdata()) == 300]
    assert len(lines) == 2 * len(names) and not any(one.get_rasterized() for one in axes.lines)
    values = [value for one in lines for value in one.get_ydata()] + [1.5]
    assert axes.get_ylim() == pytest.approx((min(values), max(values)), abs=0.06 * (max(values) - min(values)))


def test_figure3_shows_every_seed_their_mean_and_their_validation_losses(tmp_path, drawn):
    rng = np.random.default_rng(1)
    given = [(1 + rng.gamma(4, 0.1, n)).tolist() for n in (300, 300, 200)]
    curves = [curve(tmp_path, losses, seed=seed, validation=1.4 + seed / 10) for seed, losses in enumerate(given, 1)]
    caption = figure3(curves, "f.pdf", "f.png", {"method": "ema", "window": 9})
    assert "the mean over the seeds (3)" in caption and "Faint" not in caption and "validation" in caption
    (axes,) = drawn[0].axes
    smoothed = [smooth(losses, "ema", 9) for losses in given]
    for one, own in zip(axes.lines[:3], smoothed, strict=True):
        assert one.get_ydata() == pytest.approx(own) and one.get_linewidth() < 1
    mean = np.mean([own[:200] for own in smoothed], axis=0)  # as far as all have steps
    assert axes.lines[4].get_ydata() == pytest.approx(mean)
    assert hollow(axes) == [pytest.approx((1.5, 1.6, 1.7))]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["XRec", "validation, at the end"]
    assert_readable(drawn[0])


def test_figure3_goes_without_validation_examples(tmp_path, drawn):
    caption = figure3([curve(tmp_path, [2.0, 1.0], validation=None)], "f.pdf", "f.png", {"method": "ema", "window": 9})
    assert "validation" not in caption and len(drawn[0].legends[0].get_texts()) == 1
    assert hollow(drawn[0].axes[0]) == [()]


def test_figure3_files_are_reproducible_and_small(tmp_path):
    losses = np.random.default_rng(2).gamma(4, 0.3, 20_000).tolist()
    settings = {"method": "ema", "window": 500}
    for name in ("one", "two"):
        figure3([curve(tmp_path, losses)], tmp_path / f"{name}.pdf", tmp_path / f"{name}.png", settings)
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.pdf").stat().st_size < 200_000


@pytest.mark.parametrize(
    ("losses", "settings", "message"),
    [
        (None, {}, "there is no training curve to draw"),
        ([], {}, "there is no step in it"),
        ([1.0, float("nan")], {}, "the loss of step 2 is not a finite number"),
        ([1.0], {"method": "median"}, "paper.figure3.method: 'median'; say rolling or ema"),
        ([1.0], {"window": 0}, "paper.figure3.window: 0; give a number of steps"),
        ([1.0], {"window": 2.5}, "paper.figure3.window: 2.5"),
    ],
)
def test_figure3_names_what_is_wrong(tmp_path, losses, settings, message):
    given = [] if losses is None else [curve(tmp_path, losses)]
    with pytest.raises((DataError, ConfigError), match=re.escape(message)):
        figure3(given, tmp_path / "f.pdf", tmp_path / "f.png", {"method": "rolling", "window": 5} | settings)


# --- Figure 4 ---------------------------------------------------------------------------------------------------------


def test_groups_have_equal_size_and_are_ordered_by_count():
    rng = np.random.default_rng(3)
    counts = {f"u{i}": int(rng.integers(1, 9)) for i in range(52)}
    groups = sparsity_groups(counts, ["new1", "new2"], groups=5)
    members = {name: [u for u, g in groups.items() if g == name] for name in (f"tst{n}" for n in range(1, 6))}
    assert [len(users) for users in members.values()] == [11, 11, 10, 10, 10]
    ordered = [counts[user] for users in members.values() for user in sorted(users, key=lambda u: (counts[u], u))]
    assert ordered == sorted(counts.values())
    assert groups["new1"] == groups["new2"] == ZERO_SHOT and len(groups) == 54
    shuffled = dict(sorted(counts.items(), key=lambda entry: entry[0][::-1]))
    assert sparsity_groups(shuffled, {"new2", "new1"}, 5) == groups  # ties go by id, not by order


@pytest.mark.parametrize(
    ("counts", "zero_shot", "message"),
    [
        ({"a": 1}, [], "1 users cannot make 2 groups"),
        ({"a": 1, "b": 2}, ["b"], "user b has 2 train appearances and is given as zero-shot"),
        ({"a": 1, "b": 0}, [], "user b has 0 train appearances and is not given as zero-shot"),
    ],
)
def test_groups_that_contradict_the_counts_are_refused(counts, zero_shot, message):
    with pytest.raises(DataError, match=message):
        sparsity_groups(counts, zero_shot, groups=2)


def test_scores_are_averaged_by_group(monkeypatch):
    monkeypatch.setattr("xrec_repro.paper.sparsity.FEWEST", 2)
    users = ["rare", "often", "often", "new", "often"]
    groups = {"rare": "tst1", "middle": "tst2", "often": "tst3", "new": ZERO_SHOT}
    scores = {"bleurt": [0.5, 1.0, 2.0, float("nan"), 6.0], "usr": [1.0, 2.0, float("nan"), 3.0, 4.0]}
    rows = scores_by_group(scores, users, groups, lambda values, _: (values.min(), values.max()))
    assert rows == [
        {"group": "tst1", "n": 1, "scores": {"bleurt": (0.5, None, None), "usr": (1.0, None, None)}},
        {"group": "tst2", "n": 0, "scores": {}},
        {"group": "tst3", "n": 3, "scores": {"bleurt": (3.0, 1.0, 6.0), "usr": (3.0, 2.0, 4.0)}},
        {"group": ZERO_SHOT, "n": 1, "scores": {"usr": (3.0, None, None)}},
    ]
    with pytest.raises(DataError, match="user else of a test example is in no group"):
        scores_by_group(scores, ["else"], groups, max)
    with pytest.raises(DataError, match="5 scores of bleurt for 4 examples"):
        scores_by_group(scores, users[1:], groups, max)


def test_fewer_than_ten_scores_have_no_interval():
    users = ["few"] * (FEWEST - 1) + ["more"] * FEWEST + ["few"]
    scores = {"bleurt": [*range(2 * FEWEST - 1), float("nan")]}  # what is not scored does not count
    rows = scores_by_group(scores, users, {"few": "tst1", "more": "tst2"}, lambda *_: (0.0, 1.0))
    assert FEWEST == 10
    assert [row["scores"]["bleurt"][1:] for row in rows] == [(None, None), (0.0, 1.0)]


def grouped(dataset: str, experiment: str, base: float) -> list[dict]:
    names = ["tst1", "tst2", "tst3", "tst4", "tst5", ZERO_SHOT]
    return [
        {
            "dataset_label": dataset,
            "experiment_label": EXPERIMENTS[experiment],
            "group": name,
            "n": 590 - place,
            "train": [max(1, 5 * place), 5 * place + 4] if name != ZERO_SHOT else [0, 0],
            "scores": {"bleurt": (base + place, base + place - 1, base + place + 1), "usr": (1.0, None, None)},
        }
        for place, name in enumerate(names)
    ]


def test_figure4_draws_means_and_intervals_and_leaves_a_gap_before_zero_shot(drawn):
    rows = [row for d in PUBLISHED.values() for place, e in enumerate(EXPERIMENTS) for row in grouped(d, e, place)]
    figure4(rows, "f.pdf", "f.png", {"metrics": ["bleurt", "usr"], "confidence": 0.9})
    axes = drawn[0].axes[0]
    assert (axes.get_title(), axes.get_ylabel()) == ("Amazon-books", "BLEURT")
    assert list(axes.lines[0].get_ydata()) == [0, 1, 2, 3, 4] and list(axes.lines[1].get_ydata()) == [5]
    assert list(axes.lines[2].get_ydata()) == [1, 2, 3, 4, 5]
    ends = [tuple(y for _, y in collection.get_segments()[0]) for collection in axes.collections]
    assert ends[:6] == [(place - 1, place + 1) for place in range(6)] and len(ends) == 36
    lower = drawn[0].axes[3]
    labels = [label.get_text() for label in lower.get_xticklabels()]
    assert (labels[0], labels[1], labels[-1]) == ("1–4\nn=590", "5–9\nn=589", "0\nn=585")
    assert lower.get_xlabel() == "train interactions of the user"
    assert not lower.collections  # no intervals
    assert_readable(drawn[0])


@pytest.mark.parametrize(
    ("known", "lines", "named"),
    [
        ({"chance": 1.5, "reference": 4.5}, [1.5, 4.5], "chance 1.50 (dashed), references 4.50 (dotted)"),
        ({"chance": -40.0, "reference": 90.0}, [], "chance -40.00 ↓, references 90.00 ↑"),
    ],
)
def test_figure4_draws_the_range_where_it_is_near_and_names_it_else(drawn, known, lines, named):
    rows = [row | {"ranges": {"bleurt": known}} for row in grouped("Glassbox", "xrec", 1)]
    caption = figure4(rows, "f.pdf", "f.png", {"metrics": ["bleurt", "usr"], "confidence": 0.9})
    upper, lower = drawn[0].axes
    assert [text.get_text() for text in upper.texts] == [named] and not lower.texts
    drawn_lines = [one.get_ydata()[0] for one in upper.lines if list(one.get_xdata()) == [0, 1]]
    assert drawn_lines == lines
    low, high = upper.get_ylim()
    assert all(low < value < high for value in lines) and high < 15
    assert "over the whole test set" in caption
    assert_readable(drawn[0])


def test_figure4_names_what_is_wrong(drawn):
    settings = {"metrics": ["bleurt"], "confidence": 0.95}
    rows = grouped("Yelp", "xrec", 1)
    with pytest.raises(DataError, match="there is no group of users"):
        figure4([], "f.pdf", "f.png", settings)
    with pytest.raises(DataError, match="Yelp / XRec / tst1 is given twice"):
        figure4(rows + rows, "f.pdf", "f.png", settings)
    with pytest.raises(ConfigError, match="paper.sparsity.metrics: none of charm is scored"):
        figure4(rows, "f.pdf", "f.png", settings | {"metrics": ["charm"]})


# --- Embeddings -------------------------------------------------------------------------------------------------------

PCA = {"method": "pca", "seed": 1, "perplexity": 5, "max_points": 100}
TSNE = PCA | {"method": "tsne"}


def test_pca_agrees_with_singular_vectors():
    points = np.random.default_rng(4).normal(size=(30, 6)) * [9, 5, 1, 1, 1, 1]
    positions, method = project(points, PCA, "x")
    u, s, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    assert method == "pca"
    assert np.abs(positions) == pytest.approx(np.abs(u[:, :2] * s[:2]))


def test_tsne_is_reproducible_and_keeps_clusters_apart():
    rng = np.random.default_rng(5)
    points = np.concatenate([rng.normal(size=(20, 8)), rng.normal(size=(20, 8)) + 50])
    positions, method = project(points, TSNE, "x")
    assert method == "tsne" and np.array_equal(project(points, TSNE, "x")[0], positions)
    one, other = positions[:20], positions[20:]
    between = np.linalg.norm(one.mean(axis=0) - other.mean(axis=0))
    assert between > 3 * max(np.linalg.norm(part - part.mean(axis=0), axis=1).mean() for part in (one, other))


@pytest.mark.parametrize("settings", [PCA, TSNE])
def test_fixed_inputs_become_one_point_a_kind(settings):
    rng = np.random.default_rng(6)
    user, item = rng.normal(size=(2, 16)).astype("float32")
    positions, method = project(np.array([user] * 40 + [item] * 30), settings, "x")
    assert method == "pca"
    assert len(np.unique(positions[:40], axis=0)) == len(np.unique(positions[40:], axis=0)) == 1
    assert np.linalg.norm(positions[0] - positions[-1]) == pytest.approx(np.linalg.norm(user - item), rel=1e-5)
    assert positions[0, 1] == positions[-1, 1] == 0
    assert not project(np.array([user] * 9), settings, "x")[0].any()


def test_embeddings_are_drawn_by_kind_from_a_sample(drawn):
    rng = np.random.default_rng(7)
    points = {label: rng.normal(size=(150, 8)) for label in list(EXPERIMENTS.values())[:4]}
    kinds = ["user"] * 120 + ["item"] * 30
    caption = figure_embeddings(points, kinds, "f.pdf", "f.png", PCA | {"max_points": 50})
    assert "50 users and 30 items" in caption
    shown = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"{label} (PCA)" for label in points]
    assert [len(c.get_offsets()) for c in shown[0].collections] == [50, 30]
    assert [c.get_label() for c in shown[0].collections] == ["user", "item"]
    assert_readable(drawn[0])


GLASSBOX = {"aspects": 24, "clusters": 6}
MYSTERY, FANTASY, ROMANCE = "clever plot twists", "epic battles", "witty banter"


def truth(folder, *pairs: tuple[str, str, list[str]]):
    rows = [{"user_id": user, "item_id": item, "reasons": reasons} for user, item, reasons in pairs]
    write_table(folder / "truth.parquet", rows, TRUTH)
    return folder / "truth.parquet"


def test_clusters_are_those_of_most_true_reasons(tmp_path):
    path = truth(tmp_path, ("u", "i", [FANTASY, MYSTERY]), ("u", "j", [FANTASY]), ("v", "u", [ROMANCE, MYSTERY]))
    kinds, ids = ["user", "user", "user", "item", "item", "item"], ["u", "v", "w", "i", "j", "u"]
    # v and the item u have one reason of each of two clusters: the first counts. w has no pair.
    assert known_clusters(kinds, ids, path, GLASSBOX) == [1, 0, None, 0, 1, 0]
    with pytest.raises(DataError, match=r"truth\.parquet: 'witty banter' is no aspect of the glassbox as configured"):
        known_clusters(kinds, ids, path, GLASSBOX | {"aspects": 8})


def test_embeddings_are_coloured_by_known_clusters(drawn):
    points = {"XRec": np.random.default_rng(7).normal(size=(60, 8))}
    kinds, clusters = ["user"] * 40 + ["item"] * 20, [place % 3 for place in range(60)]
    clusters[5] = None
    caption = figure_embeddings(points, kinds, "f.pdf", "f.png", PCA, clusters)
    assert "most of its true reasons" in caption
    users, items = drawn[0].axes[0].collections
    expected = ["0.75" if one is None else style.COLOURS[one] for one in clusters]
    for found, wanted in ((users, expected[:40]), (items, expected[40:])):
        assert np.allclose(found.get_facecolors(), matplotlib.colors.to_rgba_array(wanted, 0.8))
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ["user", "item", "cluster 1", "cluster 2", "cluster 3", "unknown"]
    assert_readable(drawn[0])
    for other in ([None] * 60, [place % 9 for place in range(60)]):  # nothing known; more clusters than colours
        caption = figure_embeddings(points, kinds, "f.pdf", "f.png", PCA, other)
        assert "true reasons" not in caption and len(drawn[-1].legends[0].get_texts()) == 2


def test_embedding_files_are_reproducible(tmp_path):
    points = {"XRec": np.random.default_rng(8).normal(size=(40, 8))}
    kinds = ["user"] * 25 + ["item"] * 15
    captions = {
        figure_embeddings(points, kinds, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png", TSNE)
        for name in ("one", "two")
    }
    assert len(captions) == 1 and "perplexity 5" in captions.pop()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()


def test_embeddings_that_cannot_be_drawn_are_refused(drawn):
    good = np.zeros((2, 4))
    with pytest.raises(DataError, match="there is no embedding to draw"):
        figure_embeddings({}, ["user"], "f.pdf", "f.png", PCA)
    with pytest.raises(DataError, match=r"XRec: need 3 rows of finite numbers, found shape \(2, 4\)"):
        figure_embeddings({"XRec": good}, ["user"] * 3, "f.pdf", "f.png", PCA)
    with pytest.raises(DataError, match="XRec: need 2 rows of finite numbers"):
        figure_embeddings({"XRec": good * np.nan}, ["user"] * 2, "f.pdf", "f.png", PCA)
    with pytest.raises(ConfigError, match=r"paper\.embeddings\.method: 'umap'; say tsne or pca"):
        figure_embeddings({"XRec": good}, ["user"] * 2, "f.pdf", "f.png", PCA | {"method": "umap"})
