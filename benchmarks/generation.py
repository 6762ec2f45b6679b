"""Explanations with the demo's language model: batches of 32 against `model.generate` at batch 1, the same hooks."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from harness import arguments, compare, record, run
from material import demo_explainer
from torch import Tensor

from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.examples import Example
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.decoding import Decoded, nucleus, stop_tokens
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.generation import clean_text
from xrec_repro.explainer.prompts import Encoded
from xrec_repro.io import read_table
from xrec_repro.methods.driver import write_explanations
from xrec_repro.methods.xrec_write import Writing
from xrec_repro.seeding import torch_generator

SIZE, OTHER_SIZES = 32, (1, 7)
TIE = 1e-4
Settings = dict[str, Any]
Texts = dict[str, str]  # by example id


def ours(explainer: Explainer, examples: Sequence[Example], settings: Settings, size: int) -> Texts:
    """Explain as the workflow does, from examples to a Parquet file."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "explanations.parquet"
        chosen = settings | {"batch_size": size, "subset": 1.0}
        write_explanations(Writing.of(explainer, chosen, 1), examples, chosen, Path(name) / "partial", out)
        rows = read_table(out, EXPLANATIONS, ["example_id", "prediction"]).to_pylist()
    return {row["example_id"]: row["prediction"] for row in rows}


@torch.no_grad()
def library(explainer: Explainer, examples: Sequence[Example], settings: Settings, size: int) -> Texts:
    """Explain with transformers' `generate` and our hooks, in batches of like length; it stops where ours does."""
    template, tokenizer = explainer.encoder.template, explainer.llm.tokenizer
    options: dict[str, Any] = {"do_sample": False}
    if settings["decoding"] == "sampled":
        options = {"do_sample": True} | {key: settings[key] for key in ("temperature", "top_k", "top_p")}
    ends = list(stop_tokens(tokenizer, at_bracket=template == "code"))
    rows = by_length(explainer, examples, settings)
    texts = {}
    for start in range(0, len(rows), size):
        part, encoded = zip(*rows[start : start + size], strict=True)
        batch = pad_left(encoded, explainer.pad_id, explainer.llm.device)
        with explainer.injector.prompt(explainer.adapt(part), batch.positions, batch.ids.shape[1]):
            found = explainer.llm.model.generate(
                batch.ids,
                attention_mask=batch.mask,
                max_new_tokens=settings["max_new_tokens"],
                pad_token_id=explainer.pad_id,
                eos_token_id=ends,
                **options,
            )
        for example, row in zip(part, found[:, batch.ids.shape[1] :].tolist(), strict=True):
            texts[example.example_id] = clean_text(tokenizer, Decoded(row, ""), template)
    return texts


def by_length(explainer: Explainer, examples: Sequence[Example], settings: Settings) -> list[tuple[Example, Encoded]]:
    """Return examples with their prompts, from short to long."""
    rows = [(example, explainer.encoder.test(example, settings["max_new_tokens"])) for example in examples]
    return sorted(rows, key=lambda row: (len(row[1].ids), row[0].example_id))


def ties(explainer: Explainer, examples: Sequence[Example], settings: Settings, one: Texts, other: Texts) -> list[str]:
    """Return the ids of the examples whose texts differ; fail if one of them is more than a tie of rounding.

    A tie: where the texts part, another token is within `TIE` (in logits or probability) of being chosen.
    """
    differing = [example for example in examples if one[example.example_id] != other[example.example_id]]
    for example in differing:
        both = one[example.example_id], other[example.example_id]
        margin = parting_margin(explainer, example, settings, both)
        assert margin < TIE, f"{settings['decoding']}, example {example.example_id}: no tie, the margin is {margin:.1e}"
    return [example.example_id for example in differing]


