"""The switches of the study's ablations, each against what it is said to do."""

import math
from dataclasses import replace

import pytest
import torch

from tests.unit.conftest import ITEMS, USERS, WIDTH, make_examples
from tests.unit.test_generation import GREEDY
from tests.unit.test_injection import logits
from tests.unit.test_tuning import SETTINGS
from xrec_repro.errors import ModelError
from xrec_repro.examples import draw_subset
from xrec_repro.explainer.adapter import AdapterPair, MoEAdapter
from xrec_repro.explainer.assemble import embedding_tables
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.generation import explain_batch
from xrec_repro.explainer.injection import PROJECTIONS, Injector
from xrec_repro.explainer.prompts import RESERVED_TOKENS, PromptEncoder, prompt_text
from xrec_repro.explainer.tuning import tune


def touched_projections(made, examples):
    """Return (layer, projection) -> largest change that the hooks make to its output at the reserved positions."""
    changes, handles = {}, []

    def watch(layer, name, module):
        def see(_, arguments, output):
            plain = torch.nn.functional.linear(arguments[0], module.weight, module.bias)
            changes[layer, name] = (output - plain).abs().max().item()

        handles.append(module.register_forward_hook(see))

    for layer, block in enumerate(made.llm.model.model.layers):
        for name in PROJECTIONS:
            watch(layer, name, getattr(block.self_attn, name))
    logits(made, examples)
    for handle in handles:
        handle.remove()
    return changes


def with_injector(made, form, layers="all"):
    made.injector.remove()
    return replace(made, injector=Injector(made.llm.model, form, layers))


@pytest.mark.parametrize(("layers", "want"), [("all", {0, 1}), ([1], {1}), ([0], {0})])
def test_just_the_chosen_layers_are_added_to(explainer, examples, layers, want):
    changes = touched_projections(with_injector(explainer(), "output", layers), examples[:2])
    assert {layer for (layer, _), change in changes.items() if change > 1e-3} == want


def test_without_injection_the_embeddings_stay_in_the_prompt(explainer, examples):
    made = with_injector(explainer(), "none")
    assert max(touched_projections(made, examples[:2]).values()) < 1e-5
    rows = [made.encoder.test(e, 1) for e in examples[:2]]
    batch = pad_left(rows, made.pad_id, "cpu")
    embedded = made.llm.model.get_input_embeddings()(batch.ids)
    for row, positions in enumerate(batch.positions):
        embedded[row, positions] = made.adapt(examples[:2])[row]
    with torch.no_grad():
        want = made.llm.model(inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.position_ids)
    torch.testing.assert_close(logits(made, examples[:2]), want.logits[:, -1], atol=1e-5, rtol=1e-5)


def test_a_layer_that_is_not_there_is_an_error(language_model):
    with pytest.raises(ModelError, match=r"injection.layers: 5, but the model's layers are 0 to 1"):
        Injector(language_model().model, "output", [0, 5])


@pytest.mark.parametrize("template", ["code", "fixed"])
def test_without_embeddings_the_prompt_has_no_reserved_token(examples, template):
    text = prompt_text(examples[0], "book", template, train=False, records=False)
    assert not any(token in text for token in RESERVED_TOKENS)
    assert "record" not in text
    assert f"book name: {examples[0].title} user profile: {examples[0].user_profile}" in text


def test_without_embeddings_the_stock_model_answers_alone(language_model, examples):
    llm = language_model()
    encoder = PromptEncoder(llm.tokenizer, "book", "fixed", 512, records=False)
    made = Explainer(llm, None, Injector(llm.model, "none"), encoder, None, None)
    rows = explain_batch(made, examples, GREEDY, 1)
    for example, row in zip(examples, rows, strict=True):
        ids = torch.tensor([encoder.test(example, 12).ids])
        with torch.no_grad():
            out = llm.model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=made.pad_id)
        text = llm.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert row.text == text


def test_fixed_inputs_are_one_seeded_vector_for_all(language_model, examples):
    users, items = embedding_tables(None, "fixed", WIDTH, 1)
    again, other = (embedding_tables(None, "fixed", WIDTH, seed)[0] for seed in (1, 2))
    assert users.shape[1] == items.shape[1] == WIDTH
    assert torch.equal(users[0], users[10**9])
    assert torch.equal(users[3], again[3])
    assert not torch.equal(users[0], other[0])
    assert not torch.equal(users[0], items[0])
    llm = language_model()
    pair = AdapterPair(*(MoEAdapter(WIDTH, llm.hidden, 2).reset(torch.Generator().manual_seed(i)) for i in (0, 1)))
    encoder = PromptEncoder(llm.tokenizer, "book", "code", 512)
    made = Explainer(llm, pair.eval(), Injector(llm.model, "output"), encoder, users, items)
    adapted = made.adapt(examples)
    torch.testing.assert_close(adapted, adapted[:1].expand_as(adapted))


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, set()),
        ({"gate": "uniform"}, {"w_gate", "w_noise"}),
        ({"gate_noise": "frozen"}, {"w_noise"}),
        ({"gate_noise": "none"}, {"w_noise"}),
    ],
)
def test_frozen_parts_of_the_gate_stay_as_they_were(tmp_path, explainer, examples, options, frozen):
    made = explainer()
    sides = [MoEAdapter(WIDTH, made.llm.hidden, 3, **options).reset(torch.Generator().manual_seed(i)) for i in (0, 1)]
    made = replace(made, adapters=AdapterPair(*sides))
    tune(made, examples, SETTINGS, 1, tmp_path / "c")
    for side in sides:
        unchanged = {name for name in ("w_gate", "w_noise") if not getattr(side, name).any()}
        assert unchanged == frozen


def test_the_gate_s_noise_is_as_set():
    x = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    for options, want in (({}, math.log(2) + 0.01), ({"gate_noise": "frozen"}, math.log(2) + 0.01)):
        adapter = MoEAdapter(6, 10, 2, dropout=0.0, **options).reset(torch.Generator().manual_seed(0)).train()
        noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
        gates = adapter.gates(x, noise)
        difference = (gates[:, 0] / gates[:, 1]).log()
        assert difference.std().item() == pytest.approx(want * math.sqrt(2), rel=0.05)
    for options in ({"gate": "uniform"}, {"gate_noise": "none"}):
        adapter = MoEAdapter(6, 10, 2, dropout=0.0, **options).reset(torch.Generator().manual_seed(0)).train()
        assert torch.equal(adapter(x), adapter.eval()(x))


def test_a_subset_is_drawn_by_id_and_keeps_the_order():
    examples = make_examples(USERS * ITEMS)
    chosen = draw_subset(examples, 0.2, 1)
    assert len(chosen) == 7
    assert [e.example_id for e in chosen] == [e.example_id for e in examples if e in chosen]
    assert {e.example_id for e in draw_subset(examples[::-1], 0.2, 1)} == {e.example_id for e in chosen}
    assert draw_subset(examples, 0.2, 2) != chosen
    assert draw_subset(examples, 1.0, 1) == examples
    assert len(draw_subset(examples[:3], 0.01, 1)) == 1
