"""Explanations for a list of examples: batched exactly, appended as they come, resumed after a kill."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.errors import DataError
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.decoding import Decoded, Sampler, decode, stop_tokens
from xrec_repro.explainer.examples import draw_subset
from xrec_repro.explainer.explainer import Explainer, shared_opening
from xrec_repro.explainer.prompts import Encoded, Example
from xrec_repro.interrupt import StoppedError, stoppable
from xrec_repro.io import write_table
from xrec_repro.lm.slots import SlotDecoder, in_slots
from xrec_repro.partial import Partial
from xrec_repro.progress import track
from xrec_repro.shards import WHOLE, Shard

log = logging.getLogger("xrec_repro")


def generate(
    explainer: Explainer,
    examples: Sequence[Example],
    settings: dict[str, Any],
    seed: int,
    partial: Path,
    out: Path,
    fingerprint: str = "",
    after_batch: Callable[[int], None] = lambda done: None,
    shard: Shard = WHOLE,
) -> dict[str, Any]:
    """Generate explanations and write them to Parquet in the order of the examples.

    Batches are cut from the examples sorted by prompt length, the same cut whatever was already done and whatever
    other shards do: a resumed run therefore repeats no text, and neither it nor a shard changes a bit.

    Args:
        explainer: With tuned adapters.
        examples: What to explain.
        settings: Section ``generation``.
        seed: The run's seed, for sampling.
        partial: JSON lines beside the output, one a finished example; removed at the end.
        out: Parquet, contract EXPLANATIONS.
        fingerprint: Of everything the texts depend on: a partial file of another one is dropped.
        after_batch: Called with the number of finished examples.
        shard: Which batches to generate; `explainer.gather` joins the files of all shards.

    Returns:
        How many there are, of how many test examples, how often each finish reason occurs, and ``cut_prompts``, the
        prompts of this shard whose title or profiles were cut to fit the context, if there are any.

    Raises:
        DataError: There is nothing to explain.
        ModelError: The new tokens leave no room for a prompt in the model's context.
        StoppedError: A stop was asked for; what was done is in the partial file.
    """
    test_examples = len(examples)
    examples = draw_subset(examples, settings["subset"], settings["subset_seed"])
    if not examples:
        raise DataError("generation: the test split has no examples with texts; check split.ratios and split.max_texts")
    if explainer.adapters is not None:
        explainer.adapters.eval()
    # Encoding all of them first also finds a prompt that is too long before hours of work.
    encoded = {e.example_id: explainer.encoder.test(e, settings["max_new_tokens"]) for e in examples}
    explainer.encoder.warn_of_cuts("generation")
    batches = shard.deal(_batches(examples, encoded, settings["batch_size"]))
    kept = Partial(partial, fingerprint)
    done = {row["example_id"]: row for row in kept.rows}
    if done:
        log.info("resumed generation after %d examples", len(done))
    with stoppable() as stop_requested, kept:
        for found in _explained(explainer, batches, settings, seed, encoded, frozenset(done)):
            kept.add(found)
            done |= {row["example_id"]: row for row in found}
            after_batch(len(done))
            if stop_requested():
                raise StoppedError(f"{len(done)} explanations are", partial)
    mine = {example.example_id for batch in batches for example in batch}
    rows = [done[example.example_id] for example in examples if example.example_id in mine]
    write_table(out, rows, EXPLANATIONS)
    kept.remove()
    reasons = Counter(row["finish_reason"] for row in rows)
    report = {
        "explanations": len(rows),
        "test_examples": test_examples,
        "finish_reasons": dict(sorted(reasons.items())),
    }
    cut = len(mine & explainer.encoder.cut.keys())
    return report | ({"cut_prompts": cut} if cut else {})


def _batches(examples: Sequence[Example], encoded: dict[str, Encoded], size: int) -> list[list[Example]]:
    """Cut the examples into batches of like length; ids settle ties."""
    by_length = sorted(examples, key=lambda e: (len(encoded[e.example_id].ids), e.example_id))
    return [by_length[start : start + size] for start in range(0, len(by_length), size)]


def _explained(
    explainer: Explainer,
    batches: Sequence[Sequence[Example]],
    settings: dict[str, Any],
    seed: int,
    encoded: dict[str, Encoded],
    done: Collection[str],
) -> Iterator[list[dict[str, Any]]]:
    """Explain batches one after the other, or all of them in slots; yields some rows at a time, as they are done.

    What is done already is left out: whole batches, or in slots every text.
    """
    if not in_slots(explainer, settings, list(encoded.values())):
        for batch in track(batches, "generation"):
            if any(example.example_id not in done for example in batch):
                yield explain_batch(explainer, batch, settings, seed, [encoded[e.example_id] for e in batch])
        return
    waiting = [example for batch in batches for example in batch if example.example_id not in done]
    if not waiting:
        return
    decoder = SlotDecoder(explainer, settings, seed, encoded, stops_of(explainer))
    rows = []
    for example, result in track(decoder.decode(waiting), "generation", len(waiting)):
        rows.append(_row(explainer, example, encoded[example.example_id], result))
        if len(rows) == settings["batch_size"]:
            yield rows
            rows = []
    if rows:
        yield rows


def explain_batch(
    explainer: Explainer,
    batch: Sequence[Example],
    settings: dict[str, Any],
    seed: int,
    encoded: Sequence[Encoded] | None = None,
) -> list[dict[str, Any]]:
    """Explain a few examples in one batch, whose prompts may be encoded; returns rows as in contract EXPLANATIONS."""
    rows = encoded or [explainer.encoder.test(example, settings["max_new_tokens"]) for example in batch]
    by_id = dict(zip((example.example_id for example in batch), rows, strict=True))
    if in_slots(explainer, settings, rows):
        found = dict(SlotDecoder(explainer, settings, seed, by_id, stops_of(explainer)).decode(batch))
        return [_row(explainer, example, by_id[example.example_id], found[example]) for example in batch]
    opening = shared_opening(rows) if explainer.encoder.records else ()
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
    return [_row(explainer, *one) for one in zip(batch, rows, results, strict=True)]


def stops_of(explainer: Explainer) -> dict[int, str]:
    """Return the tokens that end an explainer's texts, each with its finish reason."""
    ends = explainer.llm.model.generation_config.eos_token_id
    return stop_tokens(explainer.llm.tokenizer, explainer.encoder.template == "code", ends)


def _row(explainer: Explainer, example: Example, encoded: Encoded, result: Decoded) -> dict[str, Any]:
    return {
        "example_id": example.example_id,
        "user_id": example.user_id,
        "item_id": example.item_id,
        "reference": example.reference,
        "prediction": clean_text(explainer.llm.tokenizer, result, explainer.encoder.template),
        "prompt_tokens": len(encoded.ids),
        "new_tokens": len(result.ids),
        "finish_reason": result.finish_reason,
    }


def clean_text(tokenizer: Any, result: Decoded, template: str) -> str:
    """Decode generated ids; with the template ``code`` the text ends before its first "["."""
    # An end token need not be a special one of the tokenizer.
    ids = result.ids[:-1] if result.finish_reason == "eos" else result.ids
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return (text.split("[")[0] if template == "code" else text).strip()
