"""Chat models that answer one conversation at a time: behind an OpenAI-compatible server, or local.

openai, torch and transformers are imported by the model that needs them, not by this module.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from xrec_repro.device import pick_device
from xrec_repro.end_tokens import end_ids
from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.profiles.bodies import NoCompletionError, read_body
from xrec_repro.profiles.replies import Completion, Messages, is_thought_tag, opened_thought
from xrec_repro.seeding import derive_seed, numpy_rng
from xrec_repro.special_tokens import special_tokens, speller

log = logging.getLogger("xrec_repro")

Settings = dict[str, Any]

DTYPE = "auto"  # of a local model: that of its file
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


class ChatModel(Protocol):
    """A model that continues a conversation."""

    def complete(self, messages: Messages, *names: object) -> Completion:
        """Answer the last message; `names` name the random stream of this answer."""


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


class LocalModel:
    """A chat model run here with transformers, one prompt at a time.

    Args:
        settings: The section ``profiles.chat``.
        seed: Of sampling, which has its own stream for every prompt and attempt.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ModelError: The model cannot be loaded or has no chat template.
        ConfigError: ``cuda`` was asked for and is not there.
    """

    def __init__(self, settings: Settings, seed: int, device: str) -> None:
        from xrec_repro.lm.load import Place, load_causal, local_folder, require_revision, shown_model

        self._settings, self._seed = settings, seed
        name, revision = settings["model"], settings["revision"]
        folder = local_folder(name, "profiles.chat")
        require_revision(name, revision, folder, "profiles.chat")
        self._shown = shown_model(name, revision, folder)
        self._device = pick_device(device)
        place = Place(folder or name, revision, name, self._shown)
        model, self._tokenizer = load_causal(place, "profiles.chat.model", dtype=DTYPE)
        if not self._tokenizer.chat_template:
            raise ModelError(f"profiles.chat.model: {name} has no chat template; choose an instruct model")
        self._spell = speller(special_tokens(self._tokenizer))
        self._model = model.to(self._device).eval()

    def complete(self, messages: Messages, *names: object) -> Completion:
        """Answer the last message, greedily at temperature 0; `names` name the stream of sampling.

        Raises:
            ModelError: The chat template refuses the conversation, or it is too long for the model.
        """
        import torch

        prompt = self._encode(messages)
        settings, temperature = self._settings, self._settings["temperature"]
        if temperature > 0:
            decoding = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        else:
            decoding = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        ends = sorted(end_ids(self._model.generation_config.eos_token_id, self._tokenizer.eos_token_id))
        pad = self._tokenizer.pad_token_id
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(derive_seed(self._seed, "chat-sampling", *names))
            output = self._model.generate(
                input_ids=prompt["input_ids"].to(self._device),
                attention_mask=prompt["attention_mask"].to(self._device),
                max_new_tokens=settings["max_new_tokens"],
                eos_token_id=ends or None,
                pad_token_id=next(iter(ends), None) if pad is None else pad,
                **decoding,
            )
        asked = prompt["input_ids"].shape[1]
        new = output[0, asked:].tolist()
        ended = bool(new) and new[-1] in ends
        said = new[:-1] if ended else new  # an end need not be a special token of the tokenizer
        text = decode_reply(self._tokenizer, said, self._tokenizer.decode(output[0, :asked][-32:]))
        return Completion(text, truncated=bool(new) and not ended, model=self._shown)

    def _encode(self, messages: Messages) -> Any:
        from jinja2 import TemplateError

        # The special tokens of a prompt are the template's: a review that spells one stays text.
        messages = [{**message, "content": self._spell(message["content"])} for message in messages]
        try:
            prompt = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        except TemplateError as error:
            raise ModelError(
                f"{self._settings['model']}: its chat template refuses the conversation ({error}); choose a "
                f"model that takes a system message"
            ) from error
        tokens, new = prompt["input_ids"].shape[1], self._settings["max_new_tokens"]
        context = getattr(self._model.config, "max_position_embeddings", None)
        if context is not None and tokens + new > context:
            raise ModelError(
                f"{self._settings['model']}: {tokens} prompt and {new} new tokens exceed its context of "
                f"{context}; lower profiles.reviews_per_item or items_per_user, or choose another model"
            )
        return prompt


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
