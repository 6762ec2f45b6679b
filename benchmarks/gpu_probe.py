"""What changes the bits of a row in one decoding step of Llama-2-7B's shape in bf16, and what ways cost that do not.

Each operation that a step makes on a row is asked: does the row get the same bits in a batch of another height, in
another place, beside other rows, when called again? Products are made by cuBLAS as torch calls it, by cuBLAS on slices
of one height, and in Triton. Weights take turns in the timing, so that they come from memory and not from a cache.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
import torch
import torch.nn.functional as F
from harness import Skipped, arguments, microseconds, run, write
from products import TILES, TRITON, ways
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Op = Callable[..., Tensor]
Row = dict[str, Any]
BACKENDS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "default": None,  # what torch takes
}


@dataclass(frozen=True)
class Model:
    """The shape of the language model whose step is probed."""

    hidden: int = 4096
    inner: int = 11_008
    vocabulary: int = 32_000
    heads: int = 32
    layers: int = 32
    cache: int = 384  # tokens
    heights: tuple[int, ...] = (1, 8, 16, 32, 64, 128, 256)  # rows of a batch
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"
    weights: int = 400_000_000  # bytes of weights that take turns

    @property
    def products(self) -> dict[str, tuple[int, int, int]]:
        """Outputs, inputs and number in a step of each product with weights."""
        return {
            "q, k, v, o": (self.hidden, self.hidden, 4 * self.layers),
            "gate, up": (self.inner, self.hidden, 2 * self.layers),
            "down": (self.hidden, self.inner, self.layers),
            "head": (self.vocabulary, self.hidden, 1),
        }

    @property
    def top(self) -> int:
        """The largest height."""
        return self.heights[-1]


SMOKE = Model(256, 256, 256, 4, 2, 48, (1, 8, 32), torch.float32, "cpu", 0)


def ask(op: Op, inputs: Sequence[Tensor], others: Sequence[Tensor], heights: Sequence[int], seen: list[Tensor]) -> Row:
    """Ask what changes the bits of a row.

    Args:
        op: Row by row; takes tensors [m, …], returns [m, …].
        inputs: Tensors [largest height, …]; they are cut to each height.
        others: Tensors of the same shapes, with other rows.
        heights: Rows of a batch, rising.
        seen: Results that have a letter; new ones are appended.

    Returns:
        ``bits``: a letter for the first row's result at each height, equal letters for equal bits; ``changed by``: what
        changes bits, with the heights where it does.
    """
    bits, changed, last = "", {"place": [], "neighbours": [], "a second call": []}, op(*inputs)
    height_matters = False
    for m in heights:
        cut = [t[:m] for t in inputs]
        y = op(*cut)
        number = next((i for i, one in enumerate(seen) if torch.equal(one, y[0])), len(seen))
        if number == len(seen):
            seen.append(y[0].clone())
        bits += chr(ord("A") + number)
        again = torch.equal(y, op(*cut))
        order = torch.randperm(m, generator=torch.Generator().manual_seed(m)).to(y.device)
        mixed = [torch.cat([a[:1], b[1 : m - 1], a[1:m][-1:]]) for a, b in zip(cut, others, strict=True)]
        beside = op(*mixed)
        same = {
            "place": torch.equal(y[order], op(*(t[order].contiguous() for t in cut))),
            "neighbours": torch.equal(beside[0], y[0]) and torch.equal(beside[-1], y[-1]),
            "a second call": again,
        }
        for what, holds in same.items():
            changed[what] += [] if holds else [m]
        height_matters |= again and not torch.equal(y, last[:m])
    found = [f"{what} ({', '.join(map(str, at))})" for what, at in changed.items() if at]
    # Where a second call differs, so does another height; that says nothing about heights.
    if len(set(bits)) > 1 or (height_matters and not changed["a second call"]):
        found.insert(0, "height")
    return {"bits": bits, "changed by": ", ".join(found) or "nothing"}


def error(found: Tensor, want: Tensor) -> float:
    """Return the relative error against a result in float64."""
    return float(f"{float((found.double() - want).norm() / want.norm()):.1e}")


def noise(model: Model, *shape: int, scale: float = 1.0) -> Tensor:
    """Draw from a normal distribution."""
    return (torch.randn(*shape, device=model.device) * scale).to(model.dtype)


def probe_rows(model: Model) -> list[Row]:
    """Ask norms and softmax."""
    ones = torch.ones(model.hidden, device=model.device, dtype=model.dtype)

    def rmsnorm(x: Tensor) -> Tensor:
        h = x.float()
        return ones * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)

    rows = []
    for name, op, width in (
        ("RMSNorm, as in transformers", rmsnorm, model.hidden),
        ("torch's rms_norm", lambda x: F.rms_norm(x, (model.hidden,), ones, 1e-5), model.hidden),
        ("softmax of float32 logits", lambda x: x.float().softmax(-1), model.vocabulary),
    ):
        x, others = noise(model, model.top, width), noise(model, model.top, width, scale=30.0)
        times = {str(m): microseconds([partial(op, x[:m])] * 8) for m in model.heights}
        rows.append({"operation": name, **ask(op, [x], [others], model.heights, []), **times})
    return rows


def probe_attention(model: Model) -> list[Row]:
    """Ask attention by backend: one query a row, a static cache, a mask over what is not written yet."""
    size = (model.top, model.heads, model.cache, model.hidden // model.heads)
    q, k, v = noise(model, *size[:2], 1, size[3]), noise(model, *size), noise(model, *size)
    written = torch.randint(model.cache // 2, model.cache, (model.top,), device=model.device)
    mask = (torch.arange(model.cache, device=model.device) < written[:, None])[:, None, None]
    others = [noise(model, *t.shape, scale=3.0) for t in (q, k, v)] + [mask.flip(0)]
    rows, seen = [], []
    for name, backend in BACKENDS.items():

        def op(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, backend: SDPBackend | None = backend) -> Tensor:
            with sdpa_kernel(backend) if backend else nullcontext():
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

        row = {"operation": f"attention, {name}"}
        try:
            y = op(q, k, v, mask)
        except RuntimeError as problem:
            rows.append(row | {"bits": "–", "changed by": f"does not run: {str(problem).split('.')[0]}"})
            continue
        row |= ask(op, [q, k, v, mask], others, model.heights, seen)
        shown = mask.transpose(2, 3)
        hidden = [torch.where(shown, t, noise(model, *t.shape, scale=30.0)) for t in (k, v)]
        wide, more = [F.pad(t, (0, 0, 0, model.cache // 3)) for t in (k, v)], F.pad(mask, (0, model.cache // 3))
        row["behind the mask"] = "same" if torch.equal(y, op(q, *hidden, mask)) else "differs"
        row["longer cache"] = "same" if torch.equal(y, op(q, *wide, more)) else "differs"
        few = [t[:32] for t in (q, k, v)]
        want = F.scaled_dot_product_attention(*(t.double() for t in few), attn_mask=mask[:32])
        row["error"] = error(y[:32], want)
        cuts = {m: partial(op, *(t[:m] for t in (q, k, v, mask))) for m in model.heights}
        rows.append(row | {str(m): microseconds([call] * 4) for m, call in cuts.items()})
    return rows


def probe_products(model: Model, tiles: bool) -> list[Row]:
    """Ask products with weights, by shape and way."""
    rows = []
    for shape, (n, k, _) in model.products.items():
        weights = [noise(model, n, k, scale=k**-0.5) for _ in range(max(2, -(-model.weights // (2 * n * k))))]
        x, others = noise(model, model.top, k), noise(model, model.top, k, scale=30.0)
        want, seen = x.double() @ weights[0].double().T, []
        for way, op in ways(tiles).items():
            row = {"product": shape, "way": way, "error": error(op(x, weights[0]), want)}
            row |= ask(lambda t, op=op, w=weights[0]: op(t, w), [x], [others], model.heights, seen)
            rows.append(row | {str(m): microseconds([partial(op, x[:m], w) for w in weights]) for m in model.heights})
    return rows


def steps(model: Model, products: Sequence[Row], attention: Sequence[Row]) -> list[Row]:
    """Add up what a step takes: ms by height for all products by way, and for all layers' attention by backend.

    The best tile is the fastest for each product and height among those with the bits of the first: another height may
    take another, and a row's bits still do not depend on it.
    """
    heights, rows = [str(m) for m in model.heights], []
    first = {row["product"]: row["bits"] for row in reversed(products) if row["way"] == next(iter(TILES))}

    def added(name: str, chosen: Callable[[str, str], float]) -> Row:
        sums = {m: sum(chosen(shape, m) * count for shape, (_, _, count) in model.products.items()) for m in heights}
        return {"part of a step": name, **{m: round(total / 1e3, 2) for m, total in sums.items()}}

    times = {(row["product"], row["way"]): row for row in products}
    for way in dict.fromkeys(row["way"] for row in products):
        rows.append(added(f"products, {way}", lambda shape, m, way=way: times[shape, way][m]))
    if first:
        like = {s: [r for (p, w), r in times.items() if p == s and w in TILES and r["bits"] == first[s]] for s in first}
        rows.append(added("products, best tile", lambda shape, m: min(row[m] for row in like[shape])))
        ratios = {m: round(rows[-1][m] / rows[0][m], 2) for m in heights}
        rows.append({"part of a step": "best tile over cuBLAS", **ratios})
    for row in attention:
        if heights[0] in row:
            ms = {m: round(row[m] * model.layers / 1e3, 2) for m in heights}
            rows.append({"part of a step": row["operation"], **ms})
    return rows


def main(args: argparse.Namespace) -> None:
    """Probe a step, print what was found and write it down."""
    if not args.smoke and not torch.cuda.is_available():
        raise Skipped("torch sees no CUDA device; run this script on a machine with a GPU of 24 GB or more")
    model = SMOKE if args.smoke else Model()
    tiles = model.device == "cuda" and TRITON
    torch.manual_seed(1)
    with torch.no_grad():
        large = torch.empty(2**20 if args.smoke else 2**31, dtype=torch.uint8, device=model.device)
        copied = microseconds([partial(torch.empty_like(large).copy_, large)] * 3)
        rows, attention, products = probe_rows(model), probe_attention(model), probe_products(model, tiles)
    facts = {
        "TB/s of a copy on the device, read and written": round(2 * large.numel() / copied / 1e6, 3),
        "Triton": version("triton") if tiles else None,
        "norms and softmax; microseconds by height": rows,
        "attention; microseconds by height": attention,
        "products; microseconds by height": products,
        "ms of one step by height": steps(model, products, attention),
    }
    write(
        args, "gpu_probe", {"data": f"random numbers in {model.dtype}, a cache of {model.cache} tokens", "facts": facts}
    )
    for row in [*rows, *attention, *products, *facts["ms of one step by height"]]:
        print("   " + "; ".join(f"{key} {value}" for key, value in row.items()))


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    return arguments(__doc__, rounds=1)


if __name__ == "__main__":
    run(main, options())
