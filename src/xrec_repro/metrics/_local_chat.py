"""A local chat model in batches: conversations to tokens, exact batched reading, greedy replies."""

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from xrec_repro.end_tokens import end_ids
from xrec_repro.errors import ModelError
from xrec_repro.identity import digest_json
from xrec_repro.lm.chat import ChatTemplate
from xrec_repro.metrics._judge import question
from xrec_repro.profiles.replies import Messages
from xrec_repro.special_tokens import special_tokens, speller

MOST_STARTS = 2  # tokens in a decoder before the reply


class ChatFormat(ChatTemplate):
    """Turns conversations into the text and the tokens that a model was tuned on, by its chat template.

    The special tokens of a prompt are the template's: a message that spells one stays text.

    Args:
        tokenizer: Of transformers, with a chat template.
        metric: Name of the metric, for errors.
        model: Name of the model, for errors.

    Attributes:
        digest: Of the template applied to a fixed conversation.

    Raises:
        ModelError: There is no chat template, or it refuses a user's message.
    """

    def __init__(self, tokenizer: Any, metric: str, model: str) -> None:
        self._spell = speller(special_tokens(tokenizer))
        super().__init__(tokenizer, f"{metric}: {model}")
        self.digest = digest_json(self.text(question("P", "R")))[:12]

    def render(self, messages: Messages, prompt: bool = True) -> str:
        """Write a conversation, in which no message spells a special token."""
        return super().render([{**one, "content": self._spell(one["content"])} for one in messages], prompt)

    def text(self, messages: Messages) -> str:
        """Return the prompt: the conversation up to where the model's turn begins.

        Raises:
            ModelError: The template refuses the conversation.
        """
        try:
            return self.render(messages)
        except TemplateError as error:
            raise ModelError(
                f"{self.name}: its chat template refuses the conversation ({error}); choose another model, or set "
                "attempts to 1 if it refuses further turns"
            ) from error

    def reply_ids(self, replies: Sequence[str], apart: bool = False) -> list[tuple[int, ...]]:
        """Return the tokens of replies as they follow a prompt, without an end.

        Args:
            replies: The texts.
            apart: Whether they stand in a sequence of their own, a decoder's, instead.

        Raises:
            ModelError: The tokenizer cannot write a reply, or merges its start with the end of the prompt.
        """
        prompt = "" if apart else self.text(question("P", "R"))
        before, lead = self.ids(prompt), "" if apart else self._lead(prompt, replies[0])
        found = []
        for reply in replies:
            whole = self.ids(prompt + lead + reply)
            tokens = tuple(whole[len(before) :])
            if whole[: len(before)] != before or self.tokenizer.decode(tokens).strip() != reply:
                raise ModelError(
                    f"{self.name}: its tokenizer cannot write {reply!r} as tokens of their own after the prompt; "
                    "set metrics.llamascore.mode to parse"
                )
            found.append(tokens)
        return found

    def _lead(self, prompt: str, reply: str) -> str:
        # Llama 2's template puts a space between the prompt and the reply, and so the model begins with it.
        try:
            whole = self.render([*question("P", "R"), {"role": "assistant", "content": reply}], prompt=False)
        except TemplateError:
            return ""
        lead, _, _ = whole.removeprefix(prompt).partition(reply)
        return lead if whole.startswith(prompt) and not lead.strip() else ""


def stop_ids(tokenizer: Any, config: Any, model: str | Path, **options: Any) -> frozenset[int]:
    """Return the tokens that end a reply: those of the generation configuration (else the model's) and tokenizer."""
    from transformers import GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(str(model), **options).eos_token_id
    except OSError:  # there is none
        ends = config.eos_token_id
    return end_ids(ends, tokenizer.eos_token_id)


class SharedStart:
    """The tokens with which all prompts begin, as a causal model has read them.

    Args:
        cache: Of the model, one row.
        length: Tokens in it.
    """

    def __init__(self, cache: Any, length: int) -> None:
        self._cache, self.length = cache, length

    def cache(self, rows: int) -> Any:
        """Return a cache of that many rows, to go on from."""
        repeated = copy.deepcopy(self._cache)
        repeated.batch_repeat_interleave(rows)
        return repeated


@torch.inference_mode()
def read_shared(model: Any, prompts: Sequence[Sequence[int]]) -> SharedStart | None:
    """Read the tokens with which all prompts begin, once; at least one token of each prompt is left out.

    Args:
        model: A causal language model.
        prompts: Token ids, one list a row.

    Returns:
        None where nothing is shared, or where the model goes by more than mask and position: behind a shared start
        come gaps, and behind a prompt branches side by side. Sliding windows and ALiBi count places, not positions, and
        flash attention takes no mask of one's own.
    """
    from transformers.cache_utils import DynamicLayer

    config, (first, last) = model.config, (min(prompts), max(prompts))  # in the order of lists: furthest apart
    room = min(map(len, prompts)) - 1
    length = next((i for i in range(room) if first[i] != last[i]), room)
    rotary = getattr(config, "rope_theta", None) is not None and not getattr(config, "alibi", False)
    if not length or not rotary or config._attn_implementation not in ("sdpa", "eager"):
        return None
    ids = torch.tensor([first[:length]], device=model.get_input_embeddings().weight.device)
    cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    layers = getattr(cache, "layers", [None])
    return SharedStart(cache, length) if all(type(layer) is DynamicLayer for layer in layers) else None


