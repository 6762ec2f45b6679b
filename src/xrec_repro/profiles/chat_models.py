"""A chat model behind an OpenAI-compatible server; `local_model` has the one that runs here.

openai is imported by the model, not by this module.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.profiles.bodies import NoCompletionError, read_body
from xrec_repro.profiles.replies import Completion, Messages
from xrec_repro.seeding import numpy_rng

log = logging.getLogger("xrec_repro")

Settings = dict[str, Any]

MAX_WAIT_S = 60.0
_BACKOFF_S = 1.0
_RETRIED_STATUS = (408, 409, 429)
# Newer models take no max_tokens, or no temperature but their own; their servers say so in status 400 or 422.
_OTHER_LIMIT = re.compile(r"max_completion_tokens")
_NO_TEMPERATURE = re.compile(
    r"temperature\W.*\b(?:not support|unsupported|not (?:allowed|permitted)|deprecated|only the default)"
    r"|(?:unsupported|unknown|unrecognized|unexpected)\b.*\btemperature",
    re.IGNORECASE | re.DOTALL,
)
_FILTER = re.compile(r"content[ _-]?(?:filter|management|policy)|moderation|safety|flagged", re.IGNORECASE)
_JSON_LIKE = re.compile(r"application/(?:[\w.-]+\+)?json|text/event-stream|text/json|")
_REMEDIES = {
    400: "check {section}.model, temperature and max_new_tokens against the server's limits",
    401: "check the key in the environment variable {variable}",
    403: "the key in {variable} may not use this model; check its rights",
    404: "check {section}.base_url (it usually ends in /v1) and {section}.model",
}


class RefusedError(ModelError):
    """A server's filter refuses this prompt, or the answer to it; it answers others."""


class _TransientError(Exception):
    """A failure that may pass: worth the same request again after a while."""

    def __init__(self, problem: str, wait_s: float | None = None) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


