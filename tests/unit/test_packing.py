"""Packed reading gives what padding does; the kernel apart, which needs a GPU."""

import pytest
import torch

from xrec_repro.explainer.fusing import fused
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.packing import packed_losses, packs
from xrec_repro.explainer.tuning import add_gradients, example_losses

SHAPES = [("llama2", form) for form in ("output", "input", "none")]
SHAPES += [(shape, form) for shape in ("llama3", "mistral", "qwen2", "gemma") for form in ("input", "none")]


def losses_and_gradients(made, losses_of):
    made.adapters.zero_grad()
    losses = losses_of()
    losses.mean().backward()
    return losses.detach(), [p.grad.clone() for p in made.adapters.parameters() if p.grad is not None]


@pytest.mark.parametrize("template", ["code", "fixed"])
@pytest.mark.parametrize(("shape", "form"), SHAPES)
def test_packed_losses_and_gradients_are_those_of_padding(explainer, examples, shape, form, template):
    made = explainer(shape, form, template)
    encoded = [made.encoder.train(e) for e in examples]
    want = losses_and_gradients(made, lambda: example_losses(made, examples, encoded))
    found = losses_and_gradients(made, lambda: packed_losses(made, encoded, made.adapt(examples)))
    torch.testing.assert_close(found[0], want[0], atol=1e-5, rtol=1e-5)
    assert len(found[1]) == len(want[1]) > 0
    for one, other in zip(found[1], want[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", ["llama2", "qwen2", "gemma"])
def test_compiled_parts_change_nothing_and_go_again(explainer, examples, shape):
    made = explainer(shape, "input")
    encoded = [made.encoder.train(e) for e in examples]
    want = losses_and_gradients(made, lambda: example_losses(made, examples, encoded))
    layer = made.llm.model.model.layers[1]
    for count in (2, len(examples)):  # another number of tokens
        with fused(made.llm.model, "aot_eager"):
            assert "forward" in vars(layer.mlp) and "forward" in vars(layer.input_layernorm)
            found = losses_and_gradients(made, lambda: example_losses(made, examples[:count], encoded[:count]))
        assert "forward" not in vars(layer.mlp) and "forward" not in vars(layer.input_layernorm)
    torch.testing.assert_close(found[0], want[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(found[1], want[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