@torch.no_grad()
def parting_margin(explainer: Explainer, example: Example, settings: Settings, texts: tuple[str, str]) -> float:
    """Decode an example alone, without a cache; return how close the choice was at which the text leaves one of two."""
    template, tokenizer = explainer.encoder.template, explainer.llm.tokenizer
    batch = pad_left([explainer.encoder.test(example, settings["max_new_tokens"])], explainer.pad_id, "cpu")
    generator, ids, new = torch_generator(1, "sampling", example.example_id), batch.ids, []
    stops = stop_tokens(tokenizer, at_bracket=template == "code")
    for _ in range(settings["max_new_tokens"]):
        with explainer.injector.prompt(explainer.adapt([example]), batch.positions, ids.shape[1]):
            logits = explainer.llm.model(input_ids=ids).logits[:, -1].float()
        if settings["decoding"] == "greedy":
            best = logits[0].topk(2)
            margin, token = float(best.values[0] - best.values[1]), int(best.indices[0])
        else:
            margin, token = _sampled_margin(logits, torch.rand(1, generator=generator, dtype=torch.float64), settings)
        new.append(token)
        so_far = clean_text(tokenizer, Decoded(new, ""), template)
        if token in stops or not all(text.startswith(so_far) for text in texts):
            break
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return margin


def _sampled_margin(logits: Tensor, draw: Tensor, settings: Settings) -> tuple[float, int]:
    """Return how near a draw is to another token, and the token.

    Near: to the edge of the token's share, where the nucleus ends to a token's place beyond it, or in logits to a
    neighbour in the order, with which it would change places.
    """
    kept, tokens = nucleus(logits, settings["temperature"], settings["top_k"], settings["top_p"])
    shares = kept.cumsum(dim=-1) / kept.sum()
    picked = int((shares < draw).sum())
    whole, _ = nucleus(logits, settings["temperature"], settings["top_k"], 2.0)  # nothing is cut off
    to_nucleus = (whole.cumsum(dim=-1) - whole - settings["top_p"]).abs().min()
    falling = logits[0, tokens[0]]
    to_neighbours = (falling[:-1] - falling[1:])[max(picked - 1, 0) : picked + 1].min()
    return float(min((shares - draw).abs().min(), to_nucleus, to_neighbours)), int(tokens[0, picked])


def check(explainer: Explainer, examples: Sequence[Example], generation: Settings) -> dict[str, Any]:
    """Compare the texts of all examples: greedy with the library's at batch 1, sampled between batch sizes."""
    greedy, sampled = ({**generation, "decoding": decoding} for decoding in ("greedy", "sampled"))
    want = library(explainer, examples, greedy, 1)
    facts: dict[str, Any] = {
        "test examples compared": len(examples),
        "greedy texts unlike generate's at batch 1 (ties of rounding)": ties(
            explainer, examples, greedy, want, ours(explainer, examples, greedy, SIZE)
        ),
    }
    texts = ours(explainer, examples, sampled, SIZE)
    for size in OTHER_SIZES:
        other = ours(explainer, examples, sampled, size)
        unlike = ties(explainer, examples, sampled, texts, other)
        facts[f"sampled texts at batch {size} unlike those at batch {SIZE} (ties of rounding)"] = unlike
    return facts


def main(args: argparse.Namespace) -> None:
    """Check the texts of all test examples, then time a part of them."""
    explainer, by_split, settings, data = demo_explainer(args.smoke)
    examples = by_split["test"]
    greedy = settings["generation"] | {"decoding": "greedy"}
    if args.smoke:
        greedy["max_new_tokens"] = 6
    facts = check(explainer, examples, greedy)
    part = examples[:: max(1, len(examples) // args.examples)][: args.examples]
    facts["examples timed"] = len(part)
    data = f"{data}, up to {greedy['max_new_tokens']} new tokens"
    for name, size in (("generation", 1), ("generation_plain", SIZE)):
        times = compare(
            lambda: ours(explainer, part, greedy, SIZE),
            lambda size=size: library(explainer, part, greedy, size),
            args.rounds,
            warm_up=False,  # the check has
        )
        record(args, name, times, data, facts)


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--examples", type=int, default=320, help="how many are timed (default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main, options())
