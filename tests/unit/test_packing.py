"""Packed reading gives what padding does; the kernel apart, which needs a GPU."""

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

from xrec_repro.explainer import packing, tuning
from xrec_repro.explainer.fusing import fused, replaced
from xrec_repro.explainer.packing import packed_losses, packs
from xrec_repro.explainer.tuning import example_losses, padded_losses

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


@pytest.mark.parametrize("form", ["output", "input", "none"])
def test_a_packed_batch_gives_the_losses_of_its_examples_alone(explainer, examples, form):
    made = explainer(form=form)
    encoded = [made.encoder.train(e) for e in examples]
    together = packed_losses(made, encoded, made.adapt(examples))
    alone = [example_losses(made, [e], [row]) for e, row in zip(examples, encoded, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert made.llm.model.config._attn_implementation == "sdpa"
    assert "xrec_packed" not in ALL_ATTENTION_FUNCTIONS


def test_packed_parts_add_up_to_the_gradients_of_padding(explainer, examples, monkeypatch):
    made = explainer()
    encoded = [made.encoder.train(e) for e in examples]
    found = []
    for packed in (False, True):
        monkeypatch.setattr(tuning, "packs", lambda *_, packed=packed: packed)
        made.adapters.zero_grad()
        losses = tuning.add_gradients(made, examples, encoded, 4)
        found.append([losses, *(p.grad.clone() for p in made.adapters.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_prompts_are_packed_on_a_gpu_in_half_precision_alone(language_model):
    model = language_model("llama2").model
    assert not packs(model, 20) and not packs(model.bfloat16(), 20)


def test_compiled_parts_change_nothing_and_serve_any_length(explainer, examples):
    made = explainer("llama3", "input")
    encoded = [made.encoder.train(e) for e in examples]
    mlp, rotary = made.llm.model.model.layers[1].mlp, modeling_llama.apply_rotary_pos_emb
    for count in (len(examples), 2):

        def losses(count=count):
            return example_losses(made, examples[:count], encoded[:count])

        want = losses_and_gradients(made, losses)
        with fused(made.llm.model, "eager"):
            assert "forward" in vars(mlp) and modeling_llama.apply_rotary_pos_emb is not rotary
            found = losses_and_gradients(made, losses)
        assert "forward" not in vars(mlp) and modeling_llama.apply_rotary_pos_emb is rotary
        torch.testing.assert_close(found[0], want[0], atol=1e-5, rtol=1e-5)
        for one, other in zip(found[1], want[1], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert replaced(made.llm.model) == 2 * 3 + 1  # two norms and an MLP a layer, and the rotary embedding


def test_what_cannot_be_compiled_stays_as_it_is_and_is_said_once(explainer, examples, caplog):
    made = explainer()

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    for _ in range(2):
        with fused(made.llm.model, broken):
            assert len(example_losses(made, examples[:2], [made.encoder.train(e) for e in examples[:2]])) == 2
    assert replaced(made.llm.model) == 0
    warnings = [record.message for record in caplog.records if record.name == "xrec_repro"]
    assert len(warnings) == 1 and "no compiler here" in warnings[0]


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "form"), [("llama2", "output"), ("llama3", "input"), ("gemma", "none")])
def test_packed_losses_and_gradients_on_a_gpu(explainer, examples, shape, form, monkeypatch):
    monkeypatch.setattr(packing, "_MANY", 1)
    made = explainer(shape, form)
    made.llm.model.to("cuda", torch.float16)
    made.adapters.to("cuda")
    assert packs(made.llm.model, 100)
    encoded = [made.encoder.train(e) for e in examples]
    want = losses_and_gradients(made, lambda: padded_losses(made, encoded, made.adapt(examples)))
    found = losses_and_gradients(made, lambda: example_losses(made, examples, encoded))
    torch.testing.assert_close(found[0], want[0], atol=2e-3, rtol=0)
    for one, other in zip(found[1], want[1], strict=True):
        assert (one - other).norm() < 2e-2 * other.norm()
    assert replaced(made.llm.model)
