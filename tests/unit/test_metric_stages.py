"""The two jobs that score all seeds of an experiment: what they write, and what a metric that fails leaves."""

import pyarrow.parquet as pq
import pytest

from tests.unit.test_score import explanations
from xrec_repro.io import read_json
from xrec_repro.metrics import stages
from xrec_repro.metrics.usr import METRIC as USR
from xrec_repro.scores import read_scores

TEXTS = (["a b", "a b", "c"], ["a", "b", "c"])


@pytest.fixture
def seeds(tmp_path):
    """The explanations of two seeds, and the folders of their metrics."""
    files, folders = [], []
    for number, texts in enumerate(TEXTS, 1):
        folder = tmp_path / f"seed{number}/metrics"
        for name in ("usr", "gone"):
            (folder / name).mkdir(parents=True)
        files.append(explanations(tmp_path / f"e{number}.parquet", texts))
        folders.append(folder)
    return {"explanations": files}, folders


def test_a_metric_is_built_once_for_all_seeds(seeds, monkeypatch):
    files, folders = seeds
    built, build = [], stages.build_metric
    monkeypatch.setattr(stages, "build_metric", lambda name, *more: built.append(name) or build(name, *more))
    found = stages.score_by_models({"usr": {}}, files, folders, "cpu", "f")
    assert built == ["usr"]
    assert [cell["usr"]["mean"] for cell in found.values()] == pytest.approx([2 / 3, 1])
    for folder, path in zip(folders, found, strict=True):
        assert path == str(folder / "usr/summary.json") and read_json(path) == found[path]
        assert list(read_scores(folder / "usr/scores.parquet")) == ["usr"]


def test_what_is_joined_stands_in_the_order_of_the_metrics(seeds):
    files, folders = seeds
    stages.score_by_models({"usr": {}}, files, folders, "cpu", "f")
    found = stages.score_and_merge({"distinct": {}}, ["usr", "distinct"], files, folders)
    assert [next(iter(cell)) for cell in found.values()] == ["usr", "usr"]
    names = pq.read_schema(folders[1] / "scores.parquet").names
    assert names[:2] == ["example_id", "usr"] and names[2].startswith("distinct")
    assert list(read_json(folders[0] / "summary.json")) == names[1:]
    assert not (folders[0] / "distinct").exists()


@pytest.mark.parametrize("job", ["by_models", "and_merge"])
def test_a_metric_that_fails_leaves_its_reason_and_the_others_their_scores(seeds, monkeypatch, job):
    files, folders = seeds
    score = USR.score

    def fail(self, predictions, *more):
        if predictions == TEXTS[1]:
            raise ValueError("no luck")
        return score(self, predictions, *more)

    monkeypatch.setattr(USR, "score", fail)
    if job == "by_models":
        stages.score_by_models({"usr": {}}, files, folders, "cpu", "f")
        places = [folder / "usr" for folder in folders]
    else:
        stages.score_and_merge({"usr": {}, "distinct": {}}, ["usr", "distinct"], files, folders)
        places = folders
    assert read_json(places[0] / "summary.json")["usr"]["mean"] == pytest.approx(2 / 3)
    assert read_json(places[1] / "summary.json")["usr"] == {"failed": "ValueError: no luck"}
    assert "usr" not in read_scores(places[1] / "scores.parquet")
    assert not (places[0] / "failures.txt").exists()
    assert (places[1] / "failures.txt").read_text() == "ValueError: no luck\n"
