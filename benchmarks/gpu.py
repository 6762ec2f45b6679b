"""Tuning and generation with a random Llama-2-7B in bf16 on a CUDA device, on the real Amazon prompts."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from generation import by_length, library, ours
from harness import Skipped, Times, arguments, compare, limit, record, run, seconds
from material import amazon_examples, assemble, demo_explainer, scratch_settings
from table3 import EXPLANATIONS, TRAIN_SAMPLES
from torch import Tensor
from tuning import Losses, epoch, full_losses

from xrec_repro.examples import Example
from xrec_repro.explainer.explainer import Explainer, shared_opening
from xrec_repro.explainer.fusing import replaced
from xrec_repro.explainer.llm import LanguageModel, freeze
from xrec_repro.explainer.packing import packed_losses, packs
from xrec_repro.explainer.pretrain import train_tokenizer
from xrec_repro.explainer.prompts import Encoded
from xrec_repro.explainer.tuning import padded_losses

ALLOWED_GENERATION, ALLOWED_TUNING = 180, 24 * 60
TUNING_SIZES, GENERATION_SIZES = (1, 8, 32, 64), (1, 32, 64, 128, 256)
VOCABULARY = 6_000  # for which a word takes about as many tokens as with Llama's own tokenizer, which is not at hand
NEW_TOKENS = 70  # the released predictions have 51 words; random weights end no text by themselves


def llama(examples: Sequence[Example]) -> Explainer:
    """Make an explainer around a random model of Llama-2-7B's shape in bf16."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    texts = [f"{e.title} {e.user_profile} {e.item_profile} {e.reference}" for e in examples]
    tokenizer = train_tokenizer(texts, VOCABULARY, 4096)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(max_position_embeddings=4096), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    settings = scratch_settings() | {"prompt": {"profiles": True, "template": "code"}}
    explainer = assemble(LanguageModel(freeze(model), tokenizer, "random 7B"), settings, {"test": list(examples)})
    explainer.adapters.to("cuda")
    return explainer


def synchronised(call: Callable[[], Any]) -> Callable[[], None]:
    """Let a call end when the device is done."""

    def both() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return both


def rates(sizes: Sequence[int], make: Callable[[int], tuple[Callable[[], Any], int]]) -> dict[int, dict[str, float]]:
    """Return size -> rate (examples a second) and peak memory; stops at the first size that does not fit.

    Args:
        sizes: Batch sizes, rising.
        make: From a size to a call and the examples that it takes.
    """
    found: dict[int, dict[str, float]] = {}
    for size in sizes:
        call, count = make(size)
        try:
            synchronised(call)()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            used = seconds(synchronised(call))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
        found[size] = {"a second": round(count / used, 2), "peak GB": round(peak, 1)}
    return found


def best_of(found: dict[int, dict[str, float]]) -> int:
    """Return the size with the highest rate."""
    return max(found, key=lambda size: found[size]["a second"])


