"""Tuning steps at several batch sizes, also in parts, against a loop at batch 1 that computes logits everywhere."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import arguments, compare, record, run, seconds
from material import demo_explainer
from torch import Tensor
from torch.nn import functional as F

from xrec_repro.examples import Example
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.prompts import IGNORED_LABEL, Encoded
from xrec_repro.explainer.tuning import add_gradients, example_losses

# Size of the batch, and how many of it the language model reads at once (None: all).
SIZES = [(size, None) for size in (1, 4, 8, 16, 32)] + [(16, 4), (16, 8), *((b, p) for b in (32, 64) for p in (8, 16))]
Losses = Callable[[Explainer, Sequence[Example], Sequence[Encoded]], Tensor]


def full_losses(explainer: Explainer, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Tensor:
    """Loss of each example with the whole prompt read in every step and logits at all of its places."""
    batch = pad_left(encoded, explainer.pad_id, explainer.llm.device)
    with explainer.injector.prompt(explainer.adapt(examples), batch.positions, batch.ids.shape[1]):
        logits = explainer.llm.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.position_ids
        ).logits[:, :-1]
    labels = batch.labels[:, 1:]
    losses = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED_LABEL, reduction="none")
    return losses.sum(dim=1) / (labels != IGNORED_LABEL).sum(dim=1)


def epoch(explainer: Explainer, examples: Sequence[Example], size: int, losses_of: Losses) -> Callable[[], None]:
    """Return a call that takes the examples once, in the order given, in steps of so many, with Adam."""
    return _epoch(explainer, examples, size, lambda *rows: losses_of(explainer, *rows).mean().backward())


def epoch_in_parts(
    explainer: Explainer, examples: Sequence[Example], size: int, at_once: int | None
) -> Callable[[], None]:
    """Return such a call that adds up gradients as the workflow does."""
    return _epoch(explainer, examples, size, lambda *rows: add_gradients(explainer, *rows, at_once))


def _epoch(explainer: Explainer, examples: Sequence[Example], size: int, backward: Callable) -> Callable[[], None]:
    encoded = [explainer.encoder.train(example) for example in examples]
    optimizer = torch.optim.Adam(explainer.adapters.parameters(), lr=1e-4)

    def call() -> None:
        explainer.adapters.train()
        for start in range(0, len(examples), size):
            rows = slice(start, start + size)
            optimizer.zero_grad(set_to_none=True)
            backward(examples[rows], encoded[rows])
            optimizer.step()

    return call


def check(explainer: Explainer, examples: Sequence[Example]) -> None:
    """Compare losses, and the gradients of their mean, of one batch, of its parts and of the loop at batch 1."""
    explainer.adapters.eval()
    encoded = [explainer.encoder.train(example) for example in examples]
    parameters = [p for p in explainer.adapters.parameters() if p.requires_grad]
    together = example_losses(explainer, examples, encoded)
    alone = torch.cat([full_losses(explainer, [e], [row]) for e, row in zip(examples, encoded, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(losses.mean(), parameters, allow_unused=True) for losses in (together, alone)]
    explainer.adapters.zero_grad(set_to_none=True)
    add_gradients(explainer, examples, encoded, 3)
    gradients.append([p.grad for p in parameters])
    for one, *others in zip(*gradients, strict=True):
        for other in others:
            assert (one is None) == (other is None), "a gradient is missing"
            if one is not None:
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def main(args: argparse.Namespace) -> None:
    """Check losses and gradients, find the best batch size, time it against the loop."""
    explainer, by_split, _, data = demo_explainer(args.smoke)
    count = 8 if args.smoke else args.examples
    examples = by_split["train"][:count]
    check(explainer, examples[:8])
    calls = {_name(*sizes): epoch_in_parts(explainer, examples, *sizes) for sizes in SIZES if sizes[0] <= count}
    for call in calls.values():
        call()
    rates = {name: round(len(examples) / seconds(call), 1) for name, call in calls.items()}
    best = max(rates, key=rates.__getitem__)
    times = compare(calls[best], epoch(explainer, examples, 1, full_losses), args.rounds)
    facts: dict[str, Any] = {
        "best batch": best,
        "samples a second by batch": rates,
        "examples timed": len(examples),
        "order of the examples": "as drawn, as in the workflow: lengths are mixed in a batch, alike in its parts",
    }
    record(args, "tuning", times, data, facts)


def _name(size: int, at_once: int | None) -> str:
    return f"{size}" if at_once is None else f"{size} in parts of {at_once}"


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--examples", type=int, default=160, help="how many are timed (default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main, options())
