"""Explanations of a few examples in one exact batch, or in slots."""

from collections.abc import Iterator, Sequence
from typing import Any

from xrec_repro.end_tokens import end_ids
from xrec_repro.examples import Example
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.decoding import Decoded, Sampler, decode, stop_tokens
from xrec_repro.explainer.explainer import Explainer, shared_opening
from xrec_repro.explainer.prompts import Encoded
from xrec_repro.lm.slots import SlotDecoder, in_slots
from xrec_repro.methods.base import Written


def explain_in_slots(
    explainer: Explainer,
    examples: Sequence[Example],
    settings: dict[str, Any],
    seed: int,
    encoded: dict[str, Encoded],
) -> Iterator[list[tuple[Example, Written]]]:
    """Explain examples in slots, which are filled again as texts end; yields some at a time, as they are done."""
    decoder = SlotDecoder(explainer, settings, seed, encoded, stops_of(explainer))
    done = []
    for example, result in decoder.decode(examples):
        done.append((example, written(explainer, encoded[example.example_id], result)))
        if len(done) == settings["batch_size"]:
            yield done
            done = []
    if done:
        yield done


def explain_batch(
    explainer: Explainer,
    batch: Sequence[Example],
    settings: dict[str, Any],
    seed: int,
    encoded: Sequence[Encoded] | None = None,
) -> list[Written]:
    """Explain a few examples in one batch, whose prompts may be encoded."""
    rows = encoded or [explainer.encoder.test(example, settings["max_new_tokens"]) for example in batch]
    by_id = dict(zip((example.example_id for example in batch), rows, strict=True))
    if in_slots(explainer, settings, rows):
        found = dict(SlotDecoder(explainer, settings, seed, by_id, stops_of(explainer)).decode(batch))
        return [written(explainer, by_id[example.example_id], found[example]) for example in batch]
    opening = shared_opening(rows)
    results = decode(
        explainer.llm.model,
        explainer.injector,
        explainer.adapt(batch),
        pad_left([row.without(len(opening)) for row in rows], explainer.pad_id, explainer.llm.device),
        Sampler(settings, seed, [example.example_id for example in batch]),
        settings["max_new_tokens"],
        stops_of(explainer),
        explainer.read(opening, len(batch)),
    )
    return [written(explainer, *one) for one in zip(rows, results, strict=True)]


def stops_of(explainer: Explainer) -> dict[int, str]:
    """Return the tokens that end an explainer's texts, each with its finish reason."""
    ends = end_ids(explainer.llm.model.generation_config.eos_token_id, explainer.encoder.end)
    return stop_tokens(explainer.llm.tokenizer, explainer.encoder.template == "code", sorted(ends))


def written(explainer: Explainer, encoded: Encoded, result: Decoded) -> Written:
    """Return a text as the method gives it, from its prompt and what was decoded."""
    text = clean_text(explainer.llm.tokenizer, result, explainer.encoder.template)
    return Written(text, len(encoded.ids), len(result.ids), result.finish_reason)


def clean_text(tokenizer: Any, result: Decoded, template: str) -> str:
    """Decode generated ids; with the template ``code`` the text ends before its first "["."""
    # An end token need not be a special one of the tokenizer.
    ids = result.ids[:-1] if result.finish_reason == "eos" else result.ids
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return (text.split("[")[0] if template == "code" else text).strip()
