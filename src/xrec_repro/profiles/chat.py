"""Profiles and reference explanations written by a chat model: ask, check the answer, keep it.

A model is made only when there is something left to ask: with all answers in the cache neither a key, a
server nor a GPU is needed.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from xrec_repro.data.text import encodable
from xrec_repro.errors import DataError, ModelError
from xrec_repro.profiles import prompts
from xrec_repro.profiles.cache import AnswerCache, OneModel, answer_key
from xrec_repro.profiles.chat_models import RefusedError, ServerModel, Settings
from xrec_repro.profiles.records import ItemText, ReviewText, UserText
from xrec_repro.profiles.replies import CUT_THOUGHT, Completion, Messages, read_json, read_plain, without_thoughts
from xrec_repro.progress import track

log = logging.getLogger("xrec_repro")

LOCAL = "xrec_repro.profiles.local_model"

# What error messages and the display call the three kinds of prompts.
LABELS = {"item": "item", "user": "user", "exp": "example"}


class UnansweredError(ModelError):
    """A prompt to which the model gives no valid answer.

    Attributes:
        reply: The last one, shortened.
        counts: What there was to count.
    """

    def __init__(self, problem: str, reply: str, counts: Counter[str]) -> None:
        super().__init__(problem)
        self.reply, self.counts = reply[:300], counts


class _Job(NamedTuple):
    """One prompt whose answer is not in the cache."""

    kind: str
    index: int
    key: str
    question: Messages

    def __str__(self) -> str:
        return f"{LABELS[self.kind]} {self.index}"


class ChatBackend:
    """Writes texts with a chat model, validates the answers and keeps them on disk.

    An answer that cannot be used is asked for again, with a note on what was wrong, at most `attempts` times
    in all; one with too many words is asked for once more and then cut. What then has no valid answer has the text "",
    up to the share `max_unanswered` of the texts of its kind; more are an error. Results are in the order of the input
    whatever the concurrency. All texts of one writer are one model's (`OneModel`).

    Args:
        settings_chat: The section ``profiles.chat`` of the configuration.
        domain: ``book`` or ``business``; selects the prompts unless `style` does.
        cache_folder: Where the answers are kept; may be shared by any jobs, also of several machines.
        max_words: Limit of every text, also told to the model.
        style: Release whose prompts are used (``amazon``, ``yelp``, ``google``); None follows the domain.
        seed: Of the back-off jitter and of a local model's sampling.
        device: Where a local model runs: ``auto``, ``cpu`` or ``cuda``.
        sleep: Called with the seconds to wait before a request is repeated.

    Attributes:
        counts: Number of texts from the cache (``cached``), of answers received (``asked``), of those that
            could not be used (``unusable``) or were too long (``over_long``), of texts ``cut``, and of those without
            a valid answer (``unanswered``).
    """

    def __init__(
        self,
        settings_chat: Settings,
        domain: str,
        cache_folder: str | Path,
        max_words: int,
        *,
        style: str | None = None,
        seed: int = 0,
        device: str = "auto",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings_chat
        self._style = style or prompts.domain_style(domain)
        self._max_words = max_words
        self._seed, self._device, self._sleep = seed, device, sleep
        self._cache = AnswerCache(cache_folder)
        self._made: Any = None  # a ServerModel or a LocalModel
        self.counts: Counter[str] = Counter()
        self._answering = OneModel("profiles.chat")

    def report(self) -> dict[str, Any]:
        """Return which model answered, by its own account, its server's fingerprints, and the settings it refused."""
        found = self._answering
        report = {"answered_by": found.name or None, "fingerprints": sorted(found.fingerprints)}
        return report | ({"settings_not_sent": sorted(found.left_out)} if found.left_out else {})

    def item_profiles(self, items: Sequence[ItemText]) -> list[str]:
        """Return one profile an item: what kind of users would enjoy it; "" where there is no valid answer.

        Raises:
            ModelError: The model refuses, stays away or gives too few valid answers; names the item's index.
            ConfigError: The server needs a key and its environment variable is not set.
        """
        return self._write("item", [prompts.item_message(self._style, item) for item in items])

    def user_profiles(self, users: Sequence[UserText]) -> list[str]:
        """Return one profile a user: what they are likely to enjoy.

        Raises:
            DataError: A user has no history, from which a model could only invent something.
            ModelError, ConfigError: As `item_profiles`.
        """
        for index, user in enumerate(users):
            if not user.entries:
                raise DataError(f"user {index}: has no history to ask about; leave such users out")
        return self._write("user", [prompts.user_message(self._style, user) for user in users])

    def references(self, reviews: Sequence[ReviewText]) -> list[str]:
        """Return one reference explanation a review, on one line.

        Raises:
            DataError: A review is empty.
            ModelError, ConfigError: As `item_profiles`.
        """
        for index, text in enumerate(reviews):
            if not text.review.strip():
                raise DataError(f"example {index}: has an empty review; leave such examples out")
        return self._write("exp", [prompts.reference_message(review) for review in reviews])

    def _write(self, kind: str, messages: list[str]) -> list[str]:
        system = {"role": "system", "content": prompts.system_prompt(self._style, kind, self._max_words)}
        questions = [[system, {"role": "user", "content": message}] for message in messages]
        keys = [answer_key(self._settings, question, self._seed) for question in questions]
        jobs: dict[str, _Job] = {}
        for index, (key, question) in enumerate(zip(keys, questions, strict=True)):
            job = _Job(kind, index, key, question)
            if self._kept(job):
                self._answering.note(self._cache.get(key))
                self.counts["cached"] += 1
            else:
                jobs.setdefault(key, job)
        if jobs:
            self._ask(kind, list(jobs.values()), int(self._settings.get("max_unanswered", 0) * len(keys)))
        log.info("%s texts: %d; so far %s", LABELS[kind], len(keys), dict(self.counts))
        asked = enumerate(zip(keys, questions, strict=True))
        return [self._kept(_Job(kind, index, key, question)) for index, (key, question) in asked]

    def _kept(self, job: _Job) -> str:
        """Return the text in an answer of the cache, "" where there is none that can be used.

        The cache holds what the model said: what is read in it may be read better tomorrow, without asking again.
        """
        answer = self._cache.get(job.key)
        text = read_answer(job.kind, answer, self._max_words, job.question)[0] if answer else ""
        return " ".join(text.split()[: self._max_words])

    def _ask(self, kind: str, jobs: list[_Job], tolerated: int) -> None:
        model, without = self._model(), itertools.count(1)

        def settled(error: UnansweredError) -> Counter[str]:
            if next(without) > tolerated:
                raise error
            log.warning("%s; last reply: %r; left without a text", error, error.reply)
            return error.counts | Counter(unanswered=1)

        if not isinstance(model, ServerModel):
            for counts in track(self._in_batches(model, jobs, settled), f"{LABELS[kind]} texts", total=len(jobs)):
                self.counts.update(counts)
            return
        failed = threading.Event()

        def answer(job: _Job) -> Counter[str]:
            if failed.is_set():
                return Counter()
            try:
                return self._answer(model, job)
            except ModelError as error:
                try:
                    if isinstance(error, UnansweredError):
                        return settled(error)
                    raise
                except ModelError:
                    failed.set()
                    raise

        executor = ThreadPoolExecutor(max_workers=self._settings["concurrency"])
        try:
            futures = [executor.submit(answer, job) for job in jobs]
            for future in track(as_completed(futures), f"{LABELS[kind]} texts", total=len(futures)):
                self.counts.update(future.result())
        finally:
            # Requests under way still reach the cache; those not yet begun are given up.
            executor.shutdown(wait=True, cancel_futures=True)

    def _model(self) -> Any:
        if self._made is None:
            if self._settings["base_url"]:
                self._made = ServerModel(self._settings, self._seed, self._sleep)
            else:
                local = importlib.import_module(LOCAL)
                self._made = local.LocalModel(self._settings, self._seed, self._device)
        return self._made

    def _in_batches(
        self, model: Any, jobs: list[_Job], settled: Callable[[UnansweredError], Counter[str]]
    ) -> Iterator[Counter[str]]:
        """Ask a local model, `concurrency` prompts at once; what has to be asked again joins the end of the queue."""
        waiting = deque((job, asking, next(asking)) for job, asking in ((job, self._asking(job)) for job in jobs))
        while waiting:
            batch = [waiting.popleft() for _ in range(min(self._settings["concurrency"], len(waiting)))]
            prompts = []
            for job, asking, (messages, attempt) in batch:
                try:
                    prompts.append((model.encode(messages), (job.key, attempt)))
                except ModelError as error:
                    asking.throw(error)
            for (job, asking, _), completion in zip(batch, model.complete(prompts), strict=True):
                try:
                    waiting.append((job, asking, asking.send(completion)))
                except StopIteration as done:
                    yield done.value
                except UnansweredError as error:
                    yield settled(error)

    def _answer(self, model: ServerModel, job: _Job) -> Counter[str]:
        """Ask a server until an answer is valid; return what there was to count."""
        asking = self._asking(job)
        try:
            messages, attempt = next(asking)
            while True:
                try:
                    completion = model.complete(messages, job.key, attempt)
                except ModelError as error:
                    asking.throw(error)
                messages, attempt = asking.send(completion)
        except StopIteration as done:
            return done.value

    def _asking(self, job: _Job) -> Generator[tuple[Messages, int], Completion, Counter[str]]:
        """Yield what to ask, with the number of the attempt, until an answer sent is valid; put it in the cache.

        Returns:
            What there was to count.
        """
        messages, counts, over_long, problem = job.question, Counter(), "", ""
        for attempt in range(self._settings["attempts"]):
            try:
                completion = yield messages, attempt
                self._answering.note(completion)
            except RefusedError as error:
                raise UnansweredError(f"{job}: {error}", "", counts) from None
            except ModelError as error:
                raise ModelError(f"{job}: {error}") from None
            counts["asked"] += 1
            text, problem = read_answer(job.kind, completion, self._max_words, job.question)
            if text and not problem:
                self._cache.add(job.key, completion)
                return counts
            counts["over_long" if text else "unusable"] += 1
            if over_long:
                break
            over_long, long_one = text, completion
            messages = job.question + _correction(completion.text, problem)
        if not over_long:
            raise UnansweredError(
                f"{job}: could not get a valid answer from {self._settings['model']} in "
                f"{self._settings['attempts']} attempts; last problem: {problem}; use a more capable model "
                f"or raise profiles.chat.attempts, max_new_tokens or max_unanswered (answers so far: "
                f"{self._cache.folder})",
                completion.text,
                counts,
            )
        counts["cut"] += 1
        self._cache.add(job.key, long_one)
        return counts


