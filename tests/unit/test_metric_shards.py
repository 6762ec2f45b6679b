"""Shards of the judges against one job that scores all."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.chat_server import ChatServer
from tests.unit.test_gptscore import SETTINGS as SERVED
from tests.unit.test_llamascore import SETTINGS, make
from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.errors import DataError
from xrec_repro.io import read_json, write_json, write_table
from xrec_repro.metrics import _blocks
from xrec_repro.metrics._failures import failing
from xrec_repro.metrics.registry import build_metric
from xrec_repro.metrics.score import score_explanations, score_files, write_failure
from xrec_repro.metrics.shards import gather_scores, score_shard
from xrec_repro.shards import Shard

ROWS = 23
PREDICTIONS = [f"{'very ' * (7 * row % 11)}good {row % 9}" for row in range(ROWS)]
REFERENCES = [f"It is {'so ' * (row % 4)}good." for row in range(ROWS)]
PREDICTIONS[20], REFERENCES[20] = PREDICTIONS[3], REFERENCES[3]
PREDICTIONS[21] = "long " * 150


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(_blocks, "_PAIRS", 3)


@pytest.fixture
def explanations(tmp_path):
    rows = [
        {"example_id": f"e{row * 5 % ROWS}", "user_id": "u", "item_id": "i", "reference": reference,
         "prediction": prediction, "prompt_tokens": 1, "new_tokens": 1, "finish_reason": "eos"}
        for row, (prediction, reference) in enumerate(zip(PREDICTIONS, REFERENCES, strict=True))
    ]  # fmt: skip
    write_table(tmp_path / "explanations.parquet", rows, EXPLANATIONS)
    return tmp_path / "explanations.parquet"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("judge"), "whole", context=1000)


def llama(model, **changes):
    return {**SETTINGS, "model": str(model), "batch_size": 2, "min_mass": 0.5, **changes}


def files(folder):
    return [(folder / name).read_bytes() for name in ("scores.parquet", "summary.json")]


def whole(explanations, name, settings):
    folder = explanations.parent / "whole"
    score_explanations(explanations, name, settings, folder / "scores.parquet", folder / "summary.json", "cpu")
    return files(folder)


def sharded(explanations, name, settings, count):
    folder = explanations.parent / f"of{count}"
    parts = [folder / f"{number}.json" for number in range(1, count + 1)]
    for number, part in reversed(list(enumerate(parts, start=1))):
        score_shard(explanations, name, settings, Shard(number, count), part, "cpu")
    gather_scores(explanations, parts, folder / "scores.parquet", folder / "summary.json")
    return files(folder), parts


@pytest.mark.parametrize("mode", ["expected", "parse"])
def test_shards_of_a_local_judge_give_the_bytes_of_the_whole(explanations, model, mode):
    settings = llama(model, mode=mode)
    want = whole(explanations, "llamascore", settings)
    for count in (1, 2, 5, 9):
        got, parts = sharded(explanations, "llamascore", settings, count)
        assert got == want, count
    assert [len(read_json(part)["blocks"]) for part in parts] == [1] * 6 + [0] * 3  # 22 pairs in blocks of 4
    cell = json.loads(want[1])["llamascore"]
    assert (cell["counts"]["too_long"], cell["missing"] > 0, cell["std"] > 0) == (1, True, True)


def test_blocks_score_and_count_as_the_metric_itself(explanations, model):
    for mode, counted in (("expected", "low_mass"), ("parse", "retried")):
        settings = llama(model, mode=mode)
        whole(explanations, "llamascore", settings)
        plain = build_metric("llamascore", settings, "cpu").score(PREDICTIONS, REFERENCES)
        got = pq.read_table(explanations.parent / "whole/scores.parquet")
        np.testing.assert_allclose(got["llamascore"].to_numpy(), plain.columns["llamascore"], rtol=1e-5)
        counts = read_json(explanations.parent / "whole/summary.json")["llamascore"]["counts"]
        assert counts == pytest.approx(plain.counts, rel=1e-6)
        assert counts[counted] > 1
    assert score_files(explanations, explanations, ["llamascore"], {"llamascore": settings}, "cpu") == read_json(
        explanations.parent / "whole/summary.json"
    )


def test_shards_of_a_served_judge_give_the_bytes_of_the_whole(explanations, monkeypatch):
    monkeypatch.setattr(
        "tests.chat_server.answer",
        lambda body: str(len(json.loads(body["messages"][1]["content"])["prediction"]) % 40),
    )
    with ChatServer() as server:
        settings = SERVED | {"base_url": server.url, "concurrency": 3}
        want = whole(explanations, "gptscore", settings)
        asked = len(server.requests)
        got, _ = sharded(explanations, "gptscore", settings, 4)
        assert (got, len(server.requests)) == (want, 2 * asked)
    assert asked == len(set(zip(PREDICTIONS, REFERENCES, strict=True))) == ROWS - 1


def test_shards_that_different_models_have_scored_do_not_join(explanations, monkeypatch):
    monkeypatch.setattr("tests.chat_server.answer", lambda body: "50")
    out = (explanations.parent / "s.parquet", explanations.parent / "s.json")
    with ChatServer() as server:
        settings = SERVED | {"base_url": server.url}
        _, parts = sharded(explanations, "gptscore", settings, 2)
        for name in (None, "tiny", "other"):
            server.answers_as = [(name, None)] * ROWS
            score_shard(explanations, "gptscore", settings, Shard(2, 2), parts[1], "cpu")
            if name != "other":  # silence contradicts nobody
                gather_scores(explanations, parts, *out)
                assert read_json(out[1])["gptscore"]["signature"].endswith("|answered:tiny")
    with pytest.raises(
        DataError, match="gptscore: answered tiny in some shards and other in others; scores of two mod"
    ):
        gather_scores(explanations, parts, *out)


def test_equal_pairs_are_in_one_block(explanations):
    blocks = _blocks._cut(type("Metric", (), {"batch_size": 2})(), PREDICTIONS, REFERENCES)
    assert sorted(row for rows in blocks for row in rows) == list(range(ROWS))
    assert sum({3, 20} <= set(rows) for rows in blocks) == 1
    assert {len({(PREDICTIONS[row], REFERENCES[row]) for row in rows}) for rows in blocks[:-1]} == {4}


def test_parts_that_are_not_the_whole_are_refused(explanations, model):
    _, (one, two) = sharded(explanations, "llamascore", llama(model, mode="expected"), 2)
    out = (explanations.parent / "s.parquet", explanations.parent / "s.json")
    with pytest.raises(DataError, match=r"s\.parquet: no shard has example e\d+; score all shards again"):
        gather_scores(explanations, [one], *out)
    with pytest.raises(DataError, match=r"1\.json: example e\d+ is in another shard too"):
        gather_scores(explanations, [one, two, one], *out)
    write_json(two, read_json(two) | {"signature": "llamascore|of another model"})
    with pytest.raises(DataError, match=r"2\.json: its signature is not that of .*1\.json"):
        gather_scores(explanations, [one, two], *out)


def test_a_shard_that_failed_gives_the_whole_its_reason(explanations, tmp_path):
    write_json(tmp_path / "1.json", {"signature": "llamascore", "blocks": []})
    write_json(tmp_path / "2.json", {"failed": "the model is gone"})
    parts = [tmp_path / "1.json", tmp_path / "2.json"]
    with failing("llamascore") as failure:
        gather_scores(explanations, parts, tmp_path / "scores.parquet", tmp_path / "summary.json")
    assert failure.reason == "the model is gone"
    write_failure(explanations, "llamascore", failure.reason, tmp_path / "scores.parquet", tmp_path / "summary.json")
    assert read_json(tmp_path / "summary.json") == {"llamascore": {"failed": "the model is gone"}}
    assert pq.read_table(tmp_path / "scores.parquet").column_names == ["example_id"]


def test_scores_for_nobody_are_an_error(explanations, model):
    settings = llama(model, mode="expected", min_mass=1.0)
    with pytest.raises(DataError, match="llamascore: not one of 23 examples could be scored"):
        whole(explanations, "llamascore", settings)
    with pytest.raises(DataError, match="llamascore: not one of 23 examples could be scored"):
        sharded(explanations, "llamascore", settings, 3)
