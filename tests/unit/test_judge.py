"""What the LLM judges share: the prompt of the study, the reading of replies, and asking again."""

import json
import logging

import numpy as np
import pytest

from xrec_repro.errors import ConfigError
from xrec_repro.metrics._judge import REMINDER, SYSTEM_PROMPT, check_setting, judge, parse_score, question
from xrec_repro.profiles.chat_models import Completion

READ = {
    "85": 85,
    " 85\n": 85,
    "85.": 85,
    "85.5": 85.5,
    ".5": 0.5,
    "0": 0,
    "100": 100,
    "+85": 85,
    "85%": 85,
    "85 %": 85,
    "**85**": 85,
    "`85`": 85,
    "# 85": 85,
    "(85)": 85,
    '"85"': 85,
    "- 85": 85,
    "Score: 85": 85,
    "Score: 85/100": 85,
    "**Score:** **85** / 100": 85,
    "85 out of 100.": 85,
    "100/100": 100,
    "50/100 (50%)": 50,
    "85 points, as the meanings agree.": 85,
    "85\n\nBoth texts praise the plot.": 85,
    "On a scale from 0 to 100, I give 85.": 85,
    "Score (0-100): 85": 85,
    "A number between 0 and 100: 85": 85,
    "85, yes, 85": 85,
    "85.0 (85)": 85,
    "85pts": 85,
    "1e2": 100,
}
UNREAD = [
    "",
    "  \n",
    "I cannot score this.",
    "eighty-five",
    "nan",
    "inf",
    "-5",
    "−5",
    "Score: -5",
    "101",
    "100.01",
    "1000",
    "5e5",
    "8/10",
    "10/10",
    "8 out of 10",
    "85/1000",
    "85/100.5",
    "85-90",
    "85–90",
    "80 or 90",
    "between 80 and 90",
    "from 1 to 100",
    "0-100",
    "0 to 100",
    "/100",
    "85,5",
    "5,5",
    "1,000",
    "5.5.5",
    "1. 85",
    "gpt4: 85",
    "85. It misses 2 themes.",
    "8*5",
    "100-0",
]


def test_the_prompt_is_that_of_the_papers_appendix(shared):
    study = next((shared / "papers").glob("000_*.txt")).read_text(encoding="utf-8")
    appendix = study[study.index("## **E System prompt**") :]
    lines = [line.rstrip() for line in appendix.splitlines()]
    assert SYSTEM_PROMPT.split("\n") == lines[lines.index(SYSTEM_PROMPT.split("\n")[0]) :][:2]


def test_the_question_is_the_json_of_xrec():
    system, user = question('The "café"', "Fun.\n")
    assert system == {"role": "system", "content": SYSTEM_PROMPT}
    assert user == {"role": "user", "content": '{"prediction": "The \\"caf\\u00e9\\"", "reference": "Fun.\\n"}'}


@pytest.mark.parametrize("reply", READ)
def test_one_number_is_read(reply):
    assert parse_score(reply) == READ[reply]


@pytest.mark.parametrize("reply", UNREAD)
def test_anything_else_is_no_score(reply):
    assert parse_score(reply) is None


@pytest.mark.parametrize("number", range(101))
def test_every_whole_number_is_read_in_every_form(number):
    forms = ("{}", "{}.", "{}%", "{}/100", "Score: {}", "**{}**", "{} out of 100", "{}.0", "I give it {}, it fits.")
    assert {parse_score(form.format(number)) for form in forms} == {float(number)}


def test_a_number_that_may_be_cut_off_is_no_score():
    for reply in ("8", "85", "Score: 8", "85.", "85/", "85/10", "85 out of", "85 -"):
        assert parse_score(reply, truncated=True) is None
    for reply in ("85\n", "**85**", "85 because it", "85/100 as"):
        assert parse_score(reply, truncated=True) == 85


class Judge:
    """Replies from a list per prediction; remembers what it was asked."""

    def __init__(self, **replies):
        self.replies = {name: list(texts) for name, texts in replies.items()}
        self.asked = []

    def __call__(self, conversations):
        found = {}
        for row, messages in conversations.items():
            self.asked.append((row, messages))
            name = json.loads(messages[1]["content"].split("\n")[0])["prediction"]
            if self.replies[name]:
                found[row] = Completion(self.replies[name].pop(0), truncated=False)
        return found


def test_unread_replies_are_answered_by_a_reminder_then_missing(caplog):
    ask = Judge(a=["85"], b=["Good.", "Well, 40"], c=["x", "y", "z"])
    with caplog.at_level(logging.WARNING, logger="xrec_repro"):
        values, counts, last = judge(["a", "b", "c"], ["r"] * 3, ask, 3, "judge")
    np.testing.assert_array_equal(values, [85, 40, np.nan])
    assert counts == {"retried": 2, "unparsable": 1}
    assert last == {"reply": ["85", "Well, 40", "z"], "truncated": [False] * 3, "asked": [1, 2, 3]}
    assert "judge: 1 of 3 pairs are without a score: unparsable" in caplog.text
    last = ask.asked[-1][1]
    assert [turn["content"] for turn in last[2:]] == ["x", REMINDER, "y", REMINDER]
    assert [turn["role"] for turn in last] == ["system", "user", "assistant", "user", "assistant", "user"]


def test_no_attempt_repeats_a_prompt_and_no_turn_is_empty():
    ask = Judge(a=["", " \n", "x", "x", ""])
    judge(["a"], ["r"], ask, 5, "judge")
    asked = [json.dumps(messages) for _, messages in ask.asked]
    assert len(set(asked)) == 5
    for _, messages in ask.asked:
        roles = [turn["role"] for turn in messages]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)][: len(roles)]
        assert all(turn["content"].strip() for turn in messages)
    assert ask.asked[1][1][1]["content"].endswith(f"}}\n{REMINDER}")


def test_equal_pairs_are_asked_once_and_counted_each():
    ask = Judge(a=["x", "10"], b=["20"], c=["x", "x"])
    values, counts, last = judge(["a", "b", "a", "c", "c", "a"], ["r"] * 6, ask, 2, "judge")
    np.testing.assert_array_equal(values, [10, 20, 10, np.nan, np.nan, 10])
    assert counts == {"retried": 5, "unparsable": 2}
    assert [row for row, _ in ask.asked] == [0, 1, 3, 0, 3]
    assert last["reply"] == ["10", "20", "10", "x", "x", "10"] and last["asked"] == [2, 1, 2, 2, 2, 2]


def test_pairs_that_were_not_asked_are_counted_apart():
    ask = Judge(a=[], b=["x"], c=["30"])
    values, counts, last = judge(["a", "b", "c"], ["r"] * 3, ask, 2, "judge")
    np.testing.assert_array_equal(values, [np.nan, np.nan, 30])
    assert counts == {"retried": 1, "unparsable": 1, "too_long": 1}  # b's second question found no room
    assert last == {"reply": [None, "x", "30"], "truncated": [None, False, False], "asked": [0, 1, 1]}


def test_one_attempt_asks_once():
    ask = Judge(a=["x"])
    assert judge(["a"], ["r"], ask, 1, "judge")[1] == {"retried": 0, "unparsable": 1}
    assert len(ask.asked) == 1


def test_a_setting_out_of_range_is_named():
    check_setting(True, "gptscore.attempts", 1, "at least 1")
    with pytest.raises(ConfigError, match=r"^metrics\.gptscore\.attempts: 0 cannot be used; it must be at least 1$"):
        check_setting(False, "gptscore.attempts", 0, "at least 1")
