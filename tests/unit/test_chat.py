"""The chat backend against a real HTTP server that fails on demand, and against a tiny local model."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.chat_server import ChatServer, Fault, expected_summary
from tests.fixed_model import END, OTHER_END, fixed_model
from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.profiles import prompts
from xrec_repro.profiles.cache import AnswerCache, answer_key
from xrec_repro.profiles.chat import ChatBackend, read_answer
from xrec_repro.profiles.chat_models import MAX_WAIT_S
from xrec_repro.profiles.local_model import LocalModel
from xrec_repro.profiles.records import ItemText, ReviewText, UserEntry, UserText
from xrec_repro.profiles.replies import Completion

KEY_VARIABLE = "XREC_TEST_CHAT_KEY"
LONG = " ".join(f"word{n}" for n in range(60))


def settings(server_url, **changes):
    return {
        "base_url": server_url,
        "model": "tiny",
        "revision": None,
        "api_key_env": KEY_VARIABLE,
        "temperature": 0.0,
        "max_new_tokens": 160,
        "timeout_s": 5,
        "attempts": 3,
        "concurrency": 1,
    } | changes


def backend(server, folder, waits=None, max_words=50, **changes):
    sleep = waits.append if waits is not None else lambda seconds: None
    return ChatBackend(settings(server.url, **changes), "book", folder, max_words, sleep=sleep)


def books(count):
    return [ItemText(f"Book {n}", f"About {n}.", None, None, ()) for n in range(count)]


def book_messages(count):
    return [prompts.item_message("amazon", book) for book in books(count)]


def book_profiles(count):
    return [expected_summary(message) for message in book_messages(count)]


def json_answer(text):
    return json.dumps({"summarization": text})


# --- What is asked and returned -------------------------------------------------------------------------------


def test_items_users_and_reviews_get_their_texts(tmp_path):
    users = [UserText((UserEntry("Dune", "Fans of epics.", "Vast.", 5.0),))]
    reviews = [ReviewText("I loved the worms.")]
    with ChatServer() as server:
        chat = backend(server, tmp_path)
        assert chat.item_profiles(books(2)) == book_profiles(2)
        assert chat.user_profiles(users) == [expected_summary(prompts.user_message("amazon", users[0]))]
        assert chat.references(reviews) == [expected_summary(prompts.reference_message(reviews[0]))]
        body = server.requests[0]["body"]
    assert body["messages"] == [
        {"role": "system", "content": prompts.system_prompt("amazon", "item")},
        {"role": "user", "content": book_messages(1)[0]},
    ]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.0, 160)
    assert chat.counts == {"asked": 4}


def test_the_domain_or_the_style_selects_the_prompts(tmp_path):
    cafe = [ItemText("Cafe", None, "Cafes", "Reno", ("Good.",))]
    with ChatServer() as server:
        for style, domain in ((None, "business"), ("google", "business")):
            ChatBackend(settings(server.url), domain, tmp_path, 50, style=style).item_profiles(cafe)
        asked = [request["body"]["messages"][0]["content"] for request in server.requests]
    assert asked == [prompts.system_prompt("yelp", "item"), prompts.system_prompt("google", "item")]


def test_results_are_in_input_order_whatever_the_concurrency(tmp_path):
    with ChatServer(delay_s=0.1) as server:
        chat = backend(server, tmp_path, concurrency=4)
        assert chat.item_profiles(books(24)) == book_profiles(24)
        assert 1 < server.most_at_once <= 4


def test_no_more_requests_at_once_than_the_concurrency(tmp_path):
    with ChatServer(delay_s=0.01) as server:
        backend(server, tmp_path, concurrency=1).item_profiles(books(4))
        assert server.most_at_once == 1


def test_equal_prompts_are_asked_once(tmp_path):
    with ChatServer() as server:
        profiles = backend(server, tmp_path, concurrency=4).item_profiles(books(1) * 5)
        assert profiles == book_profiles(1) * 5
        assert len(server.requests) == 1


def test_nothing_to_ask_asks_nothing(tmp_path):
    with ChatServer() as server:
        chat = backend(server, tmp_path)
        assert chat.item_profiles([]) == chat.references([]) == []
        assert server.requests == []


def test_a_user_without_a_history_or_an_empty_review_is_refused(tmp_path):
    known = UserText((UserEntry("Dune", "Fans of epics.", None, None),))
    with ChatServer() as server:
        chat = backend(server, tmp_path)
        with pytest.raises(DataError, match="user 1: has no history"):
            chat.user_profiles([known, UserText(())])
        with pytest.raises(DataError, match="example 1: has an empty review"):
            chat.references([ReviewText("Fine."), ReviewText(" \n")])
        assert server.requests == []


def test_errors_name_the_kind_and_index(tmp_path):
    users = [UserText((UserEntry("Dune", review, None, None),)) for review in ("Vast.", "Dull.")]
    reviews = [ReviewText("Fine."), ReviewText("Bad.")]
    with ChatServer([None, Fault("status", 404), None, Fault("status", 404)]) as server:
        chat = backend(server, tmp_path)
        with pytest.raises(ModelError, match=r"^user 1: "):
            chat.user_profiles(users)
        with pytest.raises(ModelError, match=r"^example 1: "):
            chat.references(reviews)


# --- Failures of the connection and the server ----------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 429),
        Fault("status", 408),
        Fault("status", 500),
        Fault("status", 503),
        Fault("garbled_body"),
        Fault("drop"),
        Fault("hang"),
    ],
    ids=lambda fault: f"{fault.kind}{fault.status if fault.kind == 'status' else ''}",
)
def test_a_passing_failure_is_waited_out(tmp_path, fault):
    waits = []
    with ChatServer([fault, fault]) as server:
        timeout_s = 0.5 if fault.kind == "hang" else 5
        chat = backend(server, tmp_path, waits, timeout_s=timeout_s)
        assert chat.item_profiles(books(1)) == book_profiles(1)
        assert len(server.requests) == 3
    assert len(waits) == 2
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0  # doubles, with jitter between a half and one


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (Fault("status", 503, text="overloaded"), "status 503 (.*overloaded"),
        (Fault("garbled_body"), "the reply is no chat completion"),
        (Fault("drop"), "connection failed"),
        (Fault("hang"), "nothing within 0.5 s"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_lasting_failure_ends_after_the_attempts(tmp_path, fault, problem):
    problem = problem.replace("(", r"\(")
    with ChatServer([fault] * 9) as server:
        timeout_s = 0.5 if fault.kind == "hang" else 5
        with pytest.raises(ModelError, match=f"^item 0: {server.url}: no answer in 3 attempts.*{problem}"):
            backend(server, tmp_path, timeout_s=timeout_s).item_profiles(books(1))
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"error": {"message": "Rate limit exceeded", "code": 429}}', "status 429 (Rate limit exceeded)"),
        ('{"error": "Model is\\nloading"}', "last problem: Model is loading;"),
        ('{"detail": "Busy"}', "last problem: Busy;"),
        ("<html><title>Sign in</title></html>", "a web page, no chat completion: Sign in"),
        ("", "the reply is empty"),
        ('{"error": {"message": "No such key {key}", "code": 503}}', "status 503 (No such key [key])"),
    ],
)
def test_the_servers_words_in_a_reply_of_status_200_are_shown(tmp_path, monkeypatch, body, problem):
    monkeypatch.setenv(KEY_VARIABLE, "sk-very-secret-4711")
    fault = Fault("status", 200, {"Retry-After": "7"}, body=body.replace("{key}", "sk-very-secret-4711"))
    waits = []
    with ChatServer([fault] * 2) as server:  # it passes
        assert backend(server, tmp_path, waits).item_profiles(books(1)) == book_profiles(1)
    assert waits == [7.0, 7.0]
    with ChatServer([fault] * 3) as server, pytest.raises(ModelError) as caught:
        backend(server, tmp_path / "b").item_profiles(books(1))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value) and "sk-very" not in str(caught.value)


def test_a_refusal_in_a_reply_of_status_200_fails_at_once(tmp_path):
    fault = Fault("status", 200, body='{"error": {"message": "Wrong key", "code": 401}}')
    with ChatServer([fault]) as server:
        with pytest.raises(ModelError, match=rf"an error in status 200, status 401 \(Wrong key\); .*{KEY_VARIABLE}"):
            backend(server, tmp_path).item_profiles(books(1))
        assert len(server.requests) == 1


def test_retry_after_is_honoured_and_bounded(tmp_path):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    headers = ["7", "0.25", "86400", soon, "Wed, 01 Jan 2020 00:00:00 GMT"]
    waits = []
    with ChatServer([Fault("status", 429, {"Retry-After": value}) for value in headers]) as server:
        backend(server, tmp_path, waits, attempts=6).item_profiles(books(1))
    assert waits[:3] == [7.0, 0.25, MAX_WAIT_S]
    assert 20 < waits[3] <= 30
    assert waits[4] == 0.0


def test_an_unreadable_retry_after_falls_back_to_the_backoff(tmp_path):
    waits = []
    with ChatServer([Fault("status", 429, {"Retry-After": "later"})]) as server:
        backend(server, tmp_path, waits).item_profiles(books(1))
    assert 0.5 <= waits[0] <= 1.0


def test_the_jitter_follows_the_seed(tmp_path):
    waits = {}
    for run, seed in enumerate((1, 1, 2)):
        with ChatServer([Fault("drop")] * 2) as server:
            waits[run] = []
            chat = ChatBackend(
                settings(server.url, revision="r1"), "book", tmp_path / str(run), 50, seed=seed, sleep=waits[run].append
            )
            chat.item_profiles(books(1))
    assert waits[0] == waits[1] != waits[2]


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(400, "max_new_tokens"), (401, KEY_VARIABLE), (403, KEY_VARIABLE), (404, "base_url")],
)
def test_a_refusal_fails_at_once(tmp_path, status, remedy):
    waits = []
    with ChatServer([Fault("status", status, text="no such thing")]) as server:
        with pytest.raises(ModelError) as caught:
            backend(server, tmp_path, waits).item_profiles(books(3))
        assert len(server.requests) == 1
        assert server.url in str(caught.value)
    assert waits == []
    for part in (f"status {status}", "no such thing", remedy):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_gets_the_limit_that_it_wants_and_no_temperature_that_it_refuses(tmp_path, caplog):
    with ChatServer() as server:
        server.refused = {
            "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            "temperature": "Unsupported value: 'temperature' does not support 0.0 with this model.",
        }
        chat = backend(server, tmp_path, concurrency=4)
        assert chat.item_profiles(books(6)) == book_profiles(6)
        sent = [request["body"] for request in server.requests if not server.refused.keys() & request["body"]]
    assert [body["max_completion_tokens"] for body in sent] == [160] * 6
    assert chat.report()["settings_not_sent"] == ["temperature"]
    assert sum("refuses temperature 0" in record.message for record in caplog.records) == 1
    again = backend(server, tmp_path)  # from the cache
    again.item_profiles(books(6))
    assert again.report() == chat.report()


@pytest.mark.parametrize("words", ["temperature must be at most 2", "the prompt on temperature is too long"])
def test_another_refusal_of_a_request_is_none_of_its_form(tmp_path, words):
    with ChatServer() as server:
        server.refused = {"temperature": words}
        with pytest.raises(ModelError, match=f"status 400 .*{words}"):
            backend(server, tmp_path).item_profiles(books(1))
        assert len(server.requests) == 1


def test_another_kind_of_content_is_named(tmp_path):
    fault = Fault("status", 200, {"Content-Type": "text/html; charset=utf-8"}, body="<html><title>Hi</title></html>")
    named = r"chat completion: .*Hi \(content type text/html\)"
    with ChatServer([fault] * 3) as server, pytest.raises(ModelError, match=named):
        backend(server, tmp_path).item_profiles(books(1))


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_field_of_thoughts_is_not_the_answer(tmp_path, name, streamed):
    def body(text):
        message = {"role": "assistant", name: json_answer("A thought."), "content": text}
        if not streamed:
            return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "model": "tiny"})
        chunks = [{"choices": [{"delta": {name: message[name]}}]}, {"choices": [{"delta": {"content": text}}]}]
        chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n"

    thoughts = [Fault("status", 200, body=body(text)) for text in (None, json_answer("People."))]
    with ChatServer(thoughts) as server:
        assert backend(server, tmp_path).item_profiles(books(1)) == ["People."]
        assert len(server.requests) == 2


def test_a_server_that_is_not_there_is_named(tmp_path):
    with ChatServer() as server:
        url = server.url
    chat = ChatBackend(settings(url, attempts=2), "book", tmp_path, 50, sleep=lambda seconds: None)
    with pytest.raises(ModelError, match=f"^item 0: {url}: no answer in 2 attempts.*connection failed"):
        chat.item_profiles(books(1))


# --- Answers that cannot be used ------------------------------------------------------------------------------

UNUSABLE = {
    "not json": ("Sure! People who like books.", "holds no JSON object"),
    "another key": ('{"summary": "People."}', "holds no JSON object"),
    "unclosed": ('{"summarization": "Peop', "holds no JSON object"),
    "a list": ('{"summarization": ["People"]}', "is not a string"),
    "the word none": (json_answer("None."), '"None"'),
    "null": ('{"summarization": null}', '"None"'),
    "blank": (json_answer("  "), "empty"),
    "nothing": ("", "holds no JSON object"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_answer_is_asked_for_again(tmp_path, case):
    text, _ = UNUSABLE[case]
    with ChatServer([Fault("content", text=text)]) as server:
        chat = backend(server, tmp_path)
        assert chat.item_profiles(books(1)) == book_profiles(1)
        turns = server.requests[1]["body"]["messages"]
    assert chat.counts == {"asked": 2, "unusable": 1}
    if text:
        assert turns[2] == {"role": "assistant", "content": text}
        assert turns[3]["content"].startswith("That answer cannot be used: ")
    else:
        assert len(turns) == 2  # servers refuse an empty turn


@pytest.mark.parametrize("case", UNUSABLE)
def test_only_unusable_answers_end_in_an_error_that_names_the_item(tmp_path, case):
    text, problem = UNUSABLE[case]
    faults = [None, *[Fault("content", text=text)] * 3]
    with ChatServer(faults) as server:
        with pytest.raises(ModelError) as caught:
            backend(server, tmp_path).item_profiles(books(2))
        assert len(server.requests) == 4
    assert str(caught.value).startswith("item 1: could not get a valid answer from tiny in 3 attempts")
    assert problem in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        json_answer("Fans of epics."),
        f"```json\n{json_answer('Fans of epics.')}\n```",
        f"Here you {{go}}: {json_answer('Fans of epics.')} Anything else?",
        '{\n  "summarization": "Fans\n of   epics."\n}',
    ],
)
def test_a_json_answer_is_found_in_its_wrapping(text):
    assert read_answer("item", Completion(text, truncated=False), 50) == ("Fans of epics.", "")


@pytest.mark.parametrize(
    "text",
    ['"They like it."', "They\nlike it.", "“They like it.”", "'They like it.'", '```\n"They like it."\n```'],
)
def test_a_plain_answer_is_one_line_without_quotes(text):
    assert read_answer("exp", Completion(text, truncated=False), 50) == ("They like it.", "")


def test_a_plain_answer_keeps_quotes_inside_it():
    text = '"Dune" is what the user calls a "classic" book.'
    assert read_answer("exp", Completion(text, truncated=False), 50) == (text, "")


def test_a_plain_answer_stopped_in_mid_sentence_is_unusable(tmp_path):
    with ChatServer([Fault("content", text="The user would", finish_reason="length")]) as server:
        chat = backend(server, tmp_path)
        review = ReviewText("Vast.")
        assert chat.references([review]) == [expected_summary(prompts.reference_message(review))]
    assert chat.counts["unusable"] == 1


def test_a_lone_surrogate_becomes_text_that_can_be_written(tmp_path):
    with ChatServer([Fault("content", text='{"summarization": "Fans \\ud83d"}')]) as server:
        assert backend(server, tmp_path).item_profiles(books(1)) == ["Fans \N{REPLACEMENT CHARACTER}"]


def test_a_thought_is_no_part_of_a_reference(tmp_path):
    cut, whole = "<think>\nOne reason is", "<think>\nOne.\n</think>\n\nThe user enjoys its coffee."
    with ChatServer([Fault("content", text=cut, finish_reason="length"), Fault("content", text=whole)]) as server:
        assert backend(server, tmp_path).references([ReviewText("Coffee.")]) == ["The user enjoys its coffee."]
    faults = [Fault("content", text=cut, finish_reason="length")] * 3
    with ChatServer(faults) as server, pytest.raises(ModelError, match="thought was cut off at max_new_tokens; raise"):
        backend(server, tmp_path).references([ReviewText("Tea.")])


def test_deep_nesting_is_an_unusable_answer():
    text, problem = read_answer("item", Completion('{"a":' * 3000, truncated=True), 50)
    assert text == ""
    assert "holds no JSON object" in problem


# --- Answers that are too long --------------------------------------------------------------------------------


def test_a_long_answer_is_asked_for_once_more(tmp_path):
    with ChatServer([Fault("content", text=json_answer(LONG))]) as server:
        chat = backend(server, tmp_path)
        assert chat.item_profiles(books(1)) == book_profiles(1)
        note = server.requests[1]["body"]["messages"][3]["content"]
    assert "60 words" in note
    assert "at most 50" in note
    assert chat.counts == {"asked": 2, "over_long": 1}


@pytest.mark.parametrize("second", [json_answer(LONG), "nonsense"])
def test_a_second_unfit_answer_leads_to_a_cut_at_a_word(tmp_path, second):
    faults = [Fault("content", text=json_answer(LONG)), Fault("content", text=second)]
    with ChatServer(faults) as server:
        chat = backend(server, tmp_path, attempts=5)
        assert chat.item_profiles(books(1)) == [" ".join(LONG.split()[:50])]
        assert len(server.requests) == 2
    assert chat.counts["cut"] == 1


def test_a_single_attempt_cuts_at_once(tmp_path):
    with ChatServer([Fault("content", text=LONG)]) as server:
        texts = backend(server, tmp_path, attempts=1, max_words=7).references([ReviewText("Vast.")])
        assert len(server.requests) == 1
    assert texts == [" ".join(LONG.split()[:7])]


def test_the_word_limit_is_told_to_the_model_and_part_of_the_key(tmp_path):
    with ChatServer() as server:
        for max_words in (50, 30, 30):
            backend(server, tmp_path, max_words=max_words).item_profiles(books(1))
        systems = [request["body"]["messages"][0]["content"] for request in server.requests]
    assert ["50 words" in systems[0], "30 words" in systems[1], len(systems)] == [True, True, 2]


# --- The cache ------------------------------------------------------------------------------------------------


# --- Texts without an answer -----------------------------------------------------------------------------------


def test_a_share_of_texts_may_stay_without_an_answer(tmp_path, caplog):
    no = Fault("content", text="I cannot help with that.")
    filtered = Fault("status", 400, text="flagged by our content filter")
    with ChatServer([None, no, no, None, filtered]) as server:
        chat = backend(server, tmp_path, attempts=2, max_unanswered=0.5)
        texts = chat.item_profiles(books(4))
        assert texts == [text if n in (0, 2) else "" for n, text in enumerate(book_profiles(4))]
        assert chat.counts["unanswered"] == 2
        warned = [record.message for record in caplog.records if "left without a text" in record.message]
        assert "item 1: could not get" in warned[0] and "last reply: 'I cannot help with that.'" in warned[0]
        assert "item 3:" in warned[1] and "content filter" in warned[1]
        server.faults.extend([no, no])  # the next run asks just for them again
        again = backend(server, tmp_path, attempts=2, max_unanswered=0.25)
        assert again.item_profiles(books(4)) == [*texts[:3], book_profiles(4)[3]]
        server.faults.extend([no] * 4)
        with pytest.raises(ModelError, match=r"^item 0: could not get a valid answer .*max_unanswered"):
            backend(server, tmp_path / "b", attempts=2, max_unanswered=0.4).item_profiles(books(2))


def test_a_rerun_asks_nothing(tmp_path):
    with ChatServer() as server:
        first = backend(server, tmp_path, concurrency=3).item_profiles(books(6))
        again = backend(server, tmp_path)
        assert again.item_profiles(books(6)) == first
        assert len(server.requests) == 6
    assert again.counts == {"cached": 6}


def test_a_full_cache_needs_neither_server_nor_key(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with ChatServer() as server:
        backend(server, tmp_path, revision="r1").item_profiles(books(2))
    remote = ChatBackend(settings("https://chat.example.org/v1", revision="r1"), "book", tmp_path, 50)
    assert remote.item_profiles(books(2)) == book_profiles(2)


def test_answers_before_a_failure_are_kept(tmp_path):
    with ChatServer([None] * 4 + [Fault("status", 401)]) as server:
        with pytest.raises(ModelError, match=r"^item 4: "):
            backend(server, tmp_path).item_profiles(books(9))
        assert len(server.requests) == 5
        assert backend(server, tmp_path).item_profiles(books(9)) == book_profiles(9)
        asked = server.asked()
    assert [asked[message] for message in book_messages(9)] == [1, 1, 1, 1, 2, 1, 1, 1, 1]


def test_answers_before_a_kill_are_kept(tmp_path):
    script = """
        import sys
        from xrec_repro.profiles.chat import ChatBackend
        from xrec_repro.profiles.records import ItemText
        chat = dict(base_url=sys.argv[1], model="tiny", revision=None, api_key_env="NO_SUCH_KEY", temperature=0.0,
                    max_new_tokens=160, timeout_s=5, attempts=3, concurrency=2)
        books = [ItemText(f"Book {n}", f"About {n}.", None, None, ()) for n in range(40)]
        ChatBackend(chat, "book", sys.argv[2], 50).item_profiles(books)
    """
    with ChatServer(delay_s=0.1) as server:
        command = [sys.executable, "-c", textwrap.dedent(script), server.url, str(tmp_path)]
        child = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while len(server.requests) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
        server.delay_s = 0.0
        kept = AnswerCache(tmp_path)
        before = len(kept)
        assert 0 < before < 40
        system = {"role": "system", "content": prompts.system_prompt("amazon", "item")}
        questions = {message: [system, {"role": "user", "content": message}] for message in book_messages(40)}
        in_cache = [text for text in questions if kept.get(answer_key(settings(server.url), questions[text]))]
        assert backend(server, tmp_path).item_profiles(books(40)) == book_profiles(40)
        asked = server.asked()
    assert len(in_cache) == before
    assert all(asked[message] == 1 for message in in_cache)


# --- Which model answers --------------------------------------------------------------------------------------


def test_who_answered_is_kept_and_reported(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="xrec_repro")
    with ChatServer() as server:
        server.answers_as = [("tiny-0125", "fp_1"), ("tiny-0125", "fp_2"), ("tiny-0125", "fp_1")]
        chat = backend(server, tmp_path)
        chat.item_profiles(books(3))
    assert chat.report() == {"answered_by": "tiny-0125", "fingerprints": ["fp_1", "fp_2"]}
    said = [record for record in caplog.records if "asked for the model tiny, and tiny-0125 answers" in record.message]
    assert [record.levelname for record in said] == ["INFO"]  # an alias, said once
    again = backend(server, tmp_path)
    again.item_profiles(books(3))
    assert again.report() == chat.report()


def test_another_model_than_asked_for_is_a_warning(tmp_path, caplog):
    with ChatServer() as server:
        server.answers_as = [("other", "")] * 2
        backend(server, tmp_path).item_profiles(books(2))
    assert [r.levelname for r in caplog.records if "and other answers" in r.message] == ["WARNING"]


def test_texts_of_two_models_do_not_mix(tmp_path):
    both = r"tiny-1 answered before, now tiny-2; .* set profiles\.chat\.model .* profiles\.chat\.revision"
    with ChatServer() as server:
        server.answers_as = [("tiny-1", ""), ("tiny-2", "")]
        with pytest.raises(ModelError, match=f"^item 1: {both}"):
            backend(server, tmp_path).item_profiles(books(2))
        server.answers_as = [("tiny-2", "")]
        with pytest.raises(ModelError, match=both):  # one kept answer of the first model
            backend(server, tmp_path).item_profiles(books(2))
        assert len(AnswerCache(tmp_path)) == 1
        server.answers_as = [("tiny-2", "")] * 2
        chat = backend(server, tmp_path, revision="second")
        chat.item_profiles(books(2))
    assert chat.report()["answered_by"] == "tiny-2"


def test_a_server_that_does_not_say_who_answers(tmp_path):
    with ChatServer() as server:
        server.answers_as = [(None, None)] * 2
        chat = backend(server, tmp_path)
        assert chat.item_profiles(books(2)) == book_profiles(2)
    assert chat.report() == {"answered_by": None, "fingerprints": []}


# --- The key --------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_shown_nowhere(tmp_path, monkeypatch, caplog, capfd):
    secret = "sk-very-secret-4711"
    monkeypatch.setenv(KEY_VARIABLE, f"{secret}\n")
    caplog.set_level(logging.DEBUG)
    faults = [None, Fault("status", 500), Fault("content", text="bad"), None, Fault("status", 401)]
    with ChatServer(faults) as server:
        chat = backend(server, tmp_path)
        with pytest.raises(ModelError) as caught:
            chat.item_profiles(books(4))
        assert all(r["headers"]["Authorization"] == f"Bearer {secret}" for r in server.requests)
        assert len(server.requests) == 5
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
    kept = list(tmp_path.glob("*/*.json"))
    assert len(kept) == 2
    shown += "".join(path.read_text() for path in kept) + repr(chat.counts) + repr(vars(chat))
    assert "[key]" in str(caught.value)  # the server echoed it
    assert secret not in shown


def test_the_key_is_not_shown_after_lasting_failures(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-very-secret-4711")
    with (
        ChatServer([Fault("status", 503)] * 3) as server,
        pytest.raises(ModelError, match=r"status 503 .*\[key\]") as caught,
    ):
        backend(server, tmp_path).item_profiles(books(1))
    assert "sk-very-secret-4711" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", [None, "  "])
def test_a_missing_key_names_its_variable(tmp_path, monkeypatch, value):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY_VARIABLE, value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-the-one-asked-for")
    chat = ChatBackend(settings("https://chat.example.org/v1"), "book", tmp_path, 50)
    with pytest.raises(ConfigError, match=f"https://chat.example.org/v1 needs a key.*{KEY_VARIABLE}"):
        chat.item_profiles(books(1))


@pytest.mark.parametrize("value", ["sk-“smart”-quotes", "sk-two\nlines"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(tmp_path, monkeypatch, value):
    monkeypatch.setenv(KEY_VARIABLE, value)
    with ChatServer() as server, pytest.raises(ConfigError, match=f"{KEY_VARIABLE}.*no key can") as caught:
        backend(server, tmp_path).item_profiles(books(1))
    assert "sk-" not in str(caught.value)


def test_a_loopback_server_needs_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-the-one-asked-for")
    with ChatServer() as server:
        assert backend(server, tmp_path).item_profiles(books(1)) == book_profiles(1)
        assert "sk-not" not in server.requests[0]["headers"]["Authorization"]


def test_a_proxy_of_the_environment_does_not_catch_loopback(tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with ChatServer() as server:
        assert backend(server, tmp_path).item_profiles(books(1)) == book_profiles(1)


def test_a_password_in_the_url_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    chat = ChatBackend(settings("https://me:hidden@chat.example.org/v1"), "book", tmp_path, 50)
    with pytest.raises(ConfigError, match=r"https://chat\.example\.org/v1 needs") as caught:
        chat.item_profiles(books(1))
    assert "hidden" not in str(caught.value)


def test_something_that_is_no_url_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="base_url: not a URL"):
        ChatBackend(settings("localhost:8000"), "book", tmp_path, 50).item_profiles(books(1))


# --- A local model --------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A folder with a random two-layer Llama, a word tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    words = ["<unk>", "<eos>", *(f"word{n}" for n in range(60))]
    raw = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def local(chat_model, folder, max_words=6, device="cpu", seed=0, **changes):
    chosen = settings(None, model=str(chat_model), max_new_tokens=12, attempts=2) | changes
    return ChatBackend(chosen, "book", folder, max_words, device=device, seed=seed)


def test_a_local_model_that_talks_nonsense_ends_in_a_clean_error(chat_model, tmp_path):
    with pytest.raises(ModelError) as caught:
        local(chat_model, tmp_path).item_profiles(books(2))
    assert str(caught.value).startswith("item 0: could not get a valid answer from ")
    assert "it stopped at max_new_tokens" in str(caught.value)


def test_a_local_model_reads_special_tokens_of_a_review_as_text(chat_model, tmp_path):
    model = LocalModel(settings(None, model=str(chat_model), max_new_tokens=12), 0, "cpu")
    ends = [
        model.encode([{"role": "system", "content": ""}, {"role": "user", "content": f"word1 {text} word2"}]).count(1)
        for text in ("<eos>", "word3")
    ]
    assert ends[0] == ends[1]


def test_a_local_model_answers_greedily_and_is_cached(chat_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reviews = [ReviewText("word1 word2"), ReviewText("word3 word4 word5")]
    chat = local(chat_model, tmp_path / "a")
    texts = chat.references(reviews)
    assert chat.counts["cut"] == 2  # 12 new words, 6 allowed
    assert local(chat_model, tmp_path / "b").references(reviews) == texts

    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    model = AutoModelForCausalLM.from_pretrained(chat_model).eval()
    system = prompts.system_prompt("amazon", "exp", 6)
    turns = f"system {system} user {prompts.reference_message(reviews[0])} assistant"
    ids = tokenizer(turns, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert texts[0] == tokenizer.decode(ids[0, -6:])

    again = local(chat_model, tmp_path / "a")
    assert again.references(reviews) == texts
    assert again.counts == {"cached": 2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_local_model_reads_prompts_at_once_and_no_answer_depends_on_the_others(
    chat_model, tmp_path, monkeypatch, temperature
):
    reviews = [ReviewText(" ".join(f"word{n}" for n in range(1, 3 + 5 * count))) for count in range(5)]
    sizes, complete = [], LocalModel.complete
    monkeypatch.setattr(LocalModel, "complete", lambda self, asked: sizes.append(len(asked)) or complete(self, asked))
    texts = [
        local(chat_model, tmp_path / str(size), temperature=temperature, concurrency=size).references(reviews)
        for size in (1, 3)
    ]
    assert texts[0] == texts[1] and all(texts[0])
    assert max(sizes) == 3 and sizes.count(1) >= 5


def test_a_template_that_takes_no_system_message_gets_it_with_the_users(chat_model, tmp_path):
    template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    template += "{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
    folder = _with_template(chat_model, tmp_path / "gemma", template)
    model = LocalModel(settings(None, model=str(folder), max_new_tokens=12), 0, "cpu")
    asked = [{"role": "system", "content": "word1"}, {"role": "user", "content": "word2"}]
    assert model.encode(asked) == model._tokenizer("user word1\n\nword2 ", add_special_tokens=False)["input_ids"]


def test_sampling_follows_the_seed_and_leaves_the_global_stream_alone(chat_model, tmp_path):
    import torch

    reviews = [ReviewText("word1 word2")]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    texts = [
        local(chat_model, tmp_path / str(run), seed=seed, temperature=1.0).references(reviews)
        for run, seed in enumerate((1, 1, 2))
    ]
    assert torch.rand(1) == expected
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_over_the_context_is_named(chat_model, tmp_path):
    review = ReviewText("word1 " * 2000)
    with pytest.raises(ModelError, match=r"^example 1: .* exceed its context of 1024; lower"):
        local(chat_model, tmp_path).references([ReviewText("word1"), review])


@pytest.mark.parametrize("lacks", ["*", "*.safetensors", "*token*"])
def test_a_folder_without_all_files_is_named(chat_model, tmp_path, lacks):
    folder = tmp_path / "broken"
    shutil.copytree(chat_model, folder, ignore=shutil.ignore_patterns(lacks))
    with pytest.raises(ModelError, match=r"profiles.chat.model: .*broken cannot be loaded") as caught:
        local(folder, tmp_path).references([ReviewText("word1")])
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_named(chat_model, tmp_path):
    folder = shutil.copytree(chat_model, tmp_path / "broken")
    os.truncate(folder / "model.safetensors", 1000)
    with pytest.raises(ModelError, match=r"profiles.chat.model: .*broken cannot be loaded"):
        local(folder, tmp_path).references([ReviewText("word1")])


def _with_template(chat_model, folder, template):
    from transformers import AutoTokenizer

    shutil.copytree(chat_model, folder, ignore=shutil.ignore_patterns("*token*", "*template*"))
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_without_a_chat_template_is_refused(chat_model, tmp_path):
    folder = _with_template(chat_model, tmp_path / "base", None)
    with pytest.raises(ModelError, match="has no chat template"):
        local(folder, tmp_path).references([ReviewText("word1")])


def test_a_template_that_refuses_the_conversation_is_named(chat_model, tmp_path):
    folder = _with_template(chat_model, tmp_path / "picky", "{{ raise_exception('no system turn') }}")
    with pytest.raises(ModelError, match=r"its chat template refuses the conversation \(no system turn\)"):
        local(folder, tmp_path).references([ReviewText("word1")])


def test_importing_the_backend_imports_no_heavy_library():
    code = (
        "import sys, xrec_repro.profiles.chat; "
        "print([m for m in ('torch', 'transformers', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


# --- Ends and thoughts of a local model ------------------------------------------------------------------------


def said_by(folder, tmp_path, **changes):
    return local(folder, tmp_path / "cache", max_words=20, **changes).references([ReviewText("Vast.")])


@pytest.mark.parametrize("end", [END, OTHER_END])
def test_every_end_of_the_generation_configuration_ends_a_reply(tmp_path, end):
    folder = fixed_model(tmp_path / "m", ["They like", " it.", end, " And more."])
    assert said_by(folder, tmp_path) == ["They like it."]


def test_an_end_of_the_tokenizer_alone_ends_a_reply_too(tmp_path):
    folder = fixed_model(tmp_path / "m", ["They like", " it.", END, " And more."])
    file = folder / "generation_config.json"
    for ends in ("2", "[2]", "null"):
        kept = json.loads(file.read_text()) | {"eos_token_id": json.loads(ends)}
        file.write_text(json.dumps(kept))
        assert said_by(folder, tmp_path / ends) == ["They like it."]


@pytest.mark.parametrize("special", [(), ("[THINK]", "[/THINK]", "<x>")])
def test_a_local_thought_is_dropped_even_where_its_tags_are_special_tokens(tmp_path, special):
    folder = fixed_model(tmp_path / "m", ["[THINK]", "One.", "[/THINK]", "They like it.", END], special=special)
    assert said_by(folder, tmp_path) == ["They like it."]
    with pytest.raises(ModelError, match="thought was cut off"):
        said_by(folder, tmp_path / "b", max_new_tokens=2)


def test_a_thought_that_the_template_opens_is_one_without_an_end(tmp_path):
    pieces = ["Hm.", "</think>", "They like it.", END]
    assert said_by(fixed_model(tmp_path / "m", pieces, opened="<think>"), tmp_path) == ["They like it."]
    with pytest.raises(ModelError, match="the thought has no end"):
        said_by(fixed_model(tmp_path / "n", ["Hm.", "They like it.", END], opened="<think>"), tmp_path)
    with pytest.raises(ModelError, match="thought was cut off"):
        said_by(fixed_model(tmp_path / "o", pieces, opened="<think>"), tmp_path, max_new_tokens=1)


def test_a_local_model_names_itself_by_its_content(tmp_path):
    one = fixed_model(tmp_path / "m", ["They like it.", END])
    chat = local(one, tmp_path / "cache")
    chat.references([ReviewText("Vast.")])
    assert chat.report()["answered_by"].startswith("m@sha256:")
    shutil.rmtree(one)
    fixed_model(one, ["They hate it.", END])
    from xrec_repro.profiles.cache import _digest_once

    _digest_once.cache_clear()  # within one process a folder is read once
    other = local(one, tmp_path / "cache")
    assert other.references([ReviewText("Vast.")]) == ["They hate it."]
    assert other.report() != chat.report()
