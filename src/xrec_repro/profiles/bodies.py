"""Bodies of a chat server's replies: the completion in one, or what the server says instead."""

from __future__ import annotations

import json
import re
from typing import Any

from xrec_repro.data.text import encodable
from xrec_repro.profiles.replies import Completion

_WORDS = ("error", "errors", "message", "detail", "msg", "error_message", "title", "reason")


class NoCompletionError(Exception):
    """The body holds no completion.

    Attributes:
        status: The status that the server means although it answered 200, where it gives one.
    """

    def __init__(self, words: str, status: int | None = None) -> None:
        super().__init__(words)
        self.status = status


def read_body(body: str) -> Completion:
    """Read a chat completion: one JSON object, or the event stream that some servers send unasked.

    Raises:
        NoCompletionError: There is none in it; says what is there instead, the server's own words first.
    """
    try:
        value = _joined(body) if re.match(r"\s*(?:data|event|id|retry)?:", body) else json.loads(body)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise NoCompletionError(_text_words(body)) from None
    error = value.get("error") if isinstance(value, dict) else None
    choice = value.get("choices") if isinstance(value, dict) else None
    choice = choice[0] if isinstance(choice, list) and choice else None
    message = choice.get("message") if isinstance(choice, dict) else None
    error = error or (choice.get("error") if isinstance(choice, dict) else None)
    if error or not isinstance(message, dict) or "content" not in message:
        raise NoCompletionError(_said(error or value), _status(error) or _status(value))
    text = _content(message["content"])
    if text is None:
        raise NoCompletionError("the reply's content is no text")
    return Completion(
        encodable(text),
        truncated=choice.get("finish_reason") in ("length", "max_tokens"),
        model=_name(value.get("model")),
        fingerprint=_name(value.get("system_fingerprint")),
    )


def _joined(body: str) -> dict[str, Any]:
    """Join the chunks of an event stream to the completion that they are pieces of."""
    whole: dict[str, Any] = {}
    text, finish = "", None
    for line in body.split("\n"):  # not splitlines: a text may hold other ends of lines
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = {"error": data}  # of a server that writes its error by hand
        if not isinstance(chunk, dict) or chunk.get("error"):
            return chunk if isinstance(chunk, dict) else {}
        whole |= {name: chunk[name] for name in ("model", "system_fingerprint") if chunk.get(name)}
        for choice in chunk.get("choices") or []:
            piece = choice.get("delta") or choice.get("message") or {}
            text += _content(piece.get("content")) or ""
            finish = choice.get("finish_reason") or finish
    if finish is None:
        return {"message": "the event stream ended early"}
    return whole | {"choices": [{"message": {"content": text}, "finish_reason": finish}]}


def _content(content: Any) -> str | None:
    """Return the text of a message: as it is, "" for none, or the parts of kind text that some servers send."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    if content is None:
        return ""
    return content if isinstance(content, str) else None


def _name(value: Any) -> str:
    return encodable(value).strip() if isinstance(value, str) else ""


def _said(value: Any, depth: int = 0) -> str:
    """Return a server's own words in what it sent, or that there are none."""
    if isinstance(value, str) and value.strip():
        return encodable(value)
    if isinstance(value, list) and value and depth < 4:
        return _said(value[0], depth + 1)
    if isinstance(value, dict) and depth < 4:
        for name in _WORDS:
            if value.get(name):
                return _said(value[name], depth + 1)
    return "the reply is no chat completion"


def _status(value: Any) -> int | None:
    for name in ("code", "status", "status_code", "statusCode", "http_status") if isinstance(value, dict) else ():
        number = str(value.get(name))
        if re.fullmatch(r"[45]\d\d", number):
            return int(number)
    return None


def _text_words(body: str) -> str:
    """Return what a body that is no JSON says: the title or the text of a page, in words."""
    if not body.strip():
        return "the reply is empty"
    if not re.search(r"<\s*(?:!doctype|html|head|body|title)\b", body, re.IGNORECASE):
        return f"the reply is no chat completion: {' '.join(body.split())[:120]}"
    bare = re.sub(r"<(script|style|head)\b.*?</\1\s*>|<[^>]*>", " ", body, flags=re.IGNORECASE | re.DOTALL)
    title = re.search(r"<title[^>]*>(.*?)</title", body, re.IGNORECASE | re.DOTALL)
    shown = " ".join(f"{title[1] if title else ''} {bare}".split())
    return f"the reply is a web page, no chat completion: {shown[:150]}"
