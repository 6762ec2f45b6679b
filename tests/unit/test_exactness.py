"""Tuning in parts, and with activations computed again, is tuning in one batch; what a step computes and what not.

That texts do not depend on the batch is shown in test_generation.py, that scores do not, in each metric's own test.
"""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings, strategies

from tests.unit.conftest import make_examples
from tests.unit.test_tuning import SETTINGS
from xrec_repro.errors import ModelError
from xrec_repro.explainer.activations import activation_checkpointing
from xrec_repro.explainer.tuning import add_gradients, example_losses, tune

VARIANTS = [("llama2", "output", "code"), ("qwen2", "input", "fixed"), ("gemma", "input", "code")]


def step(made, examples, at_once=None, recompute=False):
    """Return losses and gradients of a batch in training mode, with the same draws at every call."""
    encoded = [made.encoder.train(example) for example in examples]
    made.adapters.train().zero_grad(set_to_none=True)
    torch.manual_seed(4)
    with activation_checkpointing(made.llm.model, made.injector) if recompute else nullcontext():
        losses = add_gradients(made, examples, encoded, at_once)
    return losses, {name: p.grad.clone() for name, p in made.adapters.named_parameters()}


def assert_same(found, want, tolerance):
    torch.testing.assert_close(found[0], want[0], atol=tolerance, rtol=tolerance)
    assert found[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        assert gradient.abs().max() > 1e-4, f"{name} tells nothing"
        torch.testing.assert_close(found[1][name], gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("shape", "form", "template"), VARIANTS)
def test_accumulated_gradients_are_those_of_one_batch(explainer, examples, shape, form, template):
    made = explainer(shape, form, template)
    want = step(made, examples)
    for at_once in (1, 2, 4, 20):
        assert_same(step(made, examples, at_once), want, 1e-6)


def test_gradients_are_those_of_the_plain_mean_of_losses(explainer, examples):
    made = explainer()
    losses, gradients = step(made, examples)
    made.adapters.zero_grad(set_to_none=True)
    torch.manual_seed(4)
    plain = example_losses(made, examples, [made.encoder.train(example) for example in examples])
    plain.mean().backward()
    assert torch.equal(plain, losses)
    assert all(torch.equal(p.grad, gradients[name]) for name, p in made.adapters.named_parameters())


@pytest.mark.parametrize(("shape", "form", "template"), VARIANTS)
@pytest.mark.parametrize("at_once", [None, 2])
def test_recomputed_activations_give_the_same_gradients(explainer, examples, shape, form, template, at_once):
    made = explainer(shape, form, template)
    want = step(made, examples)
    assert_same(step(made, examples, at_once, recompute=True), want, 1e-6)
    assert not any(module.training for module in made.llm.model.modules())
    assert_same(step(made, examples), want, 0)


@settings(max_examples=8, deadline=None)
@given(strategies.integers(0, 10_000), strategies.integers(1, 7), strategies.integers(1, 7), strategies.booleans())
def _same_whatever_the_parts(made, seed, count, at_once, recompute):
    examples = make_examples(count, seed)
    whole, parts = step(made, examples), step(made, examples, at_once, recompute)
    torch.testing.assert_close(parts[0], whole[0], atol=1e-6, rtol=1e-6)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parts[1][name], gradient, atol=1e-6, rtol=1e-6)


def test_fuzz_of_batches_and_their_parts(explainer):
    _same_whatever_the_parts(explainer())


def kept_for_backward(made, examples, recompute=False):
    """Return how many numbers autograd keeps for the backward pass, views of one memory counted once."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in made.llm.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(made, examples, recompute=recompute)
    return sum(size for place, size in kept.items() if place not in weights)


def test_recomputing_keeps_less(explainer, examples):
    made = explainer()
    assert kept_for_backward(made, examples, recompute=True) < kept_for_backward(made, examples) / 2


def test_parts_are_of_like_length(explainer):
    made, examples, seen = explainer(template="fixed"), make_examples(7), []
    lengths = sorted(len(made.encoder.train(example).ids) for example in examples)
    assert len(set(lengths)) > 4
    handle = made.llm.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    masks = made.llm.model.register_forward_pre_hook(
        lambda _, args, options: seen.append(options.get("attention_mask")), with_kwargs=True
    )
    step(made, examples, at_once=3)
    handle.remove(), masks.remove()
    read = [value.shape for value in seen if isinstance(value, torch.Tensor)]
    assert [(shape[0], shape[-1]) for shape in read] == [(3, lengths[2]), (3, lengths[5]), (1, lengths[6])]


@pytest.mark.parametrize("changed", [{"micro_batch_size": 1}, {"activation_checkpointing": True}])
def test_tuning_takes_the_same_steps(tmp_path, explainer, examples, changed):
    made, other = explainer(), explainer()
    want = tune(made, examples, SETTINGS, 1, tmp_path / "a")
    found = tune(other, examples, SETTINGS | changed, 1, tmp_path / "b")
    torch.testing.assert_close(torch.tensor(found), torch.tensor(want), atol=1e-4, rtol=0)
    assert not other.llm.model.is_gradient_checkpointing


def test_logits_are_computed_from_the_first_target_on(explainer, examples):
    made, seen = explainer(), []
    encoded = [made.encoder.train(example) for example in examples]
    handle = made.llm.model.get_output_embeddings().register_forward_hook(lambda _, args, out: seen.append(out.shape))
    example_losses(made, examples, encoded)
    handle.remove()
    targets = max(sum(label >= 0 for label in row.labels) for row in encoded)
    assert seen[-1][:2] == (len(examples), targets + 1)  # the first target is predicted one place before it
    assert targets + 1 < max(len(row.ids) for row in encoded)


def test_frozen_weights_take_no_gradient(explainer, examples):
    made = explainer()
    step(made, examples, at_once=2, recompute=True)
    assert all(p.grad is None and not p.requires_grad for p in made.llm.model.parameters())


def test_a_model_without_layers_to_checkpoint_is_refused(explainer):
    injector = explainer().injector
    with (
        pytest.raises(ModelError, match="Linear has no layers .* set tuning.activation_checkpointing to false"),
        activation_checkpointing(torch.nn.Linear(2, 2), injector),
    ):
        pass
