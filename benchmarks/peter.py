"""PETER: cached greedy decoding against reading the prefix again, and a training epoch against the plain loop."""

import argparse
from copy import deepcopy
from typing import Any

import torch
from harness import ROOT, arguments, compare, record, run
from material import predictions
from torch import Tensor, nn
from torch.nn import functional as F

from xrec_repro.config import load_config
from xrec_repro.examples import Example
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import make_method
from xrec_repro.methods.ids.decoding import greedy
from xrec_repro.methods.ids.fitting import Explaining
from xrec_repro.methods.ids.reader import Rows
from xrec_repro.methods.ids.transformer import Peter
from xrec_repro.methods.ids.words import BOS, PAD
from xrec_repro.training import Plan, train

SMALL = {"size": 16, "hidden": 32, "words": 12, "batch_size": 8}
RATE = 0.1  # below the published 1.0, at which rounding grows tenfold a step and hides whether losses are the same


def material(args: argparse.Namespace) -> tuple[Any, Peter, Rows, str]:
    """Return the method with its published sizes (dropout 0), a fresh network, and released texts as rows."""
    _, texts, where = predictions(args.texts)
    examples = [
        Example(f"e{n}", n % 97, n % 89, f"u{n % 97}", f"i{n % 89}", "", None, None, text, "train", 4.0 + n % 2)
        for n, text in enumerate(texts)
    ]
    entry = load_config(ROOT / "config/config.yaml")["methods"]["peter"]
    own = {
        "name": "peter",
        **entry,
        "dropout": 0.0,
        "batch_size": 32,
        "learning_rate": RATE,
        "epochs": 1,
        "first_epoch": "in_order",
    }
    method = make_method(own | (SMALL if args.smoke else {}), "fit", Run(seed=0))
    reader = method.reader(examples)
    sizes = f"{method.settings.size} dimensions, {len(reader.vocabulary):,} words"
    return method, method.fresh(reader).eval(), reader.rows(examples), f"{where}, {sizes}"


# --- Decoding -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def prefix_again(network: Peter, rows: Rows, steps: int) -> Tensor:
    """Write greedily as the authors do: each step reads all that was written."""
    words = torch.full_like(rows.text[:, :1], BOS)
    for total in range(network.first_word + 1, network.first_word + steps + 1):
        vectors = network.embedded(rows, words)
        hidden = network.encoder(vectors, network.mask[:total, :total], network.padding(rows, words))
        words = torch.cat([words, network.out(hidden[:, -1]).argmax(1)[:, None]], 1)
    return words[:, 1:]


def measure_decoding(args: argparse.Namespace, method: Any, network: Peter, rows: Rows, where: str) -> None:
    """Compare both ways to decode, all steps of them."""
    network = deepcopy(network)
    with torch.no_grad():  # a fresh network repeats one word
        for table in network.entities:
            table.weight.mul_(20)
    some, steps = rows.take(slice(args.batch)), method.settings.words
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = greedy(network, some, steps, stop=False)[0]

    def peer() -> None:
        found["peer"] = prefix_again(network, some, steps)

    times = compare(ours, peer, args.rounds, warm_up=False)
    assert torch.equal(found["ours"], found["peer"]), "the words differ"
    facts = {"distinct texts": len({tuple(text) for text in found["ours"].tolist()})}
    data = f"a fresh PETER, {where}; {len(some)} texts of {steps} words at once"
    record(args, "peter_decoding", times, data, facts)


# --- Training -------------------------------------------------------------------------------------------------------
def plain_epoch(network: Peter, rows: Rows, plan: Plan) -> list[float]:
    """Train an epoch as the authors' loop does: texts padded to full length, words scored at all places."""
    optimizer, losses = plan.optimizer(list(network.parameters())), []
    network.train()
    for start in range(0, len(rows), plan.batch_size):
        part = slice(start, start + plan.batch_size)
        batch = Rows(rows.user[part], rows.item[part], rows.text[part], rows.rating[part], rows.given[part])
        words, targets = batch.text[:, :-1], batch.text[:, 1:]
        total = network.first_word + words.shape[1]
        hidden = network.encoder(
            network.embedded(batch, words), network.mask[:total, :total], network.padding(batch, words)
        )
        scores = torch.log_softmax(network.out(hidden[:, network.first_word :]), 2)
        text = F.nll_loss(scores.flatten(0, 1), targets.flatten(), ignore_index=PAD)
        context = torch.log_softmax(network.out(hidden[:, 1]), 1)[:, None].expand(-1, words.shape[1] - 1, -1)
        context = F.nll_loss(context.flatten(0, 1), targets[:, :-1].flatten(), ignore_index=PAD)
        rating = F.mse_loss(network.rating(hidden[:, 0])[:, 0], batch.rating)
        loss = text + network.weights["context"] * context + network.weights["rating"] * rating
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def measure_epoch(args: argparse.Namespace, method: Any, network: Peter, rows: Rows, where: str) -> None:
    """Compare an epoch of both loops from the same weights."""
    first = {name: value.clone() for name, value in network.state_dict().items()}
    plan = method.plan(evaluated=False)

    found: dict[str, list[float]] = {}

    def ours() -> None:
        network.load_state_dict(first)
        trainee = Explaining(network, rows, rows.take(slice(0)), batch_size=plan.batch_size, in_order=True)
        found["ours"] = [losses[0] for losses in train(trainee, plan).curve]

    def peer() -> None:
        network.load_state_dict(first)
        found["peer"] = plain_epoch(network, rows, plan)

    times = compare(ours, peer, args.rounds, warm_up=False)
    furthest = max(abs(a - b) for a, b in zip(found["ours"], found["peer"], strict=True))
    assert furthest < 1e-5, f"losses differ by {furthest}"
    facts = {"steps": len(found["ours"]), "largest difference of a step's loss": furthest}
    data = f"an epoch of {where}; batches of {plan.batch_size}, dropout 0"
    record(args, "peter_epoch", times, data, facts)


MEASURES = {"decoding": measure_decoding, "epoch": measure_epoch}


def main(args: argparse.Namespace) -> None:
    """Measure both, or what was asked for."""
    args.texts, args.batch = (20, 4) if args.smoke else (args.texts, args.batch)
    made = material(args)
    for name in args.only:
        MEASURES[name](args, *made)


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=[*MEASURES], help="which to run (default: all)")
    parser.add_argument("--texts", type=int, default=128, help="texts of an epoch (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="texts decoded at once (default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main, options())