def packed(explainer: Explainer, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Tensor:
    """Losses of a batch whose prompts stand one after the other."""
    return packed_losses(explainer, encoded, explainer.adapt(examples))


def padded(explainer: Explainer, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Tensor:
    """Losses of a batch whose prompts are padded to one length."""
    return padded_losses(explainer, encoded, explainer.adapt(examples))


def measure_tuning(explainer: Explainer, examples: Sequence[Example], args: argparse.Namespace) -> None:
    """Measure tuning by batch size, packed and padded."""
    tokens = [len(explainer.encoder.train(e).ids) for e in examples]
    mean = sum(tokens) / len(tokens)
    found = {way.__name__: by_size(explainer, examples, way, args.smoke) for way in (packed, padded)}
    best = {name: best_of(sizes) for name, sizes in found.items()}
    rate = {name: found[name][size]["a second"] for name, size in best.items()}
    taken = "packed" if packs(explainer.llm.model, max(tokens)) else "padded"
    few = examples[: max(2, len(examples) // 8)]  # the loop takes long
    shared = len(shared_opening([explainer.encoder.train(e) for e in examples]))
    times = compare(
        synchronised(epoch(explainer, examples, best["packed"], packed)),
        synchronised(epoch(explainer, few, 1, full_losses)),
        args.rounds,
    )
    times = Times(times.ours, [used * len(examples) / len(few) for used in times.peer])
    peak = product_peak(explainer)

    def share(samples: float, tokens: float) -> float:
        return round(samples * operations(explainer, tokens) / peak, 3)

    facts = {
        "best batch": best["packed"],
        "mean tokens of a sample": round(mean, 1),
        "of which all have in common, read once": shared,
        "measured peak of matrix products, TFLOP/s": round(peak / 1e12, 1),
        "share of the measured peak of matrix products": share(rate["packed"], mean),
        "the same, of the tokens that are read": share(rate["packed"], mean - shared),
        "the same, padded, of all tokens": share(rate["padded"], mean),
        "taken by tuning here": taken,
        "losses beside those of batch 1, padded": differences(explainer, examples[: max(best.values())], best),
        "parts of layers that ran compiled": replaced(explainer.llm.model),
        "samples by batch": [
            {"prompts": name, "batch": size, **row} for name, sizes in found.items() for size, row in sizes.items()
        ],
    }
    record(args, "gpu_batching", times, what(explainer), facts)
    record(args, "gpu_tuning", limit(TRAIN_SAMPLES / rate[taken], ALLOWED_TUNING), what(explainer), facts)


def by_size(explainer: Explainer, examples: Sequence[Example], way: Losses, smoke: bool) -> dict[int, dict[str, float]]:
    """Return the rates of steps of several sizes, in samples and in tokens."""

    def part(size: int) -> Sequence[Example]:
        return examples[:: max(1, len(examples) // 16)] if size == 1 else examples

    def make(size: int) -> tuple[Callable[[], Any], int]:
        return epoch(explainer, part(size), size, way), len(part(size))

    found = rates(TUNING_SIZES[:2] if smoke else TUNING_SIZES, make)
    for size, row in found.items():
        tokens = sum(len(explainer.encoder.train(e).ids) for e in part(size))
        row["tokens a second"] = round(row["a second"] * tokens / len(part(size)))
    return found


def differences(explainer: Explainer, examples: Sequence[Example], sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Return by how much losses in batches of some sizes differ from those of each example alone."""
    explainer.adapters.eval()

    def losses(way: Losses, size: int) -> Tensor:
        parts = [examples[start : start + size] for start in range(0, len(examples), size)]
        return torch.cat([way(explainer, p, [explainer.encoder.train(e) for e in p]).detach() for p in parts])

    alone, rows = losses(padded, 1), []
    for way in (packed, padded):
        gaps = losses(way, sizes[way.__name__]) - alone
        found = {"largest": gaps.abs(), "largest, relative": gaps.abs() / alone, "of the mean": gaps.mean().abs()}
        row = {name: float(f"{values.max().item():.3g}") for name, values in found.items()}
        rows.append({"prompts": way.__name__, "batch": sizes[way.__name__], **row})
    return rows


def measure_generation(explainer: Explainer, examples: Sequence[Example], args: argparse.Namespace) -> None:
    """Measure generation by batch size."""
    settings = scratch_settings()["generation"] | {"max_new_tokens": 4 if args.smoke else NEW_TOKENS}
    settings["decoding"] = "sampled"
    sizes = GENERATION_SIZES[:2] if args.smoke else GENERATION_SIZES
    ordered = [example for example, _ in by_length(explainer, examples, settings)]

    def make(size: int) -> tuple[Callable[[], Any], int]:
        # Batches from the middle of the lengths: two, or eight single ones.
        count = min(len(ordered), 8 if size == 1 else 2 * size)
        part = ordered[(len(ordered) - count) // 2 :][:count]
        return lambda: ours(explainer, part, settings, size), count

    found = rates(sizes, make)
    best = best_of(found)
    rate = found[best]["a second"]
    facts = {
        "best batch": best,
        "new tokens": settings["max_new_tokens"],
        "share of the measured bandwidth at batch 1": generation_roofline(explainer, found[1]["a second"], settings),
        "generate with a static cache, compiled": static_rate(explainer, ordered, settings, best, args.smoke),
        "explanations by batch": [{"batch": size, **row} for size, row in found.items()],
    }
    record(args, "gpu_generation", limit(EXPLANATIONS / rate, ALLOWED_GENERATION), what(explainer), facts)


def static_rate(
    explainer: Explainer, ordered: Sequence[Example], settings: dict[str, Any], size: int, smoke: bool
) -> float | str:
    """Return explanations a second of `generate` with a static cache (which it compiles), or why it does not run."""
    if smoke:
        return "not tried"
    explainer.llm.model.generation_config.cache_implementation = "static"
    part = ordered[:size]
    try:
        for _ in range(2):  # the first compiles
            start = time.perf_counter()
            synchronised(lambda: library(explainer, part, settings, size))()
            used = time.perf_counter() - start
    except (RuntimeError, ValueError) as error:
        return f"does not run: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
    finally:
        explainer.llm.model.generation_config.cache_implementation = None
    return round(len(part) / used, 2)


def generation_roofline(explainer: Explainer, rate: float, settings: dict[str, Any]) -> float:
    """Return the share of the bandwidth: every token of a single text reads all weights once."""
    device = explainer.llm.device
    weights = sum(p.numel() * p.element_size() for p in explainer.llm.model.parameters())
    large = torch.empty(2**20 if device.type == "cpu" else 2**30, dtype=torch.uint8, device=device)
    copying = min(seconds(synchronised(lambda: large.clone())) for _ in range(5))
    return round(rate * settings["max_new_tokens"] * weights / (2 * large.numel() / copying), 3)


def product_peak(explainer: Explainer) -> float:
    """Return the operations a second of a large matrix product in the model's format."""
    device, dtype = explainer.llm.device, explainer.llm.model.dtype
    size = 256 if device.type == "cpu" else 8192
    square = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(seconds(synchronised(lambda: square @ square)) for _ in range(9))


def operations(explainer: Explainer, tokens: float) -> float:
    """Return those of a sample: two a weight and token forward, as many backward (none for weights)."""
    embedding = explainer.llm.model.get_input_embeddings().weight.numel()
    return tokens * 4 * (sum(p.numel() for p in explainer.llm.model.parameters()) - embedding)


def what(explainer: Explainer) -> str:
    """Say what was measured on."""
    return f"random weights, {explainer.llm.name}; a tokenizer trained on the texts"


def material(smoke: bool, gigabytes: int) -> tuple[Explainer, list[Example]]:
    """Return an explainer of Llama-2-7B's shape and real prompts for it, or the demo's random ones.

    Raises:
        Skipped: There is no GPU, or the released texts are not at hand.
    """
    if smoke:
        explainer, by_split, _, _ = demo_explainer(smoke=True)
        return explainer, by_split["test"]
    if not torch.cuda.is_available():
        raise Skipped(f"torch sees no CUDA device; run this script on a machine with a GPU of {gigabytes} GB or more")
    examples = amazon_examples()
    if not examples:
        raise Skipped("the released Amazon texts are not at hand; set XREC_SHARED to the folder of data/xrec/amazon")
    return llama(examples), examples


def main(args: argparse.Namespace) -> None:
    """Measure tuning and generation."""
    explainer, examples = material(args.smoke, 40)
    part = examples[:: max(1, len(examples) // args.examples)][: args.examples]
    measure_tuning(explainer, part, args)
    if args.only == "tuning":
        return
    explainer.adapters.eval()
    measure_generation(explainer, examples, args)


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--examples", type=int, default=128, help="samples timed in tuning (default: %(default)s)")
    parser.add_argument("--only", choices=["tuning"], help="measure tuning alone (default: generation too)")
    return parser


if __name__ == "__main__":
    run(main, options())
