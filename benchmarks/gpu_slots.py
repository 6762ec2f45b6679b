"""Explanations in slots with a random Llama-2-7B in bf16 on a CUDA device, against transformers' compiled `generate`.

The same real Amazon prompts, 70 new tokens each. Texts decoded one at a time are compared with those of more slots.
"""

import argparse
import gc
from collections.abc import Sequence
from typing import Any

import torch
from generation import by_length, ours
from gpu import EXPLANATIONS, NEW_TOKENS, material, static_rate, synchronised, what
from harness import Times, arguments, limit, record, run, seconds
from material import scratch_settings

from xrec_repro.examples import Example
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.generation import stops_of
from xrec_repro.lm.slots import SlotDecoder

SLOTS, SMOKE_SLOTS = (1, 8, 32, 64, 256, 384), (1, 4)
COMPARED = {"exact": 64, "fast": 16}  # texts
ALLOWED_S = 25
PEER_BATCH = 256
SHARE = 0.55
Settings = dict[str, Any]
Ids = dict[str, list[int]]  # by example id


def make(explainer: Explainer, known: Sequence[Example], settings: Settings) -> SlotDecoder:
    """Return a decoder for examples; on a GPU its step is captured."""
    encoded = {e.example_id: explainer.encoder.test(e, settings["max_new_tokens"]) for e in known}
    return SlotDecoder(explainer, settings, 1, encoded, stops_of(explainer))


def measure(
    explainer: Explainer, examples: Sequence[Example], settings: Settings, slots: int, compared: int
) -> tuple[dict[str, Any], Ids]:
    """Decode two fillings of the slots; return what was measured, and the tokens of the first examples.

    Args:
        explainer: With a random model.
        examples: Those to be compared come first.
        settings: Section ``generation``.
        slots: How many texts at once.
        compared: How many examples are compared; all of them are decoded.
    """
    gpu = explainer.llm.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    part = examples[: max(compared, 2 * slots)]
    found: list[SlotDecoder] = []
    begun = seconds(synchronised(lambda: found.append(make(explainer, part, settings | {"batch_size": slots}))))
    decoder, ids = found.pop(), {}
    begun += seconds(lambda: list(decoder.decode(part[: min(slots, 32)])))  # captures how prompts are read

    def decode() -> None:
        ids.update((example.example_id, result.ids) for example, result in decoder.decode(part))

    used = seconds(synchronised(decode))
    step = min(seconds(synchronised(decoder.model.step)) for _ in range(5))
    row = {
        "invariance": settings["invariance"],
        "slots": slots,
        "a second": round(len(part) / used, 2),
        "ms of a step": round(step * 1e3, 2),
        "seconds to set up": round(begun, 1),
        "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 1) if gpu else 0.0,
    }
    print("  ", row, flush=True)
    return row, {example.example_id: ids[example.example_id] for example in part[:compared]}


def ladder(
    explainer: Explainer, examples: Sequence[Example], settings: Settings, sizes: Sequence[int], compared: int
) -> list[dict[str, Any]]:
    """Measure by number of slots; each row says how many texts are those of one slot."""
    rows, alone = [], None
    for slots in sizes:
        try:
            row, ids = measure(explainer, examples, settings, slots, compared)
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            release()
        alone = alone or ids
        equal = sum(alone[name] == ids[name] for name in alone)
        rows.append(row | {f"texts of {len(alone)} equal to those of 1 slot": equal})
    return rows


def reading(explainer: Explainer) -> tuple[float, float]:
    """Return the seconds in which all weights can be read at the measured bandwidth, and that in TB/s."""
    device = explainer.llm.device
    weights = sum(p.numel() * p.element_size() for p in explainer.llm.model.parameters())
    large = torch.empty(2**20 if device.type == "cpu" else 2**32, dtype=torch.uint8, device=device)
    other = torch.empty_like(large)
    copying = min(seconds(synchronised(lambda: other.copy_(large))) for _ in range(9))
    bandwidth = 2 * large.numel() / copying
    return weights / bandwidth, bandwidth / 1e12


def main(args: argparse.Namespace) -> None:
    """Measure both promises by number of slots, the peer, and all explanations."""
    explainer, examples = material(args.smoke, 80)
    explainer.adapters.eval()
    settings = scratch_settings()["generation"] | {
        "decoding": "sampled",
        "max_new_tokens": 4 if args.smoke else NEW_TOKENS,
    }
    sizes = SMOKE_SLOTS if args.smoke else SLOTS
    ideal, bandwidth = reading(explainer)
    spread = [example for start in range(47) for example in examples[start::47]]
    rows = {
        way: ladder(explainer, spread, settings | {"invariance": way}, sizes, 4 if args.smoke else compared)
        for way, compared in COMPARED.items()
    }
    tokens = {way: found[0]["a second"] * settings["max_new_tokens"] for way, found in rows.items()}
    facts = {
        "new tokens": settings["max_new_tokens"],
        "TB/s of a copy on the device, read and written": round(bandwidth, 3),
        **{f"share of the measured bandwidth in 1 slot, {way}": round(ideal * rate, 3) for way, rate in tokens.items()},
        "by slots": [row for found in rows.values() for row in found],
    }
    data = what(explainer)
    record(args, "gpu_slots_single", limit(1 / tokens["fast"], ideal / SHARE), data, facts)
    best = {way: max(found, key=lambda row: row["a second"]) for way, found in rows.items()}
    measure_all(explainer, examples[:EXPLANATIONS], settings, best, args)
    if args.peer:
        measure_peer(explainer, examples, settings, best, args)


def measure_all(
    explainer: Explainer,
    examples: Sequence[Example],
    settings: Settings,
    best: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Measure all explanations from examples to a Parquet file, with the best number of slots."""
    for way, row in best.items():
        chosen = settings | {"invariance": way}
        used = seconds(synchronised(lambda chosen=chosen, row=row: ours(explainer, examples, chosen, row["slots"])))
        used *= EXPLANATIONS / len(examples)
        facts = {"slots": row["slots"], "explanations a second": round(EXPLANATIONS / used, 1)}
        record(args, f"gpu_slots_all_{way}", limit(used, ALLOWED_S), what(explainer), facts)
        release()


def measure_peer(
    explainer: Explainer,
    examples: Sequence[Example],
    settings: Settings,
    best: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Measure transformers' `generate` on prompts of middle length, and compare the rates."""
    middle = [example for example, _ in by_length(explainer, examples, settings)][(len(examples) - PEER_BATCH) // 2 :]
    rate = static_rate(explainer, middle, settings, PEER_BATCH, args.smoke)
    print("   transformers:", rate, flush=True)
    for way, row in best.items() if isinstance(rate, float) else ():
        facts = {
            "slots": row["slots"],
            "explanations a second": row["a second"],
            "transformers' explanations a second": rate,
        }
        record(args, f"gpu_slots_{way}", Times([1 / row["a second"]], [1 / rate]), what(explainer), facts)


def release() -> None:
    """Give back the memory of a decoder that is gone."""
    gc.collect()
    torch.cuda.empty_cache()


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave out transformers' generate")
    return parser


if __name__ == "__main__":
    run(main, options())
