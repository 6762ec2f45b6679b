"""LlamaScore of the study: a local chat model scores the meaning of a prediction, 0 to 100."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xrec_repro.identity import versions
from xrec_repro.lm.load import load_pretrained, local_folder, require_revision, shown_model
from xrec_repro.metrics._batches import count_empty, length_sorted, warn_of
from xrec_repro.metrics._judge import HIGHEST, LOWEST, check_setting, judge, protocol_digest, question, warn_missing
from xrec_repro.metrics._local_chat import (
    MOST_STARTS,
    ChatFormat,
    Continuation,
    DecoderContinuation,
    TokenTree,
    greedy,
    read_shared,
    stop_ids,
)
from xrec_repro.metrics._models import torch_device, torch_dtype
from xrec_repro.metrics.base import Metric, Scored
from xrec_repro.metrics.columns import Column
from xrec_repro.profiles.replies import Completion, Messages, decode_reply
from xrec_repro.progress import track

LIBRARIES = ("transformers",)
_KEY = "metrics.llamascore"
_MODES = ("parse", "expected")


@dataclass(frozen=True, kw_only=True)
class LlamaScore(Metric):
    r"""The score from 0 to 100 that a local chat model gives a prediction (`llamascore`).

    Prompt, parsing and repeated questions are those of `xrec_repro.metrics._judge`. A chat template that refuses or
    drops a system message gets the system text at the head of the user's. Values depend on neither the batch size nor
    the order of the rows (up to rounding, which 16-bit formats make visible, but for replies in slots:
    `xrec_repro.lm.replying`). Of an encoder-decoder, the encoder reads the prompt and the decoder replies; all else is
    the same.

    Mode ``parse``, the study's: the model replies greedily, and the reply is parsed. What stays without a score after
    `attempts` replies is NaN (counted as ``unparsable``).

    Mode ``expected``: the mean of the distribution over the numbers with which the reply may begin. Let
    :math:`s_k` be the tokens of the number :math:`k` after the prompt :math:`x`, and :math:`C_k` the tokens that
    continue :math:`s_k` towards the tokens of a longer number (5 continues 8, since there is 85). Then

    .. math::
        p_k = P(s_k \mid x) \Bigl(1 - \sum_{t \in C_k} P(t \mid x, s_k)\Bigr), \qquad
        M = \sum_{k=0}^{100} p_k, \qquad \text{score} = \frac{1}{M} \sum_{k=0}^{100} k \, p_k.

    :math:`p_k` is the probability that the reply begins with :math:`k` and does not go on to a longer number: what
    follows (an end, a full stop, a percent sign) is left open, as it is in ``parse``. Where each number is one token
    (Llama 3) all is read from one forward pass; where digits are tokens (Llama 2), the ten starts of longer numbers are
    read side by side in the same pass (`Continuation.after`), or, where the model takes no mask for that, in nine more.
    What all prompts begin with is read once. A pair with :math:`M <` `min_mass` is NaN (counted as ``low_mass``): the
    model would not reply with a number. The mean of :math:`M` is reported as ``number_mass``.

    In both modes a pair whose prompt and reply exceed the model's context is NaN (counted as ``too_long``).

    Attributes:
        model: A folder with a model, its tokenizer and chat template, or a repository of the hub.
        revision: The 40-digit commit of the hub repository; None for a folder.
        mode: ``parse`` | ``expected``.
        max_new_tokens: Longest reply (``parse``).
        attempts: Replies to ask for at most, per pair (``parse``).
        min_mass: Smallest probability of a number with which a pair is scored (``expected``).
        dtype: ``float32`` | ``float16`` | ``bfloat16``.
        batch_size: Pairs at once.
    """

    name: ClassVar[str] = "llamascore"
    columns: ClassVar[Mapping[str, Column]] = {"llamascore": Column("LlamaScore", "Llama", decimals=2)}
    files: ClassVar[tuple[str, ...]] = ("model",)
    may_miss: ClassVar[bool] = True

    model: str
    revision: str | None
    mode: str
    max_new_tokens: int
    attempts: int
    min_mass: float
    dtype: str
    batch_size: int

    def __post_init__(self) -> None:
        require_revision(self.model, self.revision, self._folder, _KEY)
        torch_dtype(self.dtype, _KEY)
        check_setting(self.mode in _MODES, "llamascore.mode", self.mode, f"one of: {', '.join(_MODES)}")
        check_setting(0 <= self.min_mass <= 1, "llamascore.min_mass", self.min_mass, "between 0 and 1")
        for key in ("max_new_tokens", "attempts", "batch_size"):
            check_setting(getattr(self, key) >= 1, f"llamascore.{key}", getattr(self, key), "at least 1")

    def facts(self) -> dict[str, Any]:
        """Return the model's digest, those of the prompt and of the template around it, the decoding, the version."""
        return {
            "model": shown_model(self.model, None, self._folder),
            "prompt": protocol_digest(),
            "template": self._format.digest,
            "system": "own turn" if self._format.takes_system else "in the user's turn",
            "decoding": "greedy" if self.mode == "parse" else "distribution",
            "ends": ",".join(map(str, sorted(self._ends))) or None,
            "shots": 0,
            "v": versions(*LIBRARIES)["transformers"],
        }

    @cached_property
    def _folder(self) -> Path | None:
        return local_folder(self.model, _KEY)

    def _load(self, loader: Any, **options: Any) -> Any:
        return load_pretrained(loader, self._folder or self.model, self.revision, _KEY, **options)

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self._load(AutoConfig)

    @property
    def _is_encoder_decoder(self) -> bool:
        return self._config.is_encoder_decoder

    @cached_property
    def _format(self) -> ChatFormat:
        from transformers import AutoTokenizer

        return ChatFormat(self._load(AutoTokenizer), self.name, self.model)

    @cached_property
    def _ends(self) -> frozenset[int]:
        where, options = self._folder or self.model, {"revision": self.revision} if self.revision else {}
        return stop_ids(self._format.tokenizer, self._config, where, **options)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        loader = AutoModelForSeq2SeqLM if self._is_encoder_decoder else AutoModelForCausalLM
        model = self._load(loader, dtype=torch_dtype(self.dtype, _KEY))
        return model.eval().to(torch_device(self.device))

    def _columns(self, predictions: Sequence[str], references: Sequence[str]) -> Scored:
        if self.mode == "parse":
            values, counts, replies = judge(predictions, references, self._reply, self.attempts, self.name)
        else:
            values, counts, replies = self._expect(predictions, references)
        empty = count_empty(predictions, references)
        warn_of(empty, self.name, "judged as they are")
        return Scored({self.name: values}, counts | empty, {}, replies)

    def _reply(self, conversations: Mapping[int, Messages]) -> dict[int, Completion]:
        """Reply to the conversations that fit into the context."""
        replies = {}
        for row, (new, ended) in self._decoded(conversations):
            text = decode_reply(self._format.tokenizer, new, self._format.text(conversations[row]))
            replies[row] = Completion(text, truncated=not ended)
        return replies

    def _decoded(self, conversations: Mapping[int, Messages]) -> Iterator[tuple[int, tuple[list[int], bool]]]:
        """Yield rows with their replies, in slots or in batches, and whether an end came (it is left out)."""
        if self._replying.fit:
            prompts = {str(row): ids for row, (_, ids) in self._fitting(conversations, self.max_new_tokens).items()}
            if (slots := self._replying.in_slots(prompts)) is not None:
                for name, reply in track(slots, self.name, total=len(prompts)):
                    ended = reply.finish_reason == "eos"
                    yield int(name), (reply.ids[: len(reply.ids) - ended], ended)
                return
        for rows, batch in self._batches(conversations, self.max_new_tokens):
            yield from zip(rows, greedy(batch, self.max_new_tokens, self._ends), strict=True)

    @cached_property
    def _replying(self) -> Any:
        from xrec_repro.lm.replying import Replying  # and with it transformers

        settings = {"decoding": "greedy", "max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}
        return Replying(self._model, settings, 0, dict.fromkeys(self._ends, "eos"))

    def _expect(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, float], dict[str, list[Any]]]:
        numbers = np.arange(LOWEST, HIGHEST + 1)
        tree = TokenTree(self._format.reply_ids([str(number) for number in numbers], apart=self._is_encoder_decoder))
        pairs = list(zip(predictions, references, strict=True))
        first = {pair: row for row, pair in reversed(list(enumerate(pairs)))}
        values, mass = np.full((2, len(pairs)), np.nan)
        for rows, batch in self._batches({row: question(*pair) for pair, row in first.items()}, tree.depth):
            probabilities = tree.probabilities(batch).numpy()
            mass[rows] = probabilities.sum(axis=1)
            values[rows] = probabilities @ numbers / np.maximum(mass[rows], np.finfo(np.float64).tiny)
        equal = [first[pair] for pair in pairs]
        values, mass = values[equal], mass[equal]
        read = ~np.isnan(mass)
        low = read & ((mass < self.min_mass) | (mass == 0))
        values[low] = np.nan
        counts: dict[str, float] = {"low_mass": int(low.sum())}
        if not read.all():
            counts["too_long"] = int((~read).sum())
        if read.any():
            counts["number_mass"] = float(mass[read].mean())
        warn_missing(self.name, counts, len(values))
        return values, counts, {"number_mass": [None if np.isnan(part) else part for part in mass.tolist()]}

    def _fitting(self, conversations: Mapping[int, Messages], room: int) -> dict[int, tuple[str, list[int]]]:
        """Return the prompts of rows, text and tokens; those without `room` in the context are left out."""
        texts = {row: self._format.text(messages) for row, messages in conversations.items()}
        prompts = {row: (text, self._format.ids(text)) for row, text in texts.items()}
        return {row: prompt for row, prompt in prompts.items() if self._fits(len(prompt[1]), room)}

    def _batches(self, conversations: Mapping[int, Messages], room: int) -> Iterator[tuple[list[int], Continuation]]:
        """Yield rows and their prompts for the model to read; those without `room` in the context are left out."""
        fitting = self._fitting(conversations, room)
        numbers, decoder = list(fitting), self._is_encoder_decoder
        shared = None if decoder or not fitting else read_shared(self._model, [ids for _, ids in fitting.values()])
        for places in track(length_sorted(self.batch_size, [text for text, _ in fitting.values()]), self.name):
            rows = [numbers[place] for place in places]
            batch = [fitting[row][1] for row in rows]
            yield (
                rows,
                DecoderContinuation(self._model, batch) if decoder else Continuation(self._model, batch, shared),
            )

    def _fits(self, length: int, room: int) -> bool:
        context = getattr(self._config, "max_position_embeddings", None) or float("inf")
        if self._is_encoder_decoder:  # which counts prompt and reply apart; the last token of a reply is not read
            return max(length, MOST_STARTS + room - 1) <= context
        return length + room <= context


METRIC = LlamaScore
