"""GPTScore against a real HTTP server that fails on demand."""

import dataclasses
import json
import logging
import traceback
from types import SimpleNamespace

import numpy as np
import pytest

from tests.chat_server import ChatServer, Fault
from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.metrics._judge import REMINDER, SYSTEM_PROMPT, question
from xrec_repro.metrics.gptscore import GptScore
from xrec_repro.metrics.registry import build_metric

KEY_VARIABLE = "XREC_TEST_JUDGE_KEY"
SECRET = "sk-very-secret-4711"
SETTINGS = {
    "model": "tiny",
    "revision": None,
    "temperature": 0.0,
    "max_new_tokens": 16,
    "attempts": 3,
    "api_key_env": KEY_VARIABLE,
    "timeout_s": 5,
    "request_attempts": 3,
    "concurrency": 1,
    "cache": None,
}
NEUTRAL = {"device", "batch_size", "base_url", "api_key_env", "timeout_s", "request_attempts", "concurrency", "cache"}
NONE_EMPTY = {"empty_predictions": 0, "empty_references": 0}


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that were not slept."""
    found = []
    monkeypatch.setattr("xrec_repro.metrics.gptscore.time", SimpleNamespace(sleep=found.append))
    return found


@pytest.fixture
def by_length(monkeypatch):
    """Let the server score a prediction by its length."""

    def answer(body):
        return str(len(json.loads(body["messages"][1]["content"])["prediction"]))

    monkeypatch.setattr("tests.chat_server.answer", answer)


def gpt(server, **changes):
    return GptScore.from_settings({**SETTINGS, "base_url": server.url, **changes})


def content(*texts):
    return [Fault("content", text=text) for text in texts]


def values(metric, count):
    return metric.score(texts(count), ["ref"] * count)


def texts(count):
    return ["x" * (n + 1) for n in range(count)]


def test_the_request_is_the_papers():
    with ChatServer(content("85")) as server:
        scores = gpt(server, temperature=0.5).score(["The café"], ["Fun"])
        body = server.requests[0]["body"]
    assert body["messages"] == [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": '{"prediction": "The caf\\u00e9", "reference": "Fun"}'},
    ]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.5, 16)
    assert scores.columns["gptscore"].tolist() == [85.0]
    assert scores.columns["gptscore"].dtype == np.float64
    assert scores.counts == NONE_EMPTY | {"retried": 0, "unparsable": 0}


@pytest.mark.parametrize("concurrency", [1, 5])
def test_scores_are_in_input_order_whatever_the_concurrency(by_length, concurrency):
    with ChatServer(delay_s=0.2) as server:  # long enough for requests to meet on a busy machine
        found = values(gpt(server, concurrency=concurrency), 8).columns["gptscore"]
        assert found.tolist() == [float(n + 1) for n in range(8)]
        assert server.most_at_once <= concurrency
        assert (server.most_at_once > 1) == (concurrency > 1)


@pytest.mark.parametrize(
    "fault", [Fault("status", 429), Fault("status", 500), Fault("garbled_body"), Fault("drop")], ids=lambda f: f.kind
)
def test_a_passing_failure_is_waited_out(by_length, waits, fault):
    with ChatServer([fault, fault]) as server:
        assert values(gpt(server), 1).columns["gptscore"].tolist() == [1.0]
        assert len(server.requests) == 3
    assert len(waits) == 2


def test_a_lasting_failure_is_an_error_and_keeps_the_replies(by_length, tmp_path):
    with ChatServer([None, None, *[Fault("status", 503)] * 3]) as server:
        metric = gpt(server, cache=str(tmp_path))
        with pytest.raises(ModelError, match=r"^gptscore: example 3 of 5: .*no answer in 3.*metrics\.gptscore\.conc"):
            values(metric, 5)
        assert values(metric, 5).columns["gptscore"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
        asked = server.asked()
    assert [asked[question(text, "ref")[1]["content"]] for text in texts(5)] == [1, 1, 4, 1, 1]


def test_a_refusal_names_the_section():
    with (
        ChatServer([Fault("status", 404)]) as server,
        pytest.raises(ModelError, match=r"example 1 of 1: .*status 404.*check metrics\.gptscore\.base_url"),
    ):
        values(gpt(server), 1)


def test_an_unparsable_reply_is_asked_for_again_then_missing():
    replies = content("85", "I cannot say", "40 or 50", "Score: 30/100", "", "no")
    with ChatServer(replies) as server:
        scores = values(gpt(server), 3)
        last = server.requests[-1]["body"]["messages"]
        assert len(server.requests) == 6
    np.testing.assert_array_equal(scores.columns["gptscore"], [85, 30, np.nan])
    assert scores.counts == NONE_EMPTY | {"retried": 2, "unparsable": 1}
    turns = [("assistant", "40 or 50"), ("user", f"{REMINDER}\n{REMINDER}")]  # no turn for the empty reply
    assert [(turn["role"], turn["content"]) for turn in last[2:]] == turns
    assert scores.replies["reply"] == ["85", "Score: 30/100", "no"] and scores.replies["asked"] == [1, 2, 3]


def test_a_reply_that_was_cut_off_is_not_trusted():
    faults = [Fault("content", text="8", finish_reason="length"), *content("85")]
    with ChatServer(faults) as server:
        assert values(gpt(server), 1).columns["gptscore"].tolist() == [85.0]
    with ChatServer(faults) as server:
        found = values(gpt(server, attempts=1), 2).replies
    assert found == {"reply": ["8", "85"], "truncated": [True, False], "asked": [1, 1]}


@pytest.mark.parametrize("finish", ["length", "stop"])
def test_a_thought_without_an_end_is_no_score(caplog, finish):
    thought = Fault("content", text="<think>\nOkay, the 2 texts seem", finish_reason=finish)
    with ChatServer([thought, *content("<think>2?</think>85")]) as server:
        assert values(gpt(server), 1).columns["gptscore"].tolist() == [85.0]
    assert "gptscore: 1 of 1 replies end within a thought; raise metrics.gptscore.max_new_tokens" in caplog.text
    with ChatServer([thought] * 3) as server, pytest.raises(DataError, match="gptscore: .*not one of 1 examples"):
        values(gpt(server), 1)


def test_the_signature_of_scores_ends_with_the_model_that_answered(by_length, tmp_path):
    with ChatServer() as server:
        server.answers_as = [("tiny-0125", "fp_1"), ("tiny-0125", "fp_2"), (None, None)]
        metric = gpt(server, cache=str(tmp_path))
        scores = values(metric, 3)
        assert values(metric, 3).signature == scores.signature == metric.signature + "|answered:tiny-0125"
        server.answers_as = [(None, None)]
        assert values(gpt(server), 1).signature == metric.signature + "|answered:-"


def test_scores_of_two_models_do_not_mix(by_length, tmp_path):
    both = r"tiny-1 answered before, now tiny-2; .* set metrics\.gptscore\.model .* metrics\.gptscore\.revision"
    with ChatServer() as server:
        server.answers_as = [("tiny-1", ""), ("tiny-2", "")]
        with pytest.raises(ModelError, match=f"^gptscore: example 2 of 2: {both}"):
            values(gpt(server, cache=str(tmp_path)), 2)
        server.answers_as = [("tiny-2", "")]
        with pytest.raises(ModelError, match=both):
            values(gpt(server, cache=str(tmp_path)), 2)


def test_only_unparsable_replies_are_an_error():
    with ChatServer(content("no", "no")) as server, pytest.raises(DataError, match="gptscore: .*not one of 1 examples"):
        values(gpt(server, attempts=2), 1)


def test_a_rerun_asks_nothing_not_even_what_was_unparsable(tmp_path, monkeypatch):
    with ChatServer(content("85", "no", "20", "never", "ever")) as server:
        first = values(gpt(server, attempts=2, cache=str(tmp_path), revision="r1"), 3)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    away = GptScore.from_settings(
        {
            **SETTINGS,
            "attempts": 2,
            "base_url": "https://judge.example.org/v1",
            "cache": str(tmp_path),
            "revision": "r1",
        }
    )
    again = values(away, 3)
    np.testing.assert_array_equal(first.columns["gptscore"], [85, np.nan, 20])
    np.testing.assert_array_equal(again.columns["gptscore"], first.columns["gptscore"])
    assert (again.counts, again.signature) == (first.counts, first.signature)


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"revision": "abc"}, {"temperature": 0.5}, {"max_new_tokens": 8}]
)
def test_what_decides_a_reply_is_part_of_its_key(by_length, tmp_path, change):
    with ChatServer() as server:
        for settings in ({}, change, {"concurrency": 2, "timeout_s": 3}):
            values(gpt(server, cache=str(tmp_path), **settings), 1)
        assert len(server.requests) == 2


def test_signature_names_what_decides_the_values_and_no_address():
    with ChatServer() as server:
        metric = gpt(server)
    parts = metric.signature.split("|")
    digest = parts.pop(6)
    assert parts == [
        "gptscore",
        "model:tiny",
        "rev:-",
        "temperature:0.0",
        "max_new_tokens:16",
        "attempts:3",
        "shots:0",
    ]
    assert digest.startswith("prompt:")
    assert len(digest) == len("prompt:") + 12
    changes = {"model": "m", "revision": "r", "temperature": 1.0, "max_new_tokens": 9, "attempts": 1}
    assert {f.name for f in dataclasses.fields(GptScore)} - NEUTRAL == set(changes)
    signatures = {dataclasses.replace(metric, **{key: value}).signature for key, value in changes.items()}
    assert len(signatures | {metric.signature}) == 6
    neutral = {"base_url": "https://x", "api_key_env": "K", "timeout_s": 1, "request_attempts": 1, "concurrency": 9}
    assert dataclasses.replace(metric, **neutral, cache="c").signature == metric.signature


def test_a_changed_prompt_changes_the_signature(monkeypatch):
    metric = GptScore.from_settings({**SETTINGS, "base_url": "http://127.0.0.1:1/v1"})
    signatures = {metric.signature}
    for name in ("SYSTEM_PROMPT", "REMINDER"):
        with monkeypatch.context() as patch:
            patch.setattr(f"xrec_repro.metrics._judge.{name}", "Be kind.")
            signatures.add(metric.signature)
    assert len(signatures) == 3


def test_the_key_is_sent_and_shown_nowhere(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    caplog.set_level(logging.DEBUG)
    faults = [Fault("status", 500), *content("85", "no", "7"), Fault("status", 401)]
    with ChatServer(faults) as server:
        metric = gpt(server, cache=str(tmp_path))
        with pytest.raises(ModelError) as caught:
            values(metric, 4)
        assert {r["headers"]["Authorization"] for r in server.requests} == {f"Bearer {SECRET}"}
    assert f"{KEY_VARIABLE}" in str(caught.value)
    assert "[key]" in str(caught.value)  # the server echoed it
    assert "\n" not in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
    kept = list(tmp_path.glob("*/*.json"))
    assert len(kept) == 3
    shown += "".join(path.read_text() for path in kept) + metric.signature + repr(metric) + repr(vars(metric))
    assert SECRET not in shown


def test_a_password_in_the_address_is_not_shown(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    metric = GptScore.from_settings({**SETTINGS, "base_url": "https://me:hidden@judge.example.org/v1"})
    with pytest.raises(ConfigError, match=rf"metrics\.gptscore: https://judge.* needs a key.*{KEY_VARIABLE}") as caught:
        values(metric, 1)
    assert "hidden" not in str(caught.value) + repr(metric) + metric.signature


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attempts", 0),
        ("request_attempts", 0),
        ("concurrency", 0),
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("timeout_s", 0),
    ],
)
def test_a_setting_out_of_range_is_refused(key, value):
    with pytest.raises(ConfigError, match=rf"^metrics\.gptscore\.{key}: {value} cannot be used"):
        GptScore.from_settings({**SETTINGS, "base_url": "http://127.0.0.1:1/v1", key: value})


def test_something_that_is_no_url_is_refused():
    metric = GptScore.from_settings({**SETTINGS, "base_url": "localhost:8000"})
    with pytest.raises(ConfigError, match=r"^metrics\.gptscore\.base_url: not a URL"):
        values(metric, 1)


def test_the_registry_knows_it():
    assert isinstance(build_metric("gptscore", {**SETTINGS, "base_url": "http://127.0.0.1:1/v1"}), GptScore)
