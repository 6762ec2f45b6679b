"""Texts decoded in slots are those of batch 1, whatever stands beside them."""

import random

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from transformers import Qwen2Config

from tests.unit.conftest import make_examples
from tests.unit.test_generation import GREEDY, SAMPLED, Killed, run, run_shards
from xrec_repro.errors import ConfigError
from xrec_repro.explainer import generation
from xrec_repro.explainer.decoding import chosen_tokens, drawn
from xrec_repro.explainer.generation import explain_batch
from xrec_repro.lm import torch_ops
from xrec_repro.lm.invariant import multiplying, one_by_one
from xrec_repro.lm.reading import SlotModel, unfit
from xrec_repro.lm.slots import SlotDecoder, in_slots
from xrec_repro.seeding import torch_generator

EXACT, FAST = ({"invariance": name} for name in ("exact", "fast"))
SHAPES = [("llama2", "output"), ("llama2", "input"), ("llama3", "input"), ("mistral", "input"), ("qwen2", "none")]
SEED = 3


def encoded_by_id(made, examples, limit=GREEDY["max_new_tokens"]):
    return {e.example_id: made.encoder.test(e, limit) for e in examples}


def in_order(made, known, order, chosen):
    """Decode some of the known examples in slots; returns rows by example id."""
    decoder = SlotDecoder(made, chosen, SEED, encoded_by_id(made, known), generation.stops_of(made))
    found = list(decoder.decode(order))
    assert sorted(e.example_id for e, _ in found) == sorted(e.example_id for e in order)
    return {e.example_id: result for e, result in found}


def alone(made, examples, chosen):
    return {e.example_id: explain_batch(made, [e], chosen, SEED)[0] for e in examples}


def texts_of(made, rows):
    return {name: generation.clean_text(made.llm.tokenizer, row, made.encoder.template) for name, row in rows.items()}


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("shape", "form"), SHAPES)
def test_in_float32_texts_in_slots_are_those_of_batch_1(explainer, monkeypatch, shape, form, chosen):
    stops = dict.fromkeys(range(5, 400, 7), "eos")  # many, so that slots are refilled at different steps
    monkeypatch.setattr(generation, "stop_tokens", lambda *_: stops)
    made, examples = explainer(shape, form), make_examples(7)
    want = alone(made, examples, chosen)
    assert len({row.text for row in want.values()}) > 3
    assert len({row.new_tokens for row in want.values()}) > 2

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies.permutations(range(7)), strategies.integers(1, 9), strategies.integers(1, 7))
    def whatever_the_order(order, slots, count):
        some = [examples[place] for place in order[:count]]
        found = in_order(made, examples, some, chosen | {"batch_size": slots})
        assert texts_of(made, found) == {e.example_id: want[e.example_id].text for e in some}
        for name, result in found.items():
            assert len(result.ids) == want[name].new_tokens
            assert result.finish_reason == want[name].finish_reason

    whatever_the_order()


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("shape", "form"), [("llama2", "output"), ("llama3", "input")])
def test_in_16_bits_the_order_the_neighbours_and_the_slots_change_nothing(explainer, shape, form, chosen):
    made, examples = explainer(shape, form), make_examples(8)
    made.llm.model.to(torch.bfloat16)
    want = {}
    for example in examples:  # each the only one that there is
        want |= in_order(made, [example], [example], chosen | {"batch_size": 1})
    assert len({tuple(row.ids) for row in want.values()}) > 3
    rng = random.Random(4)
    for slots, count in ((1, 8), (2, 8), (3, 5), (8, 8), (16, 8)):
        some = rng.sample(examples, count)
        found = in_order(made, some, rng.sample(some, count), chosen | {"batch_size": slots})
        assert found == {e.example_id: want[e.example_id] for e in some}


def test_in_16_bits_files_are_the_same_for_all_slots_shards_and_kills(tmp_path, explainer, examples):
    made, chosen = explainer(), SAMPLED | EXACT
    made.llm.model.to(torch.bfloat16)
    whole = run(made, examples, tmp_path / "whole", chosen)
    assert whole["example_id"].to_pylist() == [e.example_id for e in examples]
    assert run(made, examples, tmp_path / "slots", chosen | {"batch_size": 2}).equals(whole)
    run_shards(made, examples, tmp_path, chosen | {"batch_size": 2}, 3)
    assert pq.read_table(tmp_path / "out.parquet").equals(whole)

    def kill(done):
        raise Killed

    with pytest.raises(Killed):
        run(made, examples, tmp_path / "killed", chosen | {"batch_size": 2}, after_batch=kill)
    assert (tmp_path / "killed/partial.jsonl").read_text().count("\n") == 3
    again = []
    assert run(made, examples, tmp_path / "killed", chosen | {"batch_size": 2}, after_batch=again.append).equals(whole)
    assert again == [4, 6, 8, 9]  # none of the two that were done is decoded again


