"""Shards of the judges against one job that scores all."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.chat_server import ChatServer
from tests.unit.test_gptscore import SETTINGS as SERVED
from tests.unit.test_llamascore import SETTINGS, make
from xrec_repro.contracts import EXPLANATIONS, REPLIES
from xrec_repro.errors import DataError, ModelError
from xrec_repro.io import read_json, read_table, write_json, write_table
from xrec_repro.metrics import _blocks
from xrec_repro.metrics._failures import failing
from xrec_repro.metrics.llamascore import LlamaScore
from xrec_repro.metrics.registry import build_metric
from xrec_repro.metrics.score import score_explanations, score_files, write_failure
from xrec_repro.metrics.shards import gather_scores, score_shard
from xrec_repro.partial import Partial
from xrec_repro.shards import Shard

OUTPUTS = ("scores.parquet", "summary.json", "replies.parquet")
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
    return {**SETTINGS, "model": str(model), "batch_size": 2, "min_mass": 0.5, "attempts": 2, **changes}


def files(folder):
    return [(folder / name).read_bytes() for name in OUTPUTS]


def whole(explanations, name, settings, kept=None):
    folder = explanations.parent / "whole"
    *out, replies = (folder / output for output in OUTPUTS)
    score_explanations(explanations, name, settings, *out, "cpu", kept=kept, out_replies_parquet=replies)
    return files(folder)


def sharded(explanations, name, settings, count):
    folder = explanations.parent / f"of{count}"
    parts = [folder / f"{number}.json" for number in range(1, count + 1)]
    for number, part in reversed(list(enumerate(parts, start=1))):
        score_shard(explanations, name, settings, Shard(number, count), part, "cpu")
    gather_scores(explanations, parts, *(folder / output for output in OUTPUTS))
    return files(folder), parts


@pytest.mark.parametrize(("mode", "counts"), [("expected", (1, 2, 5, 9)), ("parse", (2, 9))])
def test_shards_of_a_local_judge_give_the_bytes_of_the_whole(explanations, model, mode, counts):
    settings = llama(model, mode=mode)
    want = whole(explanations, "llamascore", settings)
    for count in counts:
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
    out = [explanations.parent / f"s.{output}" for output in OUTPUTS]
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
    out = [explanations.parent / f"s.{output}" for output in OUTPUTS]
    with pytest.raises(DataError, match=r"s\.scores\.parquet: no shard has example e\d+; score all shards again"):
        gather_scores(explanations, [one], *out)
    with pytest.raises(DataError, match=r"1\.json: example e\d+ is in another shard too"):
        gather_scores(explanations, [one, two, one], *out)
    write_json(two, read_json(two) | {"signature": "llamascore|of another model"})
    with pytest.raises(DataError, match=r"2\.json: its signature is not that of .*1\.json"):
        gather_scores(explanations, [one, two], *out)


def test_a_shard_that_failed_gives_the_whole_its_reason(explanations, tmp_path):
    write_json(tmp_path / "1.json", {"signature": "llamascore", "blocks": []})
    write_json(tmp_path / "2.json", {"failed": "the model is gone"})
    parts, out = [tmp_path / "1.json", tmp_path / "2.json"], [tmp_path / output for output in OUTPUTS]
    with failing("llamascore") as failure:
        gather_scores(explanations, parts, *out)
    assert failure.reason == "the model is gone"
    write_failure(explanations, "llamascore", failure.reason, *out)
    assert read_json(tmp_path / "summary.json") == {"llamascore": {"failed": "the model is gone"}}
    assert pq.read_table(tmp_path / "scores.parquet").column_names == ["example_id"]
    assert read_table(tmp_path / "replies.parquet", REPLIES).num_rows == 0


def test_scores_for_nobody_are_an_error_whose_replies_are_kept(explanations, model):
    settings = llama(model, mode="expected", min_mass=1.0)
    message = "llamascore: not one of 23 examples could be scored; look at a few replies: "
    with pytest.raises(DataError, match=message + r".*whole/replies\.parquet$"):
        whole(explanations, "llamascore", settings)
    with pytest.raises(DataError, match=message + r".*of3/replies\.parquet$"):
        sharded(explanations, "llamascore", settings, 3)
    out = [explanations.parent / "whole" / output for output in OUTPUTS]
    kept = out[2].read_bytes()
    assert (explanations.parent / "of3/replies.parquet").read_bytes() == kept
    write_failure(explanations, "llamascore", "nobody", *out)
    assert out[2].read_bytes() == kept
    found = read_table(out[2], REPLIES).to_pydict()
    assert found["score"] == [None] * ROWS and found["number_mass"].count(None) == 1  # one is too long


def test_replies_are_kept_as_they_came(explanations, monkeypatch):
    special = {"good 0": [""], "good 2": ["7\r\n", "Fine."], "good 4": ["\ud83d: 7"]}  # half a pair of surrogates

    def answer(body):
        replies = special.get(json.loads(body["messages"][1]["content"].split("\n")[0])["prediction"], ["50"])
        return replies.pop() if len(replies) > 1 else replies[0]

    monkeypatch.setattr("tests.chat_server.answer", answer)
    with ChatServer() as server:
        whole(explanations, "gptscore", SERVED | {"base_url": server.url, "attempts": 2})
    found = read_table(explanations.parent / "whole/replies.parquet", REPLIES)
    assert found["example_id"] == pq.read_table(explanations)["example_id"]
    rows = {(row["reply"], row["asked"], row["score"]): place for place, row in enumerate(found.to_pylist())}
    assert rows == {("", 2, None): 0, ("7\r\n", 2, 7.0): 11, ("\ufffd: 7", 1, 7.0): 22, ("50", 1, 50.0): 21}
    assert set(found["truncated"].to_pylist()) == {False} and found["number_mass"].null_count == ROWS


def test_a_resumed_judge_keeps_the_replies_of_before(explanations, model, monkeypatch):
    settings = llama(model, mode="parse", attempts=2)
    want, partial = whole(explanations, "llamascore", settings), explanations.parent / "scores.partial.jsonl"
    scored, left = LlamaScore.scored, [3]

    def stop(*given):
        left[0] -= 1
        if left[0] < 0:
            raise ModelError("the model is gone")
        return scored(*given)

    monkeypatch.setattr(LlamaScore, "scored", stop)
    with pytest.raises(ModelError):
        whole(explanations, "llamascore", settings, Partial(partial, "same"))
    left[0] = 3  # of 6 blocks
    assert len(Partial(partial, "same").rows) == 3
    assert whole(explanations, "llamascore", settings, Partial(partial, "same")) == want
    found = read_table(explanations.parent / "whole/replies.parquet", REPLIES).to_pydict()
    assert (found["reply"][21], found["asked"][21], found["truncated"][21]) == (None, 0, None)  # too long
    assert found["reply"][3] == found["reply"][20] and None not in found["reply"][:21]
    assert any(score is None and reply for score, reply in zip(found["score"], found["reply"], strict=True))
