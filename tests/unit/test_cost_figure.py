"""The figure of costs: sums, unknown emissions and failed attempts as they are."""

import pytest
from matplotlib.figure import Figure

from xrec_repro.errors import DataError
from xrec_repro.paper import cost_figure
from xrec_repro.paper.cost_figure import costs_figure

EMISSIONS = {"carbon_intensity": 0.22, "pue": 1.2}


def line(rule: str, seconds: float, kg: float | None = 0.1, outcome: str = "done", **changes) -> dict:
    base = {"rule": rule, "outcome": outcome, "charged_seconds": seconds, "seconds": seconds, "kg_co2": kg}
    base |= {"slurm_seconds": None, "energy_kwh": None, "device": "d", "reason": None if kg is not None else "no power"}
    return base | changes


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Return a function that draws jobs, and returns caption, figure and paths."""
    seen: list[Figure] = []
    monkeypatch.setattr(cost_figure, "save", lambda figure, *paths: seen.append(figure))

    def draw(jobs):
        caption = costs_figure(jobs, tmp_path / "c.pdf", tmp_path / "c.png", EMISSIONS)
        return caption, seen[-1]

    return draw


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_bars_are_the_sums_of_the_rules(drawn):
    jobs = [line("short", 30, 0.0004), line("long", 5400), line("long", 1800, 0.2), line("long", 1800, 0.05, "failed")]
    caption, figure = drawn(jobs)
    time, kilograms = figure.axes
    assert [tick.get_text() for tick in time.get_yticklabels()] == ["long (2)", "short (1)"]
    assert texts(time) == ["2.5 h", "30 s"]
    assert texts(kilograms) == ["350 g", "400 mg"]
    widths = [patch.get_width() for patch in time.patches]
    assert widths == pytest.approx([2.0, 0.5, 1 / 120, 0])
    assert time.get_xlabel() == "time charged (h)"
    assert [text.get_text() for text in figure.legends[0].texts] == ["attempts that succeeded", "attempts that failed"]
    assert "the 3 jobs" in caption
    assert "Attempts that failed: 1." in caption
    assert "× power × time, by each job's share of its node." in caption
    assert "by the jobs' own clocks" in caption


def test_unknown_emissions_are_not_drawn_as_nothing(drawn):
    caption, figure = drawn([line("a", 3, None), line("b", 2, 1.0)])
    assert texts(figure.axes[1]) == ["not known", "1.0 kg"]
    assert "Not known: no power." in caption
    _, figure = drawn([line("a", 3, None)])
    assert texts(figure.axes[1]) == ["not known"]
    assert not figure.legends


def test_the_caption_says_whose_time_it_is(drawn):
    told = line("a", 3, slurm_seconds=3.0)
    assert "Times are Slurm's." in drawn([told])[0]
    assert "Times are Slurm's for 1 of 2 attempts" in drawn([told, line("b", 1)])[0]


def test_the_same_jobs_give_the_same_bytes(tmp_path):
    for name in "ab":
        costs_figure([line("a", 3)], tmp_path / f"{name}.pdf", tmp_path / f"{name}.png", EMISSIONS)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(DataError, match="there is no job to draw"):
        costs_figure([], tmp_path / "a.pdf", tmp_path / "a.png", EMISSIONS)