def test_16_bits_on_a_cpu_without_a_promise_take_the_batches(explainer, examples, monkeypatch):
    made = explainer()
    encoded = list(encoded_by_id(made, examples).values())
    assert not in_slots(made, GREEDY | EXACT, encoded)  # float32: batches are exact already
    made.llm.model.to(torch.bfloat16)
    assert in_slots(made, GREEDY | EXACT, encoded)
    assert in_slots(made, GREEDY, encoded)  # what a configuration does not say is exact
    assert not in_slots(made, GREEDY | FAST, encoded)
    monkeypatch.setattr(generation, "SlotDecoder", None)
    assert len(explain_batch(made, examples, GREEDY | FAST, SEED)) == len(examples)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "gemma"}, "family gemma; use one of llama, mistral, qwen2, or set it to fast"),
        ({"_attn_implementation": "eager"}, "llm.attention is eager; set it to sdpa, or set it to fast"),
        ({"sliding_window": 40}, "a window shorter than the text"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rotary embedding"),
        ({"hidden_act": "gelu"}, "activation"),
    ],
)
def test_exact_is_refused_where_it_cannot_be_kept(explainer, examples, monkeypatch, changed, message):
    made = explainer("mistral", "input")
    made.llm.model.to(torch.bfloat16)
    encoded = list(encoded_by_id(made, examples).values())
    assert in_slots(made, GREEDY | EXACT, encoded)
    for name, value in changed.items():
        monkeypatch.setattr(made.llm.model.config, name, value, raising=False)
    with pytest.raises(ConfigError, match=rf"generation\.invariance: 'exact' needs what is not here: .*{message}"):
        in_slots(made, GREEDY | EXACT, encoded)
    assert not in_slots(made, GREEDY | FAST, encoded)


def test_a_quantised_model_is_unfit(explainer, monkeypatch):
    made = explainer()
    assert unfit(made.llm, 100) is None
    monkeypatch.setattr(made.llm.model, "is_quantized", True, raising=False)
    assert unfit(made.llm, 100) == "llm.quantisation is on; set it to none"


@pytest.mark.parametrize("shape", ["llama2", "llama3", "qwen2"])
def test_what_is_read_is_what_transformers_reads(explainer, shape):
    """Logits of packs and of steps, beside garbage in other slots, against one forward pass over the text."""
    made, seen = explainer(shape, "input"), []
    model, ids = made.llm.model, [5, 9, 17, 4, 30, 8, 61, 12]
    if isinstance(model.config, Qwen2Config):
        assert model.model.layers[0].self_attn.q_proj.bias is not None
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.bias.uniform_(-1, 1)
    slots = SlotModel(model, made.injector, 3, 20, 4, lambda logits, _: seen.append(logits) or logits.argmax(-1), False)
    slots.open(ids[:3])
    nothing = torch.zeros(0, made.llm.hidden)
    for slot in (2, 1):
        slots.fill([slots_prompt(slot, ids[3:], nothing)])
    tokens = [*ids, int(slots.tokens[1])]
    for _ in range(3):
        slots.step()
        tokens.append(int(slots.tokens[1]))
    with torch.no_grad():
        want = model(torch.tensor([tokens])).logits[0]
    found = torch.stack([seen[1][0], *(logits[1] for logits in seen[2:])])
    torch.testing.assert_close(found, want[len(ids) - 1 : -1], atol=1e-4, rtol=1e-4)


def slots_prompt(slot, ids, adapted):
    from xrec_repro.lm.reading import Prompt

    return Prompt(slot, ids, adapted, (), torch.zeros(4, dtype=torch.float64))


def test_a_pack_of_two_prompts_reads_each_for_itself():
    torch.manual_seed(0)
    keys, values = torch.randn(2, 2, 2, 9, 4)
    q = torch.randn(6, 4, 4)
    blocks = torch.tensor([[0, 2, 1, 0], [2, 1, 3, 0], [3, 2, 0, 1], [0, 0, 0, 0]])
    found = torch_ops.attend_pack(q, blocks, keys, values, 0.5)[0]
    for row, (slot, place) in enumerate([(0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]):
        k, v = (side[slot, :, : place + 1].repeat_interleave(2, dim=0) for side in (keys, values))
        weights = (torch.einsum("hd,htd->ht", q[row], k) * 0.5).softmax(-1)
        torch.testing.assert_close(found[row], torch.einsum("ht,htd->hd", weights, v).flatten())
    assert not found[5].any()


def test_linear_layers_multiply_in_another_way_for_a_while_and_hooks_act(explainer):
    model = explainer().llm.model
    layer, x, calls = model.model.layers[0].mlp.up_proj, torch.randn(1, 3, 32), []
    handle = layer.register_forward_hook(lambda *_: calls.append("hook"))
    want = layer(x)
    with multiplying(model, lambda x, w, b: calls.append("way") or one_by_one(x, w, b)):
        torch.testing.assert_close(layer(x), want)
    assert calls == ["hook", "way", "hook"]
    assert torch.equal(layer(x), want)
    handle.remove()
    assert len(calls) == 4


def test_draws_are_the_same_however_many_at_once():
    one, two = (torch_generator(1, "sampling", "e") for _ in range(2))
    assert torch.equal(drawn(one, 200), torch.cat([drawn(two, count) for count in (64, 64, 1, 71)]))


@pytest.mark.parametrize("top_k", [0, 3, 5])
def test_a_gpu_s_order_of_equal_logits_is_that_of_a_stable_sort(top_k):
    from xrec_repro.explainer.decoding import _largest_by_key

    logits = torch.tensor(
        [[1.0, 2.0, 2.0, -1.0, 2.0, -0.0, 0.0, -3.5], [-2.0, -1.0, -1.0, -4.0, -1.0, -1.0, -9.0, -1.0]]
    )
    values, tokens = _largest_by_key(logits, top_k or 8)
    ordered = logits.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(tokens, ordered.indices[:, : top_k or 8])
    assert torch.equal(values, ordered.values[:, : top_k or 8])


def test_choosing_waits_for_no_other_row():
    logits, draws = torch.randn(6, 40), torch.rand(6, dtype=torch.float64)
    whole = chosen_tokens(logits, draws, SAMPLED)
    parts = [chosen_tokens(logits[n : n + 1], draws[n : n + 1], SAMPLED) for n in range(6)]
    assert torch.equal(whole, torch.cat(parts))