class Continuation:
    """A batch of prompts that a model reads and goes on from; each row as if it were alone.

    Rows are padded on the left (behind a shared start), padding is masked, and positions count real tokens only: all
    three are needed.

    Args:
        model: The causal language model.
        prompts: Token ids, one list a row.
        shared: With what they all begin, of `read_shared`.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], shared: SharedStart | None = None) -> None:
        self._model, self._device = model, model.get_input_embeddings().weight.device
        self._shared, start = shared, shared.length if shared else 0
        longest = max(map(len, prompts))
        gaps = [longest - len(prompt) for prompt in prompts]
        ids = [[0] * gap + list(prompt[start:]) for gap, prompt in zip(gaps, prompts, strict=True)]
        mask = [[1] * start + [0] * gap + [1] * (longest - start - gap) for gap in gaps]
        self._ids = torch.tensor(ids, device=self._device)
        self._mask = torch.tensor(mask, device=self._device)
        self._lengths = self._mask.sum(dim=1, keepdim=True)
        self._cache = None

    @cached_property
    def next(self) -> Tensor:
        """Logits of the token after the prompt, ``(rows, vocabulary)``."""
        self._cache = self._shared and self._shared.cache(len(self))
        return self._read(self._ids, self._positions, keep=1)[:, 0]

    @property
    def _positions(self) -> Tensor:
        return (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]

    def after(self, starts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """Return start of a reply -> logits of the token after it, ``(rows, vocabulary)``.

        Args:
            starts: With each one all shorter starts of it; the empty one stands for the prompt alone.
        """
        return self._by_tree(starts) if self._shared and len(starts) > 1 else self._by_branches(starts)

    def _by_branches(self, starts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """Go on from the prompts anew for each start that is not the start of another one."""
        found, shorter = {(): self.next}, {start[:end] for start in starts for end in range(len(start))}
        for path in sorted({*starts} - shorter - {()}):
            logits = self.branch().extend(torch.tensor([path]).expand(len(self), -1))
            found |= {path[:end]: logits[:, end - 1] for end in range(1, len(path) + 1)}
        return found

    @torch.inference_mode()
    def _by_tree(self, starts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """Read prompts and starts in one pass: the starts' last tokens side by side, each seeing its own path alone."""
        nodes = sorted(start for start in starts if start)
        ends = torch.tensor([[node[-1] for node in nodes]], dtype=torch.long, device=self._device)
        depths = torch.tensor([len(node) for node in nodes], dtype=torch.long, device=self._device)
        logits = self._model(
            input_ids=torch.cat([self._ids, ends.expand(len(self), -1)], dim=1),
            attention_mask=self._tree_mask(nodes),
            position_ids=torch.cat([self._positions, self._lengths + depths - 1], dim=1),
            past_key_values=self._shared.cache(len(self)),
            use_cache=True,
            logits_to_keep=len(nodes) + 1,
        ).logits
        return dict(zip([(), *nodes], logits.unbind(dim=1), strict=True))

    def _tree_mask(self, nodes: Sequence[tuple[int, ...]]) -> Tensor:
        """Return what is added to attention: 0 where a token sees another, else nearly minus infinity; 4-D."""
        rows, places, read = len(self), self._mask.shape[1], self._ids.shape[1]
        sees = torch.zeros(rows, read + len(nodes), places + len(nodes), dtype=torch.bool, device=self._device)
        sees[:, :, :places] = self._mask[:, None].bool()
        sees[:, :read, :places] &= torch.ones(places, places, dtype=torch.bool, device=self._device).tril()[-read:]
        on_path = [[node[: len(other)] == other for other in nodes] for node in nodes]
        sees[:, read:, places:] = torch.tensor(on_path, dtype=torch.bool, device=self._device)
        dtype = self._model.dtype
        return torch.zeros_like(sees, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[:, None]

    def extend(self, tokens: Tensor) -> Tensor:
        """Read more tokens, ``(rows, length)``; returns the logits after each, ``(rows, length, vocabulary)``."""
        rows, length = tokens.shape
        positions = self._lengths + torch.arange(length, device=self._device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(rows, length)], dim=1)
        self._lengths = self._lengths + length
        return self._read(tokens.to(self._device), positions, keep=length)

    def branch(self) -> "Continuation":
        """Return a copy that can be extended without changing this one."""
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)
        return other

    def __len__(self) -> int:
        return len(self._mask)

    @torch.inference_mode()
    def _read(self, ids: Tensor, positions: Tensor, keep: int) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self._cache = output.past_key_values
        return output.logits