class ServerModel:
    """A chat model behind an OpenAI-compatible server.

    Repeats a request after 408, 409, 429 (honouring Retry-After up to `MAX_WAIT_S`), 5xx, a dropped
    connection, a time-out or a reply without a completion, with exponential back-off and jitter, at most `attempts`
    times. A reply of status 200 with an error in it counts as of the status that the error gives.

    A server that wants ``max_completion_tokens`` for ``max_tokens`` gets it. One that refuses the temperature is asked
    without (`Completion.left_out`).

    No seed is sent: some servers refuse fields that they do not know, and none promises the same text for it.

    Args:
        settings: The section of the configuration: base_url, model, api_key_env, temperature, max_new_tokens,
            timeout_s, attempts.
        seed: Of the jitter.
        sleep: Called with the seconds to wait.
        section: The name of that section, for error messages.

    Raises:
        ConfigError: The URL is none, the key holds characters that no header can carry, or the server is
            remote and the key's environment variable is not set.
    """

    def __init__(
        self, settings: Settings, seed: int, sleep: Callable[[float], None], section: str = "profiles.chat"
    ) -> None:
        import openai

        self._settings, self._seed, self._sleep, self._section = settings, seed, sleep, section
        self._said: set[str] = set()
        self._limit, self._sends_temperature = "max_tokens", True
        self._url, loopback = check_url(settings["base_url"], section)
        self._key = _read_key(settings["api_key_env"])
        if not self._key and not loopback:
            raise ConfigError(
                f"{section}: {self._url} needs a key; put it in the environment variable "
                f"{settings['api_key_env']} ({section}.api_key_env)"
            )
        self._client = openai.OpenAI(
            base_url=settings["base_url"],
            api_key=self._key or "none",
            timeout=settings["timeout_s"],
            max_retries=0,
            # A proxy of the environment cannot reach this machine's own loopback.
            http_client=openai.DefaultHttpxClient(trust_env=not loopback),
        )

    def complete(self, messages: Messages, *names: object) -> Completion:
        """Answer the last message; `names` name the stream of the jitter.

        Raises:
            ModelError: The server refuses, or fails `attempts` times; names the URL and the remedy.
        """
        attempts = self._settings["attempts"]
        jitter = numpy_rng(self._seed, "chat-backoff", *names)
        for attempt in range(attempts):
            try:
                return self._request(messages)
            except _TransientError as error:
                problem, wait_s = str(error), error.wait_s
            if attempt + 1 < attempts:
                backoff_s = _BACKOFF_S * 2**attempt * jitter.uniform(0.5, 1.0)
                self._sleep(min(MAX_WAIT_S, backoff_s if wait_s is None else wait_s))
        raise ModelError(
            f"{self._url}: no answer in {attempts} attempts; last problem: {problem}; check the server and "
            f"{self._section}.base_url, or lower {self._section}.concurrency, and run again"
        )

    def _request(self, messages: Messages) -> Completion:
        import openai

        settings, sent = self._settings, self._sampling()
        try:
            reply = self._client.chat.completions.with_raw_response.create(
                model=settings["model"], messages=messages, **sent
            )
        except openai.APITimeoutError:
            raise _TransientError(f"nothing within {settings['timeout_s']:g} s") from None
        except openai.APIConnectionError as error:
            raise _TransientError(f"connection failed ({self._shown(error.__cause__)})") from None
        except openai.APIStatusError as error:
            self._adapt(error.status_code, str(error))
            if self._sampling() != sent:
                return self._request(messages)
            raise self._status_error(error.status_code, error, error.response.headers) from None
        completion = self._read(reply.text, reply.headers)
        return completion if "temperature" in sent else replace(completion, left_out="temperature")

    def _sampling(self) -> dict[str, Any]:
        sampling = {self._limit: self._settings["max_new_tokens"]}
        return sampling | ({"temperature": self._settings["temperature"]} if self._sends_temperature else {})

    def _adapt(self, status: int, words: str) -> None:
        """Send otherwise what a server refuses in this form, from the next request on."""
        if status not in (400, 422):
            return
        if self._limit == "max_tokens" and _OTHER_LIMIT.search(words):
            self._limit = "max_completion_tokens"
            log.info("%s: wants max_completion_tokens for max_tokens, and gets it", self._url)
        elif self._sends_temperature and _NO_TEMPERATURE.search(words):
            self._sends_temperature = False
            log.warning("%s: refuses temperature %g; asked without it", self._url, self._settings["temperature"])

    def _read(self, body: str, headers: Mapping[str, str]) -> Completion:
        try:
            completion = read_body(body)
        except NoCompletionError as error:
            if error.status is None:
                kind = headers.get("content-type", "").split(";")[0].strip().lower()
                named = "" if _JSON_LIKE.fullmatch(kind) else f" (content type {kind})"
                raise _TransientError(self._shown(error) + named, _retry_after(headers.get("retry-after"))) from None
            raise self._status_error(error.status, error, headers, "an error in status 200, ") from None
        asked, answered = self._settings["model"], completion.model
        if answered not in ("", asked, *self._said):
            self._said.add(answered)
            # An alias is answered by the model that it stands for now.
            level = logging.INFO if asked.lower() in answered.lower() else logging.WARNING
            log.log(level, "%s: asked for the model %s, and %s answers", self._url, asked, answered)
        return completion

    def _status_error(
        self, status: int, error: object, headers: Mapping[str, str], where: str = ""
    ) -> ModelError | _TransientError:
        if status in _RETRIED_STATUS or status >= 500:
            wait_s = _retry_after(headers.get("retry-after"))
            return _TransientError(f"{where}status {status} ({self._shown(error)})", wait_s)
        if status in (400, 403, 422) and _FILTER.search(str(error)):
            return RefusedError(f"{self._url}: {where}status {status} ({self._shown(error)})")
        remedy = _REMEDIES.get(status, _REMEDIES[400]).format(
            section=self._section, variable=self._settings["api_key_env"]
        )
        return ModelError(f"{self._url}: {where}status {status} ({self._shown(error)}); {remedy}")

    def _shown(self, error: object) -> str:
        """Return an error's text on one short line, without the key that a server may have echoed."""
        text = " ".join(str(error).split())
        return (text.replace(self._key, "[key]") if self._key else text)[:300]


def _retry_after(header: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (a number or an HTTP date), if any."""
    if header is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _read_key(variable: str) -> str:
    """Return the key in an environment variable, "" where there is none."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the environment variable {variable} holds characters no key can have; set it anew")
    return key


def check_url(base_url: str, section: str) -> tuple[str, bool]:
    """Return the URL as it may be shown (without a password in it) and whether it is this machine.

    Raises:
        ConfigError: It is no URL.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{section}.base_url: not a URL such as http://127.0.0.1:8000/v1")
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    try:
        return shown, host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return shown, False
