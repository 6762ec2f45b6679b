"""What slots promise on a GPU: kernels that do as torch does, rows whose bits no other row enters, the same texts."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests.unit.conftest import make_examples
from tests.unit.test_generation import GREEDY, SAMPLED
from tests.unit.test_slots import EXACT, FAST, alone, in_order, texts_of
from xrec_repro.lm import torch_ops

pytestmark = pytest.mark.gpu
CLOSE = {torch.float32: {"atol": 1e-4, "rtol": 1e-4}, torch.bfloat16: {"atol": 6e-2, "rtol": 2e-2}}


def drawn(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, device="cuda").to(dtype)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("heads", "shared", "width"), [(4, 2, 8), (6, 3, 16), (8, 8, 128)])
def test_kernels_do_as_torch_does(dtype, heads, shared, width):
    from xrec_repro.lm import kernels

    torch.manual_seed(0)
    counts, firsts, slots, room = (70, 30, 10), (3, 0, 9), (0, 2, 1), 150
    q, k, v = (drawn(1, sum(counts), n * width, dtype=dtype) for n in (heads, shared, shared))
    angle = torch.randn(room, width // 2, device="cuda").repeat(1, 2)
    at = (
        torch.cat([torch.full((n,), slot) for n, slot in zip(counts, slots, strict=True)]).cuda(),
        torch.cat([torch.arange(first, first + n) for n, first in zip(counts, firsts, strict=True)]).cuda(),
    )
    angles, caches = (angle.cos().to(dtype), angle.sin().to(dtype)), []
    starts = [sum(counts[:n]) for n in range(3)]
    blocks = torch.tensor(
        [
            [start + n, min(kernels.QUERIES, count - n), first + n, slot]
            for start, count, first, slot in zip(starts, counts, firsts, slots, strict=True)
            for n in range(0, count, kernels.QUERIES)
        ]
        + [[0, 0, 0, 0]]
    ).cuda()
    module = SimpleNamespace(weight=drawn(40, dtype=dtype), variance_epsilon=1e-5)
    x, branch = (drawn(1, 5, 40, dtype=dtype) for _ in range(2))
    found = []
    for ops in (kernels, torch_ops):
        torch.manual_seed(1)
        keys, values = (drawn(3, shared, room, width, dtype=dtype) for _ in range(2))
        turned = ops.turn(q, k, v, angles, at, keys, values)
        rows = ops.attend_pack(turned, blocks, keys, values, 0.3)
        step = ops.attend_step(turned[:3].contiguous(), torch.tensor([5, 149, 64]).cuda(), keys, values, 0.3)
        sums = [*ops.norm(x, None, module), *ops.norm(x, branch, module), ops.gated(x, branch)]
        found.append([turned, keys, values, rows, step, *sums])
        caches.append(keys)
    for ours, want in zip(*found, strict=True):
        torch.testing.assert_close(ours, want, **CLOSE[dtype])
    assert not torch.equal(caches[0][0, :, 3], drawn(shared, width, dtype=dtype))


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("n", "k"), [(256, 512), (48, 40), (4096, 4096)])
def test_a_row_of_a_product_has_the_same_bits_at_all_heights_and_in_all_tiles(dtype, n, k):
    from xrec_repro.lm.invariant import TILES, check, tiled

    torch.manual_seed(0)
    x, w, bias = drawn(1, 700, k, dtype=dtype), drawn(n, k, dtype=dtype) * k**-0.5, drawn(n, dtype=dtype)
    check([w])
    whole = tiled(x, w, bias)
    torch.testing.assert_close(whole, F.linear(x, w, bias), **CLOSE[dtype])
    for tile in {tile for both in TILES.values() for tile in both}:
        assert torch.equal(tiled(x, w, bias, tile), whole)
    for height in (1, 2, 15, 16, 17, 33, 64, 200, 513):
        assert torch.equal(tiled(x[:, -height:].contiguous(), w, bias), whole[:, -height:])


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("shape", "form"), [("llama2", "output"), ("llama3", "input"), ("qwen2", "none")])
@pytest.mark.parametrize("dtype", CLOSE)
def test_the_order_the_neighbours_and_the_slots_change_no_text(explainer, shape, form, chosen, dtype):
    made, examples = explainer(shape, form), make_examples(48)
    made.llm.model.to("cuda", dtype), made.adapters.to("cuda")
    chosen = chosen | EXACT | {"max_new_tokens": 40}
    want = in_order(made, examples, examples, chosen | {"batch_size": 1})
    assert len({tuple(row.ids) for row in want.values()}) > 20
    for slots, count in ((1, 5), (3, 20), (8, 48), (32, 40), (48, 48)):
        some = random.Random(slots).sample(examples, count)
        found = in_order(made, some, some, chosen | {"batch_size": slots})
        assert sum(found[e.example_id] != want[e.example_id] for e in some) == 0


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_in_float32_texts_without_a_promise_are_those_of_the_cpu(explainer, chosen):
    made, examples = explainer("llama3", "input"), make_examples(12)
    want = {name: row.text for name, row in alone(made, examples, chosen).items()}
    made.llm.model.to("cuda"), made.adapters.to("cuda")
    for way in (EXACT, FAST):
        found = texts_of(made, in_order(made, examples, examples, chosen | way | {"batch_size": 5}))
        assert sum(found[name] == text for name, text in want.items()) >= 11  # but for a near tie
