"""What is the answer in a reply of a chat model: without thoughts, echoes of the prompt, labels, fences and quotes.

One reading serves profiles, references and judges. Nothing here raises, however odd the reply, and nothing guesses:
what cannot be told apart from a thought or from the prompt is no answer, and is asked for again.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Messages = list[dict[str, str]]

CUT_THOUGHT = "the thought was cut off at max_new_tokens; raise it, or switch the model's thinking off"
_OPEN_THOUGHT = "the thought has no end; raise max_new_tokens, or switch the model's thinking off"

_NAMES = r"(?:think(?:ing)?|thoughts?|reasoning)"
_TAG = re.compile(
    rf"""[<\[◁]\s*(?P<end>/)?\s*(?:\w+:)?{_NAMES}(?:\s[^<>\[\]◁▷]*?)?\s*(?P<empty>/)?\s*[>\]▷]  # <think>, [/THINK]
    | <\|(?:(?:begin|start)|(?P<ended>end))_(?:of_)?{_NAMES}\|>                            # <|end_of_thought|>
    | <\|channel\|>\s*(?:analysis|commentary|(?P<final>final))[^<]*<\|message\|>          # of gpt-oss""",
    re.IGNORECASE | re.VERBOSE,
)
# How a thought begins that a template opened in the prompt: its end, which would tell, is cut off with the rest.
_MUSING = re.compile(
    r"\W*(?:(?:so|first),|(?:okay|ok|alright|all right|hmm+|wait|let me|let['’]s|got it|we (?:need|have|are)|"
    r"i (?:need|have to|should)|i['’]m|the user (?:wants|asks|asked|is asking|has asked|gave|provided))\b)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"(?:```|~~~)[ \t]*[\w+-]*[ \t]*\n(?P<inside>.*?)\n?[ \t]*(?:```|~~~)", re.DOTALL)
_WORD = r"(?:answer|explanation|response|output|reply|string|sentence|text|summary|summarization|profile|score|json)"
_MARKS = r"[ \t#>*_]{0,8}"
_LABEL = re.compile(
    rf"(?:^|\n){_MARKS}(?:(?:final|short|brief|my|your)\s+)*{_WORD}{_MARKS}:[ \t*_]*"
    rf"|\A{_MARKS}(?:(?:sure|certainly|of course|okay|ok|absolutely)\b[^\w\n]{{0,3}}|[^:.\n]{{0,60}},)?\s*"
    rf"(?:here(?:'s|’s|\s+is)|this\s+is)\b[^:.\n]{{0,60}}\b{_WORD}\b[^:.\n]{{0,60}}:[ \t*_]*",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"<((?:final_)?answer|response|output|explanation)>(?P<inside>.+?)</\1>", re.IGNORECASE | re.DOTALL
)
_QUOTES = ('""', "''", "“”", "‘’", "``", "«»", "„“")
_ANY_QUOTE = "[\"'“”‘’`]"


@dataclass(frozen=True)
class Completion:
    """What a model answered.

    Attributes:
        text: The reply, thoughts and all.
        truncated: Whether it was cut off at ``max_new_tokens``, as far as the server says.
        model: The model that answered, by its own account; "" where the server does not say.
        fingerprint: The server's ``system_fingerprint``, "" likewise.
        left_out: The setting that was not sent, since the server refuses it (``temperature``), or "".
    """

    text: str
    truncated: bool
    model: str = ""
    fingerprint: str = ""
    left_out: str = ""


class Found(NamedTuple):
    """A JSON object in a text, and its place there."""

    start: int
    end: int
    value: dict[Any, Any]


def is_thought_tag(text: str) -> bool:
    """Whether a text is a tag that begins or ends a thought."""
    return _TAG.fullmatch(text.strip()) is not None


def opened_thought(prompt: str) -> str:
    """Return the tag with which a prompt opens the thought of its reply, as templates of some models do, else ""."""
    last = [found for found in _TAG.finditer(prompt[-200:]) if not prompt[-200:][found.end() :].strip()]
    return last[0].group() if last and not _ends(last[0]) else ""


def without_thoughts(text: str, truncated: bool = False) -> tuple[str, str]:
    """Drop the thoughts of a reply.

    Whole thoughts are dropped, and so is everything up to an end without a beginning, since some templates open the
    thought in the prompt. A thought without an end makes a reply without an answer, whatever stands before it, and so
    does a reply that was cut off and begins as thoughts do ("Okay, the user wants …").

    Returns:
        The rest from its first letter on, and the problem ("" where there is none); a text with a problem is "".
    """
    kept, place, thinking = "", 0, False
    for tag in _TAG.finditer(text):
        if tag["empty"]:
            kept += "" if thinking else text[place : tag.start()]
        elif _ends(tag):
            kept, thinking = kept if thinking else "", False
        elif not thinking:
            kept, thinking = kept + text[place : tag.start()], True
        place = tag.end()
    if thinking:
        return "", CUT_THOUGHT if truncated else _OPEN_THOUGHT
    kept = (kept + text[place:]).lstrip()
    return ("", CUT_THOUGHT) if truncated and _MUSING.match(kept) else (kept, "")


def _ends(tag: re.Match[str]) -> bool:
    return bool(tag["end"] or tag["ended"] or tag["final"])


def objects(text: str) -> Iterator[Found]:
    """Find the JSON objects in a text, each before those within it; also Python's way of writing them."""
    decoder = json.JSONDecoder(strict=False)
    for brace in re.finditer(r"\{", text):
        try:
            value, end = decoder.raw_decode(text, brace.start())
        except RecursionError:
            return  # so deep that none of the objects within can be told from its beginning in reasonable time
        except ValueError:
            flat = re.compile(r"\{[^{}]*\}").match(text, brace.start())
            value, end = (_literal(flat.group()), flat.end()) if flat else (None, 0)
        if isinstance(value, dict):
            yield Found(brace.start(), end, value)


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def value_of(text: str, keys: Sequence[str], truncated: bool = False) -> list[Any]:
    """Return the values of a key in the JSON objects of a reply, in their order.

    Args:
        text: The reply without its thoughts.
        keys: Names of the key, any of them, in small letters.
        truncated: Whether it was cut off: then only an object with which it begins counts, since what stands before
            another one may be a thought.
    """
    values, behind = [], 0
    for found in objects(text):
        hits = [value for key, value in found.value.items() if str(key).strip().lower() in keys]
        before = text[: found.start].replace("```json", "")
        if not hits or found.start < behind or (truncated and re.search(r"\w", _LABEL.sub("", before))):
            continue
        values.append(hits[-1])
        behind = found.end
    return values


def read_json(text: str, truncated: bool, key: str, prompt: str = "") -> tuple[str, str]:
    """Read the text under a key of the JSON object that a reply should be.

    Text around the object is tolerated. A value that the prompt holds word for word, or that has no letter or stands in
    brackets as a whole ("<summary>"), was copied from the required form and is no answer. Of several others the last
    one counts: models repeat the form or a draft first, and the answer that they settle on last. Without an object, a
    line labelled with the key ("Summarization: …") is taken, if the reply was not cut off.

    Args:
        text: The reply without its thoughts.
        truncated: Whether it was cut off.
        key: Of the answer.
        prompt: What the model was told of the form.

    Returns:
        The text ("" where there is none) and the problem ("" where it can be used).
    """
    text = _unpacked(text)
    values = value_of(text, [key], truncated) or _loose_values(text, key, truncated)
    real = [value for value in values if isinstance(value, str) and not _is_placeholder(value, prompt)]
    if real:
        return real[-1], ""
    if not values:
        labelled = re.findall(
            rf"(?:^|\n){_MARKS}{_ANY_QUOTE}?{key}{_ANY_QUOTE}?{_MARKS}:[ \t*_]*({_ANY_QUOTE}?\w[^\n{{}}]*)", text, re.I
        )
        if len(labelled) == 1 and not truncated:
            return _unquoted(labelled[0].rstrip(" *_")), ""
        why = " (it stopped at max_new_tokens)" if truncated else ""
        return "", f'the answer holds no JSON object with the key "{key}"{why}'
    if values[-1] is None:
        return "", 'the answer is "None"'
    if not isinstance(values[-1], str):
        return "", f'the value of "{key}" is not a string'
    return "", "the answer is empty" if not values[-1].strip() else "the answer repeats the form that the prompt shows"


def _loose_values(text: str, key: str, truncated: bool) -> list[str]:
    """Return values of objects with smart quotes, or with quotes in a value that are not escaped; no further keys."""
    loose = re.compile(
        rf"\{{\s*{_ANY_QUOTE}?{key}{_ANY_QUOTE}?\s*:\s*{_ANY_QUOTE}(?P<value>[^{{}}]*){_ANY_QUOTE}\s*,?\s*\}}", re.I
    )
    found = [] if truncated else [match["value"] for match in loose.finditer(text)]
    further = re.compile(rf"{_ANY_QUOTE}\s*,\s*{_ANY_QUOTE}?\w+{_ANY_QUOTE}?\s*:")
    plain = [re.sub(r"\\([\"'\\/])", r"\1", value) for value in found if not further.search(value)]
    return [re.sub(r"\\[nrt]", " ", value) for value in plain]


def _is_placeholder(value: str, prompt: str) -> bool:
    words = " ".join(value.split())
    bare = not any(letter.isalnum() for letter in words)
    copied = len(words.split()) > 1 and words.lower() in " ".join(prompt.split()).lower()
    return bare or copied or (words[0], words[-1]) in (("<", ">"), ("[", "]"), ("{", "}"))


def read_plain(text: str, question: Messages | None = None) -> tuple[str, str]:
    """Read the text that a reply should be.

    What repeats the question before the answer is dropped, and so are a code fence around it, a label in front of it
    ("Answer:", "Here is the explanation:"; of several the last), quotes around it, and a JSON object with one text in
    it beside those of the question.

    Args:
        text: The reply without its thoughts.
        question: What was asked: the system's and the user's message.

    Returns:
        The text, and the problem ("" where it can be used).
    """
    asked = [turn["content"] for turn in question or []]
    given = {str(value) for message in asked for found in objects(message) for value in found.value.values()}
    rest = _after_echo(_unpacked(text).strip(), asked)
    if text.strip() and not rest:
        return "", "the answer repeats the prompt"
    for _ in range(6):  # wrappings in wrappings
        before, rest = rest, _unwrapped(rest, given)
        if rest == before:
            break
    if rest.startswith(("{", "[{", "```")):
        return "", "the answer is no plain text"
    return rest, ""


def _unwrapped(text: str, given: set[str]) -> str:
    fences = list(_FENCE.finditer(text))
    if len(fences) == 1 and text[: fences[0].start()].rstrip()[-1:] in ("", ":"):
        return fences[0]["inside"].strip()
    tagged = list(_ANSWER.finditer(text))
    if tagged:
        return tagged[-1]["inside"].strip()
    labels = list(_LABEL.finditer(text))
    if labels and text[labels[-1].end() :].strip():
        return text[labels[-1].end() :].strip()
    whole = next(objects(text), None) if text.startswith("{") else None
    if whole and not text[whole.end :].strip():
        own = [value for value in whole.value.values() if isinstance(value, str) and value not in given]
        return own[0].strip() if len(own) == 1 else text
    return _unquoted(text)


def _after_echo(text: str, asked: Sequence[str]) -> str:
    """Drop the messages of the question from the beginning of a reply, as they were sent or as other JSON."""
    for message in asked:
        words = r"\s+".join(map(re.escape, message.split()))
        if words and (echo := re.match(rf"\W*(?:(?:system|user|human)\b\W*)?{words}", text)):
            text = re.sub(r"\A\s*(?:assistant\b:?\s*)?", "", text[echo.end() :])
        sent = next(objects(message), None) if message.startswith("{") else None
        first = next(objects(text), None) if sent else None
        if first and not text[: first.start].strip() and first.value == sent.value:
            text = text[first.end :].strip()
    return text


def _unquoted(text: str) -> str:
    text = text.strip()
    for left, right in _QUOTES:
        if len(text) > 1 and text[0] == left and text[-1] == right:
            return text[1:-1].strip()
    return text


def _unpacked(text: str) -> str:
    """Return the text within a reply that is a JSON string as a whole, as it is."""
    try:
        value = json.loads(text, strict=False) if text.lstrip().startswith('"') else text
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, str) else text


def decode_reply(tokenizer: Any, ids: Sequence[int], prompt: str) -> str:
    """Return the text of new tokens with the tags of a thought, which some tokenizers hold as special tokens.

    Args:
        tokenizer: Of transformers.
        ids: The new tokens.
        prompt: What they follow; where its template has opened a thought, the text begins with that tag.
    """
    special = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    thoughts = any(is_thought_tag(special.get(index, "")) for index in ids)
    if thoughts:
        ids = [index for index in ids if index not in special or is_thought_tag(special[index])]
    return opened_thought(prompt) + tokenizer.decode(ids, skip_special_tokens=not thoughts)
