import pytest
import torch
from torch import nn

from xrec_repro.errors import ModelError
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import weights_digest
from xrec_repro.explainer.tuning import example_losses


def logits(explainer, examples, inject=True):
    rows = [explainer.encoder.test(e, 1) for e in examples]
    batch = pad_left(rows, explainer.pad_id, "cpu")
    options = {"input_ids": batch.ids, "attention_mask": batch.mask, "position_ids": batch.position_ids}
    with torch.no_grad():
        if not inject:
            return explainer.llm.model(**options).logits[:, -1]
        with explainer.injector.prompt(explainer.adapt(examples), batch.positions, batch.ids.shape[1]):
            return explainer.llm.model(**options).logits[:, -1]


@pytest.mark.parametrize("shape", ["llama2", "llama3", "mistral", "qwen2", "gemma"])
def test_input_form_serves_every_shape_and_matters(explainer, examples, shape):
    made = explainer(shape, "input")
    with_injection, without = logits(made, examples[:2]), logits(made, examples[:2], inject=False)
    assert (with_injection - without).abs().max() > 1e-3


def test_output_form_adds_to_the_projections_outputs(explainer, examples):
    made = explainer("llama2", "output")
    attention = made.llm.model.model.layers[1].self_attn
    seen = {}
    handles = [
        attention.q_proj.register_forward_hook(lambda m, a, out: seen.__setitem__("with", (a[0].clone(), out.clone())))
    ]
    logits(made, examples[:1])
    for handle in handles:
        handle.remove()
    hidden, output = seen["with"]
    difference = output - hidden @ attention.q_proj.weight.T
    user, item = made.encoder.test(examples[0], 1).positions
    adapted = made.adapt(examples[:1]).detach()[0]
    torch.testing.assert_close(difference[0, user], adapted[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(difference[0, item], adapted[1], atol=1e-4, rtol=1e-4)
    untouched = [t for t in range(difference.shape[1]) if t not in (user, item)]
    assert difference[0, untouched].abs().max() < 1e-4


def test_input_form_is_the_projection_of_the_sum(explainer, examples):
    """Eq. 12: f(x) += W·a, so W·(x + a) must come out."""
    made = explainer("llama2", "input")
    attention = made.llm.model.model.layers[0].self_attn
    seen = {}
    norm = made.llm.model.model.layers[0].input_layernorm
    handles = [
        norm.register_forward_hook(lambda m, a, out: seen.__setitem__("x", out.clone())),
        attention.v_proj.register_forward_hook(lambda m, a, out: seen.__setitem__("v", out.clone())),
    ]
    logits(made, examples[:1])
    for handle in handles:
        handle.remove()
    user, item = made.encoder.test(examples[0], 1).positions
    x = seen["x"].clone()
    x[0, [user, item]] += made.adapt(examples[:1]).detach()[0]
    torch.testing.assert_close(seen["v"], x @ attention.v_proj.weight.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["input", "output"])
def test_scale_is_a_factor_of_what_is_added_in_the_layers_alone(explainer, examples, form):
    made = explainer("llama2", form)
    made.injector.remove()
    found = {}
    for name, scale in (("none", 0.0), ("little", 1e-9), ("half", 0.5), ("whole", 1.0)):
        made.injector = Injector(made.llm.model, form, scale=scale) if scale else Injector(made.llm.model, "none")
        found[name] = logits(made, examples[:2])
        made.injector.remove()
    torch.testing.assert_close(found["little"], found["none"], atol=1e-5, rtol=1e-5)
    assert min((found["half"] - found[name]).abs().max() for name in ("none", "whole")) > 1e-3


@pytest.mark.parametrize("shape", ["llama3", "mistral", "qwen2", "gemma"])
def test_output_form_is_refused_where_widths_differ(language_model, shape):
    with pytest.raises(ModelError, match=r"cannot take injection.form 'output'.*set injection.form to 'input'"):
        Injector(language_model(shape).model, "output")


def test_fused_projections_are_refused():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv_proj = nn.Linear(4, 12)

    with pytest.raises(ModelError, match="no separate q_proj"):
        Injector(Fused(), "input")


def test_no_gradient_reaches_the_language_model_and_its_weights_stay(explainer, examples):
    made = explainer("llama3", "input")
    before = weights_digest(made.llm.model)
    made.adapters.train()
    example_losses(made, examples, [made.encoder.train(e) for e in examples]).mean().backward()
    assert all(parameter.grad is None for parameter in made.llm.model.parameters())
    assert made.adapters.user.weight.grad.abs().sum() > 0
    assert made.adapters.item.w_noise.grad.abs().sum() > 0
    assert weights_digest(made.llm.model) == before


def test_weights_digest_sees_a_single_changed_weight(language_model):
    llm = language_model()
    before = weights_digest(llm.model)
    with torch.no_grad():
        llm.model.lm_head.weight[3, 2] += 1e-3
    assert weights_digest(llm.model) != before


def test_removed_hooks_leave_the_stock_model(explainer, examples):
    made = explainer()
    want = logits(made, examples[:1], inject=False)
    made.injector.remove()
    assert torch.equal(logits(made, examples[:1]), want)
