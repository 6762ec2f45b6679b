"""SmolLM2 as judge: how many of its replies are scores, and whether `expected` puts good texts above others."""

import argparse
from typing import Any

import numpy as np
from harness import arguments, run, seconds, write
from material import predictions, smollm2

from xrec_repro.config import Config
from xrec_repro.metrics.base import Scored
from xrec_repro.metrics.llamascore import LlamaScore
from xrec_repro.metrics.registry import build_metric
from xrec_repro.seeding import numpy_rng

COUNT = 60  # examples; and texts whose replies are read
ATTEMPTS = 2  # the question, and once more with the reminder
SAMPLES = 9999
Texts = list[str]


def auc(good: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Return how often a good text scores above another (a tie counts half), with a 95 % percentile interval.

    Args:
        good: A score an example, ``(examples,)``.
        other: Of the other texts; row i is of the same example. Examples are drawn whole.
    """
    above = (good[:, None] > other) + 0.5 * (good[:, None] == other)
    n = len(good)
    drawn = numpy_rng(0, "smollm_judge").multinomial(n, np.full(n, 1 / n), SAMPLES)
    low, high = np.percentile(((drawn @ above) * drawn).sum(axis=1) / n**2, [2.5, 97.5])
    return float(above.mean()), float(low), float(high)


def turned(texts: Texts) -> Texts:
    """Return the texts half a turn on, so that each stands beside another example's reference."""
    half = len(texts) // 2
    return texts[half:] + texts[:half]


def expect(metric: LlamaScore, texts: dict[str, Texts], references: Texts) -> tuple[dict[str, Any], float]:
    """Score texts of every kind in mode `expected`; return tables, and seconds a text."""
    every = [text for kind in texts.values() for text in kind]
    scored: list[Scored] = []
    took = seconds(lambda: scored.append(metric.scored(every, references * len(texts))))
    scores = dict(zip(texts, np.split(scored[0].columns["llamascore"], len(texts)), strict=True))
    masses = dict(zip(texts, np.split(np.array(scored[0].replies["number_mass"], float), len(texts)), strict=True))
    rows = [
        {
            "text": kind,
            "scored": int(np.isfinite(values).sum()),
            "mean": round(float(values.mean()), 2),
            "sd": round(float(values.std()), 2),
            "probability of all numbers, mean": round(float(masses[kind].mean()), 4),
            "largest": round(float(masses[kind].max()), 4),
        }
        for kind, values in scores.items()
    ]
    pairs = [
        {"good": good, "other": other}
        | dict(zip(("AUC", "from", "to"), (round(one, 3) for one in auc(scores[good], scores[other])), strict=True))
        | {"good above other, same example": int((scores[good] > scores[other]).sum()), "of": len(references)}
        for good, other in (("reference", "another reference"), ("XRec's", "another XRec's"), ("reference", "XRec's"))
    ]
    return {"expected": rows, "expected, good against other": pairs}, took / len(every)


def parse(metric: LlamaScore, texts: dict[str, Texts], references: Texts) -> tuple[dict[str, Any], float]:
    """Have texts of every kind judged in mode `parse`; return a table, and seconds a reply."""
    every = [text for kind in texts.values() for text in kind]
    scored: list[Scored] = []
    took = seconds(lambda: scored.append(metric.scored(every, references)))
    read, told = np.isfinite(scored[0].columns["llamascore"]), scored[0].replies
    asked = np.array(told["asked"])
    last = [" ".join(reply.split()).replace("|", "/") for reply in told["reply"]]
    row = {
        "texts": len(every),
        "first replies with a number": int((read & (asked == 1)).sum()),
        f"with a number after at most {metric.attempts}": int(read.sum()),
        "replies": int(asked.sum()),
        "last replies cut off": int(sum(told["truncated"])),
    }
    common = [{"last reply": reply, "of": last.count(reply)} for reply in sorted(set(last), key=last.count)[::-1][:5]]
    return {"parse": [row], "parse, most frequent last replies": common}, took / asked.sum()


def judge_of(config: Config, model: str, mode: str) -> LlamaScore:
    """Return the judge with its default settings, but for the attempts; in `expected` every text has a score."""
    settings = config["metrics"]["llamascore"] | {"model": model, "mode": mode, "min_mass": 0.0, "attempts": ATTEMPTS}
    return build_metric("llamascore", settings, "cpu")


def main(args: argparse.Namespace) -> None:
    """Judge the texts in both modes, write down what came of it."""
    model, config = smollm2()
    count = 4 if args.smoke else COUNT
    released, references, data = predictions(count)
    texts = {"reference": references, "XRec's": released}
    texts |= {"another reference": turned(references), "another XRec's": turned(released)}
    expecting, parsing = (judge_of(config, str(model), mode) for mode in ("expected", "parse"))
    tables, second = expect(expecting, texts, references)
    some = count // 4
    few = {kind: part[kind_number * some :][:some] for kind_number, (kind, part) in enumerate(texts.items())}
    replies, reply = parse(parsing, few, references[: 4 * some])
    facts = {"signature": expecting.signature, "seconds a text, expected": round(second, 2)}
    facts |= {"seconds a reply, parse": round(float(reply), 2)} | tables | replies
    for name in ("expected", "expected, good against other", "parse"):
        for row in facts[name]:
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    write(args, "smollm_judge", {"data": data, "facts": facts})


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    return arguments(__doc__, rounds=1)


if __name__ == "__main__":
    run(main, options())