class DecoderContinuation(Continuation):
    """A batch of prompts that the encoder of an encoder-decoder has read, and replies that its decoder goes on with.

    Prompts are padded on the right, where neither absolute nor relative positions see it, and padding is masked. The
    decoder's sequences begin with its start token and the first token that the generation configuration forces, if it
    does; they are of one length, so that none is padded.

    Args:
        model: The encoder-decoder.
        prompts: Token ids, one list a row.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self._model, self._device = model, model.get_input_embeddings().weight.device
        self._shared = self._cache = None
        longest = max(map(len, prompts))
        ids = [list(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
        mask = [[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
        self._mask = torch.tensor(mask, device=self._device)
        with torch.inference_mode():
            self._encoded = model.get_encoder()(
                input_ids=torch.tensor(ids, device=self._device), attention_mask=self._mask, return_dict=True
            )

    @cached_property
    def next(self) -> Tensor:
        """Logits of the first token of the reply, ``(rows, vocabulary)``."""
        return self.extend(torch.tensor([reply_start(self._model)]).expand(len(self), -1))[:, -1]

    @torch.inference_mode()
    def extend(self, tokens: Tensor) -> Tensor:
        """Decode more tokens, ``(rows, length)``; returns the logits after each, ``(rows, length, vocabulary)``."""
        output = self._model(
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            decoder_input_ids=tokens.to(self._device),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        return output.logits


def reply_start(model: Any) -> list[int]:
    """Return the tokens with which the decoder of an encoder-decoder begins.

    Raises:
        ModelError: The generation configuration does not name any.
    """
    chosen = model.generation_config
    start = chosen.bos_token_id if chosen.decoder_start_token_id is None else chosen.decoder_start_token_id
    if start is None:
        raise ModelError(
            f"{model.config.name_or_path}: its generation configuration has no decoder_start_token_id; "
            "add it, or choose another model"
        )
    return [start] if chosen.forced_bos_token_id is None else [start, chosen.forced_bos_token_id]


def greedy(batch: Continuation, max_new_tokens: int, ends: frozenset[int]) -> list[tuple[list[int], bool]]:
    """Return the likeliest next tokens of each row, one by one, and whether an end came (it is left out)."""
    new: list[list[int]] = [[] for _ in range(len(batch))]
    ended = [False] * len(batch)
    logits = batch.next
    for left in reversed(range(max_new_tokens)):
        chosen = logits.argmax(dim=-1)
        for row, token in enumerate(chosen.tolist()):
            ended[row] = ended[row] or token in ends
            if not ended[row]:
                new[row].append(token)
        if all(ended) or not left:
            break
        logits = batch.extend(chosen[:, None])[:, -1]
    return list(zip(new, ended, strict=True))


class TokenTree:
    """Distribution over texts with which a reply may begin, told apart by where they stop.

    Args:
        texts: Token ids of each text, all different.

    Attributes:
        depth: Length of the longest text.
    """

    def __init__(self, texts: Sequence[tuple[int, ...]]) -> None:
        self._texts = list(texts)
        self.depth = max(map(len, texts))
        children: dict[tuple[int, ...], set[int]] = {}
        for text in texts:
            for end, token in enumerate(text):
                children.setdefault(text[:end], set()).add(token)
        self._children = {start: sorted(tokens) for start, tokens in sorted(children.items(), key=lambda c: len(c[0]))}

    def probabilities(self, batch: Continuation) -> Tensor:
        """Return for each row and text the probability that the reply begins with it and with no longer one.

        Returns:
            float64 of shape ``(rows, texts)``, on the CPU: P(text), less P(text + t) for every token t with which a
            longer text goes on.
        """
        logits = batch.after(list(self._children))
        following = {start: self._following(start, logits[start]) for start in self._children}
        reach = {(): torch.ones(len(batch), dtype=torch.float64)}
        for start, tokens in self._children.items():
            for token, probability in zip(tokens, following[start].unbind(dim=1), strict=True):
                reach[(*start, token)] = reach[start] * probability
        longer = [[reach[(*text, token)] for token in self._children.get(text, ())] for text in self._texts]
        left = [(reach[text] - sum(more)).clamp(min=0) for text, more in zip(self._texts, longer, strict=True)]
        return torch.stack(left, dim=1)

    def _following(self, start: tuple[int, ...], logits: Tensor) -> Tensor:
        logits = logits.double()
        return (logits[:, self._children[start]] - logits.logsumexp(dim=-1, keepdim=True)).exp().cpu()