def read_answer(kind: str, completion: Completion, max_words: int, question: Messages | None = None) -> tuple[str, str]:
    """Extract the text of an answer and say what is wrong with it.

    Args:
        kind: ``item`` or ``user``, whose answers are JSON objects ``{"summarization": …}``, or ``exp``, whose answers
            are plain strings; what is tolerated around them is in `replies`.
        completion: The model's answer.
        max_words: More words than this are a problem.
        question: What was asked, the system's and the user's message: an answer that only repeats it is none.

    Returns:
        The text on one line ("" where there is none) and the problem ("" where the text can be used).
        A text with a problem is one with too many words.
    """
    text, problem = without_thoughts(completion.text, completion.truncated)
    if not problem and completion.truncated and not text.strip():
        problem = CUT_THOUGHT  # some servers leave thoughts out of the reply
    if not problem and kind == "exp":
        text, problem = read_plain(text, question)
    elif not problem:
        told = question[0]["content"] if question else ""
        text, problem = read_json(text, completion.truncated, "summarization", told)
    text = " ".join(encodable(text).split())
    if not problem and not text:
        problem = "the answer is empty"
    if not problem and text.strip(" .'\"").lower() in ("", "none"):
        problem = 'the answer is "None"'
    words = len(text.split())
    if problem:
        return "", problem
    if words > max_words:
        return text, f"the answer has {words} words and must have at most {max_words}"
    if kind == "exp" and completion.truncated:
        return "", "the answer stopped in mid-sentence at max_new_tokens"
    return text, ""


def _correction(answer: str, problem: str) -> Messages:
    # Many servers and chat templates refuse an empty turn; then the question is simply put again.
    if not answer.strip():
        return []
    note = f"That answer cannot be used: {problem}. Answer again, exactly in the required format."
    return [{"role": "assistant", "content": answer}, {"role": "user", "content": note}]
