"""What the two LLM judges share: the study's prompt, reading a score from a reply, and asking again.

The protocol is that of XRec's GPTScore (HKUDS/XRec, ``evaluation/metrics.py`` and ``system_prompt.txt``, commit
32d8697), which the study's appendix E quotes and its LlamaScore reuses: the system text below, and both texts as
``json.dumps`` writes them, so that letters outside ASCII come as ``\\u`` escapes. XRec takes the reply by ``float`` and
dies of one that is no number.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xrec_repro.data.text import encodable
from xrec_repro.errors import ConfigError
from xrec_repro.identity import digest_json
from xrec_repro.profiles.replies import Completion, Messages, objects, value_of, without_thoughts

log = logging.getLogger("xrec_repro")

SYSTEM_PROMPT = (
    "Score the given explanation against the ground truth on a scale from 0 to 100, focusing on the alignment of "
    "meanings rather than the formatting.\nProvide your score as a number and do not provide any other text."
)
REMINDER = "That was not one number from 0 to 100. Reply with the score alone: one number, no words, no symbols."
LOWEST, HIGHEST = 0, 100

_MARKUP = re.compile(r"[*_`]")
_OWN_SCALE = re.compile(r"(?<![\d.,])0\s*(?:-|–|to|and)\s*100(?![\d.,]\d)(?!\d)|(?:/|\bout\s+of)\s*100(?!\.?\d)")
_OTHER_SCALE = re.compile(r"(?:/|\bout\s+of)\s*\d")
_NUMBER = re.compile(r"[-−–]?(?:\d+(?:[.,]\d+)*|\.\d+)(?:[eE][-+]?\d+)?")
# After a score, not after a count ("the 2 texts"): one of these words, punctuation or nothing.
_COUNT = re.compile(
    rf"(?:{_NUMBER.pattern})[ \t]+(?!(?:points?|pts|percent|overall|here|because|as|since|for|given|due|based|"
    r"considering|and|but|or|in|on|to|with|is|would|seems|fits|reflects)\b)[^\W\d_]",
    re.IGNORECASE,
)
_FIRST = re.compile(
    rf"[^\w.−–-]*(?:(?:the|my|final|overall|alignment|similarity)\s+)*(?:(?:score|rating|answer|grade)\b)?(?:\s+is)?"
    rf"[\s:=\"'(]*(?:{_NUMBER.pattern})",
    re.IGNORECASE,
)
_MAY_GO_ON = re.compile(r"(?:[\d.,/–-]|\bof)[ \t]*\Z")

# From the row of each question to its conversation, and from the row to the reply; a row without one was not asked.
Ask = Callable[[Mapping[int, Messages]], Mapping[int, Completion]]


def question(prediction: str, reference: str) -> Messages:
    """Return the conversation that asks for the score of one prediction."""
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": json.dumps({"prediction": prediction, "reference": reference})},
    ]


def protocol_digest() -> str:
    """Return a digest of all that the judge is told: the system text, the form of the question, the reminder."""
    return digest_json([question("P", "R"), REMINDER])[:12]


def parse_score(reply: str, truncated: bool = False) -> float | None:
    """Read the one number from 0 to 100 in a reply.

    Thoughts are left out (`replies.without_thoughts`). Markup, a percent sign, words around the number and the scale
    (``/100``, ``out of 100``, ``0-100``) are tolerated, and so is the same number twice. A JSON object with the key
    ``score`` gives it alone; of several the last.

    Args:
        reply: What the judge wrote.
        truncated: Whether it was cut off: then only a number with which it begins counts, bare or as "Score: 85", and
            none at its end, which may lack digits.

    Returns:
        The number; None if there is none, there are several, it is outside the range (a sign counts), it is of
        another scale (``8/10``), it is not written plainly (``85,5``), it counts something ("the 2 texts"), it may be
        cut off, or the reply ends within a thought.
    """
    answer, problem = without_thoughts(reply, truncated)
    if problem:
        return None
    stated = value_of(answer, ["score"], truncated)
    if stated:
        return None if isinstance(stated[-1], bool) else _only_number(str(stated[-1]), False)
    asked_again = [found for found in objects(answer) if {"prediction", "reference"} <= set(found.value)]
    for found in reversed(asked_again):
        answer = answer[: found.start] + answer[found.end :]
    return _only_number(answer, truncated)


def _only_number(reply: str, truncated: bool) -> float | None:
    text = _OWN_SCALE.sub(" ", _MARKUP.sub(" ", reply))
    if truncated and (_MAY_GO_ON.search(reply) or not _FIRST.match(text)):
        return None
    if _OTHER_SCALE.search(text) or _COUNT.search(text):
        return None
    try:
        numbers = {float(found) for found in _NUMBER.findall(text)}
    except ValueError:
        return None
    if len(numbers) != 1:
        return None
    (number,) = numbers
    return number if LOWEST <= number <= HIGHEST else None


def judge(
    predictions: Sequence[str], references: Sequence[str], ask: Ask, attempts: int, name: str
) -> tuple[np.ndarray, dict[str, float], dict[str, list[Any]]]:
    """Have every pair scored, each different pair once.

    A reply without a score is answered by `REMINDER` in the same conversation, which makes every attempt another
    prompt: a greedy model would only repeat itself. After `attempts` replies the pair stays without a score.

    Args:
        predictions: The generated texts.
        references: As many reference texts.
        ask: Gets replies to conversations; see `Ask`.
        attempts: Replies to ask for at most, per pair.
        name: Of the metric, for the log.

    Returns:
        float64 array of shape ``(pairs,)`` with NaN where there is no score, and the number of pairs asked more than
        once (``retried``), of those whose last reply held no score (``unparsable``), and, if there are any, of those
        that `ask` left out (``too_long``). Third the last replies, as `Scores.replies`.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for row, pair in enumerate(zip(predictions, references, strict=True)):
        rows.setdefault(pair, []).append(row)
    equal = {places[0]: places for places in rows.values()}
    values = np.full(len(predictions), np.nan)
    counts = {"retried": 0, "unparsable": 0}
    last: dict[str, list[Any]] = {"reply": [None] * len(values), "truncated": [None] * len(values)}
    last["asked"] = [0] * len(values)
    pending = {places[0]: question(*pair) for pair, places in rows.items()}
    for attempt in range(attempts):
        if attempt == 1:
            counts["retried"] = _size(equal, pending)
        replies = ask(pending) if pending else {}
        if attempt == 0 and len(replies) < len(pending):
            counts["too_long"] = _size(equal, pending.keys() - replies)
        scores = {row: parse_score(reply.text, reply.truncated) for row, reply in replies.items()}
        for row, score in scores.items():
            values[equal[row]] = np.nan if score is None else score
            for place in equal[row]:
                last["reply"][place] = encodable(replies[row].text)
                last["truncated"][place], last["asked"][place] = replies[row].truncated, attempt + 1
        cut = sum(without_thoughts(reply.text, reply.truncated)[1] != "" for reply in replies.values())
        if cut:
            remedy = f"raise metrics.{name}.max_new_tokens, or switch the model's thinking off"
            log.warning("%s: %d of %d replies end within a thought; %s", name, cut, len(replies), remedy)
        pending = {row: _ask_again(pending[row], replies[row].text) for row in scores if scores[row] is None}
    counts["unparsable"] = int(np.isnan(values).sum()) - counts.get("too_long", 0)
    warn_missing(name, counts, len(values))
    return values, counts, last


def warn_missing(name: str, counts: Mapping[str, float], pairs: int) -> None:
    """Log how many pairs of how many got no score, and why."""
    for problem in ("unparsable", "low_mass", "too_long"):
        if counts.get(problem):
            log.warning("%s: %d of %d pairs are without a score: %s", name, counts[problem], pairs, problem)


def _size(equal: Mapping[int, list[int]], some: Iterable[int]) -> int:
    return sum(len(equal[row]) for row in some)


def _ask_again(messages: Messages, reply: str) -> Messages:
    if reply.strip():
        return [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": REMINDER}]
    # Many servers and chat templates refuse an empty turn, and two of one speaker in a row.
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}\n{REMINDER}"}]


def check_setting(holds: bool, key: str, value: object, rule: str) -> None:
    """Raise a `ConfigError` that names the key, its value and what it must be, unless it holds."""
    if not holds:
        raise ConfigError(f"metrics.{key}: {value!r} cannot be used; it must be {rule}")
