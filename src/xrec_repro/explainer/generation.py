"""Explanations of a few examples in one exact batch."""

from collections.abc import Sequence
from typing import Any

from xrec_repro.examples import Example
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.decoding import Decoded, Sampler, decode, stop_tokens
from xrec_repro.explainer.explainer import Explainer, shared_opening
from xrec_repro.explainer.prompts import Encoded
from xrec_repro.methods.base import Written


def explain_batch(
    explainer: Explainer,
    batch: Sequence[Example],
    settings: dict[str, Any],
    seed: int,
    encoded: Sequence[Encoded] | None = None,
) -> list[Written]:
    """Explain a few examples in one batch, whose prompts may be encoded."""
    rows = encoded or [explainer.encoder.test(example, settings["max_new_tokens"]) for example in batch]
    opening = shared_opening(rows) if explainer.encoder.records else ()
    tokenizer = explainer.llm.tokenizer
    results = decode(
        explainer.llm.model,
        explainer.injector,
        explainer.adapt(batch),
        pad_left([row.without(len(opening)) for row in rows], explainer.pad_id, explainer.llm.device),
        Sampler(settings, seed, [example.example_id for example in batch]),
        settings["max_new_tokens"],
        stop_tokens(
            tokenizer, explainer.encoder.template == "code", explainer.llm.model.generation_config.eos_token_id
        ),
        explainer.read(opening, len(batch)),
    )
    template = explainer.encoder.template
    return [
        Written(clean_text(tokenizer, found, template), len(row.ids), len(found.ids), found.finish_reason)
        for row, found in zip(rows, results, strict=True)
    ]


def clean_text(tokenizer: Any, result: Decoded, template: str) -> str:
    """Decode generated ids; with the template ``code`` the text ends before its first "["."""
    # An end token need not be a special one of the tokenizer.
    ids = result.ids[:-1] if result.finish_reason == "eos" else result.ids
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return (text.split("[")[0] if template == "code" else text).strip()
