"""What is the answer in a reply of a chat model."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrec_repro.metrics._judge import parse_score, question
from xrec_repro.profiles import prompts
from xrec_repro.profiles.bodies import NoCompletionError, read_body
from xrec_repro.profiles.chat import read_answer
from xrec_repro.profiles.records import ItemText, ReviewText
from xrec_repro.profiles.replies import CUT_THOUGHT, Completion, opened_thought, without_thoughts

WANT = "Fans of epics."
FORM = '{\n    "summarization": "A summarization of what types of users would enjoy this book"\n}'
ITEM = [
    {"role": "system", "content": prompts.system_prompt("amazon", "item")},
    {"role": "user", "content": prompts.item_message("amazon", ItemText("Dune", "A desert planet.", None, None, ()))},
]
EXP = [
    {"role": "system", "content": prompts.system_prompt("amazon", "exp")},
    {"role": "user", "content": prompts.reference_message(ReviewText("Vast and\nslow café."))},
]
ECHOED = json.dumps(json.loads(EXP[1]["content"]), ensure_ascii=False)  # on one line, its letters as they are


def as_json(text=WANT):
    return json.dumps({"summarization": text})


def read(kind, text, truncated=False):
    return read_answer(kind, Completion(text, truncated), 50, ITEM if kind == "item" else EXP)


THOUGHTS = {  # a reply, and what is left of it
    "none": ("85", "85"),
    "think": ("<think>\nHm, 2.\n</think>\n\n85", "85"),
    "empty": ("<think>\n\n</think>\n\n85", "85"),
    "thinking": ("<thinking>Hm.</thinking>85", "85"),
    "reasoning": ("<reasoning>Hm.</reasoning> 85", "85"),
    "upper": ("<THINK>Hm.</THINK>85", "85"),
    "attributes": ('<think effort="low" n=2>Hm.</think>85', "85"),
    "brackets": ("[THINK]Hm.[/THINK]85", "85"),
    "prefixed": ("<seed:think>Hm.</seed:think>85", "85"),
    "spaces": ("< think >Hm.</ think >85", "85"),
    "kimi": ("◁think▷Hm.◁/think▷85", "85"),
    "begin_of_thought": ("<|begin_of_thought|>Hm.<|end_of_thought|>85", "85"),
    "channels": ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>85", "85"),
    "two": ("<think>Hm.</think>8<think>Well.</think>5", "85"),
    "begun twice": ("<think><think>Hm.</think>85", "85"),
    "ended twice": ("<think>Hm.</think>no</think>85", "85"),
    "no beginning": ("Okay, the 2 texts.\n</think>\n\n85", "85"),
    "self-closing": ("<think/>85", "85"),
    "not a tag": ("I <thinkpad> and [thinker] 85", "I <thinkpad> and [thinker] 85"),
}
CUT = {
    "open": "<think>\nOkay, the 2 texts seem",
    "open in brackets": "[THINK]Hm. 85",
    "in the end tag": "<think>Hm. 85</thi",
    "answered before": "85 <think>Is it?",
    "open again": "<think>Hm.</think>85<think>No,",
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_whole_thoughts_are_dropped(name):
    reply, rest = THOUGHTS[name]
    assert without_thoughts(reply) == (rest, "")
    if rest == "85":
        assert parse_score(reply) == 85
        if name != "two":
            assert read("item", reply.replace("85", as_json())) == (WANT, "")
            assert read("exp", reply.replace("85", "They like it.")) == ("They like it.", "")


@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize("name", CUT)
def test_a_thought_without_an_end_is_no_answer(name, truncated):
    reply = CUT[name]
    assert parse_score(reply, truncated) is None
    for kind, answer in (("exp", "They like it."), ("item", as_json())):
        text, problem = read(kind, reply.replace("85", answer), truncated)
        assert (text, "thought" in problem) == ("", True)
        assert (problem == CUT_THOUGHT) == truncated


def test_a_cut_thought_of_a_template_that_opened_it_in_the_prompt_is_no_answer():
    thought = "Okay, the user wants 2 things. " + "It is vast. " * 40
    assert parse_score(thought, truncated=True) is None
    assert read("exp", thought, truncated=True) == ("", CUT_THOUGHT)  # else it would be cut to 50 words and kept
    assert read("exp", "", truncated=True) == ("", CUT_THOUGHT)
    assert read("item", f"So it may be {as_json('A draft.')} or", truncated=True)[0] == ""
    assert read("item", f"```json\n{as_json()}\n``` or", truncated=True) == (WANT, "")


def test_a_prompt_that_opens_a_thought_is_known():
    assert opened_thought("user: hi\nassistant: <think>\n") == "<think>"
    assert opened_thought("assistant: [THINK]") == "[THINK]"
    for prompt in ("assistant: <think>\n\n</think>\n\n", "assistant:", "", "<think> is a tag. assistant:"):
        assert opened_thought(prompt) == ""


# --- Profiles: JSON -------------------------------------------------------------------------------------------

JSON = {
    "bare": as_json(),
    "fence": f"```json\n{as_json()}\n```",
    "upper fence": f"```JSON\n{as_json()}\n```",
    "no language": f"Here is the JSON:\n```\n{as_json()}\n```\nAnything else?",
    "label": f"Answer: {as_json()}",
    "form first": f"{FORM}\n\n{as_json()}",
    "prompt first": f"{ITEM[0]['content']}\n{ITEM[1]['content']}\n{as_json()}",
    "form last": f"{as_json()}\n{FORM}",
    "dots first": f'{{"summarization": "..."}}\n{as_json()}',
    "slot first": f'{{"summarization": "<your text>"}}\n{as_json()}',
    "draft first": f"{as_json('A draft.')} Better:\n{as_json()}",
    "single quotes": f"{{'summarization': '{WANT}'}}",
    "smart quotes": f"{{“summarization”: “{WANT}”}}",
    "smart inside": f"{{‘summarization’: ‘{WANT}’}}",
    "trailing comma": f'{{"summarization": "{WANT}",}}',
    "upper key": f'{{"Summarization": "{WANT}"}}',
    "in a list": f"[{as_json()}]",
    "in an object": f'{{"answer": {as_json()}}}',
    "in a string": json.dumps(as_json()),
    "with another key": f'{{"reasoning": "Hm.", "summarization": "{WANT}"}}',
    "python with another key": f"{{'summarization': '{WANT}', 'reasoning': None}}",
    "lines": '{\n"summarization":\n"Fans\nof epics."}',
    "labelled text": f"**Summarization:** {WANT}",
    "labelled text in quotes": f'"summarization": "{WANT}"',
}
NO_JSON = {
    "plain": ("Fans of epics.", "holds no JSON object"),
    "form alone": (FORM, "repeats the form"),
    "dots alone": ('{"summarization": "…"}', "repeats the form"),
    "slot alone": ('{"summarization": "[summary]"}', "repeats the form"),
    "prompt alone": (ITEM[0]["content"], "repeats the form"),
    "item alone": (ITEM[1]["content"], "holds no JSON object"),
    "deep": ('{"a":' * 100_000, "holds no JSON object"),
    "deep list": ('{"summarization": ' + "[" * 100_000, "holds no JSON object"),
    "deep python": ("{'summarization': " + "(" * 300 + "}", "holds no JSON object"),
}


@pytest.mark.parametrize("name", JSON)
def test_json_is_read_in_its_wrappings(name):
    assert read("item", JSON[name]) == (WANT, "")


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_profile_is_refused(name):
    text, problem = NO_JSON[name]
    answer, said = read("item", text)
    assert (answer, problem in said) == ("", True), said


def test_quotes_within_a_value_are_kept():
    assert read("item", '{"summarization": "Fans of "Dune" and of \\"It\\"."}')[0] == 'Fans of "Dune" and of "It".'
    assert read("item", "{'summarization': \"It's for all.\"}")[0] == "It's for all."


# --- References: plain text -----------------------------------------------------------------------------------

LIKED = "The user likes it: it is vast."
PLAIN = {
    "bare": LIKED,
    "quotes": f'"{LIKED}"',
    "guillemets": f"«{LIKED}»",
    "fence": f"```\n{LIKED}\n```",
    "fence with a language": f"```text\n{LIKED}\n```",
    "fence after a label": f"Here is the explanation:\n\n```\n{LIKED}\n```\nAnything else?",
    "answer": f"Answer: {LIKED}",
    "bold label": f"**Explanation:** {LIKED}",
    "bold label, colon outside": f"**Explanation**: {LIKED}",
    "heading": f"### Answer:\n{LIKED}",
    "final": f"It is vast, so:\n\nFinal answer: {LIKED}",
    "draft first": f"Answer: A draft.\nAnswer: {LIKED}",
    "here": f"Sure! Here's a brief explanation: {LIKED}",
    "here and quotes": f'Here is the string in one line: "{LIKED}"',
    "here after more": f"Based on the review, here is the explanation: {LIKED}",
    "json": json.dumps({"explanation": LIKED}),
    "json in a fence": f"```json\n{json.dumps({'reasoning': LIKED})}\n```",
    "json with the review": json.dumps({"review": "Vast and\nslow café.", "explanation": LIKED}),
    "python": f"{{'explanation': '{LIKED}'}}",
    "json string": json.dumps(f'"{LIKED}"'),
    "review first": f"{EXP[1]['content']}\n\n{LIKED}",
    "review first, other JSON": f"{ECHOED}\n{LIKED}",
    "prompt first": f"{EXP[0]['content']}\n\n{EXP[1]['content']}\nassistant\n{LIKED}",
    "tagged": f"<think>Hm.</think><answer>{LIKED}</answer>",
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_text_is_read_in_its_wrappings(name):
    assert read("exp", PLAIN[name]) == (LIKED, "")


@pytest.mark.parametrize(
    "text",
    [
        "The Answer: A Novel of Time is what the user likes.",
        "Here is why the user would enjoy the business: its coffee.",
        "The user finds the answer: coffee.",
        '"Dune" is a "classic".',
        "Okay, so be it is the user's motto.",
        "The user enjoys {braces} and [brackets].",
    ],
)
def test_what_only_looks_like_a_wrapping_stays(text):
    assert read("exp", text) == (text, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (EXP[1]["content"], "repeats the prompt"),
        (EXP[0]["content"], "repeats the prompt"),
        (json.dumps({"text": "Vast and\nslow café."}), "no plain text"),
        ('{"a": "One.", "b": "Two."}', "no plain text"),
        ("{}", "no plain text"),
        ('{"explanation": "The user', "no plain text"),
        ('{"a":' * 100_000, "no plain text"),
        ("<think>Hm.</think>", "empty"),
    ],
)
def test_what_is_no_reference_is_refused(text, problem):
    answer, said = read("exp", text)
    assert (answer, problem in said) == ("", True), said


# --- Judges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 85}', 85),
        ('{"score": "85"}', 85),
        ('{"Score": 85.5, "reason": "2 themes, 3 errors"}', 85.5),
        ('```json\n{"score": 85}\n```', 85),
        ('{"score": 10} No: {"score": 85}', 85),
        (question("I give 5.", "x")[1]["content"] + "\n85", 85),
        ("\\boxed{85}", 85),
        ('{"score": true}', None),
        ('{"score": [85]}', 85),
        ('{"score": "8/10"}', None),
        ('{"score": null}', None),
        ('{"score":' * 50_000 + "85", 85),
        ("Okay, the 2 texts seem", None),
        ("The first of 2 texts is better.", None),
        ("Both have 3 reasons", None),
        ("85 of the themes", None),
    ],
)
def test_a_score_is_told_from_a_count(reply, score):
    assert parse_score(reply) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 85} because', 85),
        ('{"score": 85', None),
        ("Score: 85, since both", 85),
        ("**Score:** 85. Both", 85),
        ("I think 85 because", None),
        ("Okay, the 2 texts seem", None),
        ("2 texts are given, and", None),
        ("The prediction has 2. It", None),
    ],
)
def test_of_a_reply_that_was_cut_off_only_its_beginning_counts(reply, score):
    assert parse_score(reply, truncated=True) == score


TOKENS = st.sampled_from(
    ["<think>", "</think>", "[THINK]", "{", "}", '"', "'", "“", "”", "```", "```json\n", "\n", ":", ",", " ", "\\",
     "85", "/100", "summarization", "score", "Answer", "text", "[", "]", "None", "\ud800"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(TOKENS, max_size=40).map("".join), st.booleans())
def test_no_reply_ends_in_a_traceback(text, truncated):
    for kind in ("item", "exp"):
        answer, problem = read(kind, text, truncated)
        assert bool(answer) != bool(problem) or "words" in problem
        assert "\n" not in answer
    score = parse_score(text, truncated)
    assert score is None or 0 <= score <= 100


# --- Bodies ---------------------------------------------------------------------------------------------------


def body(message, finish="stop", **extra):
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], **extra})


def test_a_completion_says_who_answered():
    text = body({"role": "assistant", "content": "Hi \ud800"}, "length", model="m-1", system_fingerprint="fp_1")
    assert read_body(text) == Completion("Hi \N{REPLACEMENT CHARACTER}", True, "m-1", "fp_1")
    assert read_body(body({"content": "Hi"}, None)) == Completion("Hi", False)
    assert read_body(body({"content": None, "reasoning_content": "Hm"}, "length")) == Completion("", True)
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Hi"}]
    assert read_body(body({"content": parts})) == Completion("Hi", False)


def test_an_event_stream_is_joined():
    def event(**choice):
        return "data: " + json.dumps({"model": "m@main", "choices": [{"index": 0, **choice}]}, ensure_ascii=False)

    pieces = [event(delta={"role": "assistant"}), event(delta={"content": "Hi\u2028"}), ": still here",
              event(delta={"content": "you"}), event(delta={}, finish_reason="length"), "data: [DONE]"]  # fmt: skip
    for end in ("\n\n", "\r\n\r\n"):
        assert read_body(end.join(pieces)) == Completion("Hi\u2028you", True, "m@main")
    with pytest.raises(NoCompletionError, match="ended early"):
        read_body("\n\n".join(pieces[:3]))
    with pytest.raises(NoCompletionError, match="out of memory"):
        read_body("\n\n".join([*pieces[:2], 'data: {"error": "CUDA "out of memory""}']))


@pytest.mark.parametrize(
    ("text", "words", "status"),
    [
        ('{"error": {"message": "Rate limit exceeded", "code": 429}}', "Rate limit exceeded", 429),
        ('{"error": {"message": "No such model", "code": "model_not_found"}}', "No such model", None),
        ('{"error": "Model is loading", "estimated_time": 20}', "Model is loading", None),
        ('{"error": {"error": {"message": "Deep"}}, "status": "503"}', "Deep", 503),
        ('{"detail": "Not authenticated", "status": 401}', "Not authenticated", 401),
        ('{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required", None),
        ('{"message": "Too many requests", "statusCode": 429}', "Too many requests", 429),
        ('{"errors": ["First", "Second"]}', "First", None),
        ('{"choices": [], "error": {"message": "Overloaded"}}', "Overloaded", None),
        ('{"choices": [{"error": {"code": 502, "message": "Upstream"}, "message": {"content": ""}}]}', "Upstream", 502),
        ('{"choices": [{}]}', "no chat completion", None),
        ('{"choices": {"a": 1}}', "no chat completion", None),
        ('{"message": {"role": "assistant", "content": "x"}}', "no chat completion", None),
        ("[]", "no chat completion", None),
        ("null", "no chat completion", None),
        ("", "the reply is empty", None),
        ("upstream timed out", "no chat completion: upstream timed out", None),
        ("<!DOCTYPE html><html><head><title>Sign in</title><style>p{}</style></head><body><p>Please\nlog in</p></body>",
         "a web page, no chat completion: Sign in Please log in", None),
        ("[" * 100_000, "no chat completion", None),
        (body({"content": 5}), "content is no text", None),
        ('data: 5\n\ndata: {"choices": 7}', "ended early|no chat completion", None),
    ],
)  # fmt: skip
def test_a_body_without_a_completion_gives_the_servers_words(text, words, status):
    with pytest.raises(NoCompletionError, match=words) as caught:
        read_body(text)
    assert caught.value.status == status
