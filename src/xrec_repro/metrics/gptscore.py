"""GPTScore of XRec (Ma et al., 2024): a chat model behind an OpenAI-compatible server scores meaning, 0 to 100."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, ClassVar

from xrec_repro.errors import ModelError
from xrec_repro.metrics._batches import count_empty, warn_of
from xrec_repro.metrics._judge import check_setting, judge, protocol_digest
from xrec_repro.metrics.base import Metric, Scored
from xrec_repro.metrics.columns import Column
from xrec_repro.profiles.cache import AnswerCache, OneModel, answer_key
from xrec_repro.profiles.chat_models import ServerModel
from xrec_repro.profiles.replies import Completion, Messages
from xrec_repro.progress import track

_KEY = "metrics.gptscore"
_DECIDING = ("base_url", "model", "revision", "temperature", "max_new_tokens")


@dataclass(frozen=True, kw_only=True)
class GptScore(Metric):
    """The score from 0 to 100 that a served chat model gives a prediction (`gptscore`).

    Prompt, parsing and repeated questions are those of `xrec_repro.metrics._judge`. XRec asks gpt-3.5-turbo at the
    server's own temperature (1 at OpenAI) and takes one reply. What stays without a score after `attempts` replies is
    NaN; a server that refuses or stays away is an error, and the replies so far are in the cache.

    The server's address is not part of the signature: a model served on a cluster has another one each day. Two
    servers whose models share a name are told apart by `revision`. What a name stands for may change: the signature of
    scores ends with the model that says to have answered, and replies of two models are an error, kept ones included.

    Attributes:
        base_url: The server, e.g. ``https://api.openai.com/v1``.
        model: Its name there; best a dated one, since ``gpt-3.5-turbo`` moves.
        revision: What is served, where the name does not say it, e.g. a commit and number format. In the key of
            the cache it then stands for the address.
        temperature: Of sampling; 0 takes the likeliest reply.
        max_new_tokens: Longest reply.
        attempts: Replies to ask for at most, per pair.
        api_key_env: The environment variable with the key; a server on this machine needs none.
        timeout_s: Seconds to wait for a reply.
        request_attempts: How often a request is sent when the server is busy or the connection fails.
        concurrency: Requests at once.
        cache: Folder where replies are kept, so that a rerun asks nothing twice; None keeps none.
    """

    name: ClassVar[str] = "gptscore"
    columns: ClassVar[Mapping[str, Column]] = {"gptscore": Column("GPTScore", "GPT", decimals=2)}
    may_miss: ClassVar[bool] = True
    neutral: ClassVar[frozenset[str]] = Metric.neutral | {"base_url"}  # the rest: `xrec_repro.neutral.NEUTRAL`

    base_url: str = field(repr=False)  # may hold a password
    model: str
    revision: str | None
    temperature: float
    max_new_tokens: int
    attempts: int
    api_key_env: str
    timeout_s: float
    request_attempts: int
    concurrency: int
    cache: str | None

    def __post_init__(self) -> None:
        for key in ("max_new_tokens", "attempts", "request_attempts", "concurrency"):
            check_setting(getattr(self, key) >= 1, f"gptscore.{key}", getattr(self, key), "at least 1")
        check_setting(self.temperature >= 0, "gptscore.temperature", self.temperature, "0 or more")
        check_setting(self.timeout_s > 0, "gptscore.timeout_s", self.timeout_s, "more than 0")

    def facts(self) -> dict[str, Any]:
        """Return the digest of the prompt, and that it shows no examples."""
        return {"prompt": protocol_digest(), "shots": 0}

    def _columns(self, predictions: Sequence[str], references: Sequence[str]) -> Scored:
        """Return column, counts, replies, and what these tell of the model.

        Under ``answered`` the one that answered, None where the server is silent; under ``not_sent``, if there is any,
        the setting that the server refuses.
        """
        replies = _Replies(self, len(predictions))
        values, counts, last = judge(predictions, references, replies.to, self.attempts, self.name)
        empty = count_empty(predictions, references)
        warn_of(empty, self.name, "judged as they are")
        found = {"answered": replies.answering.name or None}
        if replies.answering.left_out:
            found["not_sent"] = ",".join(sorted(replies.answering.left_out))
        return Scored({self.name: values}, counts | empty, found, last)


class _Replies:
    """Replies of the server, through the cache. The server is needed only when there is something left to ask.

    Attributes:
        answering: The model that answers.
    """

    def __init__(self, metric: GptScore, rows: int) -> None:
        self._metric, self._rows = metric, rows
        self._cache = None if metric.cache is None else AnswerCache(metric.cache)
        self._server_model: ServerModel | None = None
        self.answering = OneModel(_KEY)

    def to(self, conversations: Mapping[int, Messages]) -> dict[int, Completion]:
        settings = {name: getattr(self._metric, name) for name in _DECIDING}
        keys = {row: answer_key(settings, messages, section=_KEY) for row, messages in conversations.items()}
        kept = {} if self._cache is None else {row: self._cache.get(key) for row, key in keys.items()}
        found = {row: completion for row, completion in kept.items() if completion}
        for completion in found.values():
            self.answering.note(completion)
        missing = {row: messages for row, messages in conversations.items() if row not in found}
        return found | self._ask(missing, keys) if missing else found

    def _ask(self, conversations: Mapping[int, Messages], keys: Mapping[int, str]) -> dict[int, Completion]:
        model, failed = self._server(), threading.Event()

        def reply(row: int) -> tuple[int, Completion] | None:
            if failed.is_set():
                return None
            try:
                completion = model.complete(conversations[row], keys[row])
                self.answering.note(completion)
            except ModelError as error:
                failed.set()
                raise ModelError(f"gptscore: example {row + 1} of {self._rows}: {error}") from None
            if self._cache is not None:
                self._cache.add(keys[row], completion)
            return row, completion

        executor = ThreadPoolExecutor(max_workers=self._metric.concurrency)
        try:
            futures = [executor.submit(reply, row) for row in conversations]
            replies = [future.result() for future in track(as_completed(futures), "gptscore", len(futures))]
        finally:
            # Requests under way still reach the cache; those not yet begun are given up.
            executor.shutdown(wait=True, cancel_futures=True)
        return dict(filter(None, replies))

    def _server(self) -> ServerModel:
        if self._server_model is None:
            metric = self._metric
            names = (*_DECIDING, "api_key_env", "timeout_s")
            settings = {name: getattr(metric, name) for name in names} | {"attempts": metric.request_attempts}
            self._server_model = ServerModel(settings, seed=0, sleep=time.sleep, section=_KEY)
        return self._server_model


METRIC = GptScore
