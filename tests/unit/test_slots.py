"""Texts decoded in slots are those of batch 1, whatever stands beside them."""

import random
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from transformers import GPT2Config, Qwen2Config
from transformers.pytorch_utils import Conv1D

from tests.unit.conftest import make_examples
from tests.unit.test_generation import GREEDY, SAMPLED, Killed, run, run_shards
from xrec_repro.errors import ConfigError
from xrec_repro.explainer import generation
from xrec_repro.explainer.decoding import chosen_tokens, drawn
from xrec_repro.explainer.generation import explain_batch
from xrec_repro.lm import torch_ops
from xrec_repro.lm.invariant import lay_out, matrices, multiplying, one_by_one
from xrec_repro.lm.reading import Prompt, SlotModel, unfit
from xrec_repro.lm.slots import SlotDecoder, in_slots
from xrec_repro.methods import pepler_write
from xrec_repro.methods.base import Fitted, Run
from xrec_repro.methods.driver import gather, write_explanations
from xrec_repro.methods.pepler import PeplerSettings
from xrec_repro.methods.pepler_model import Prompted, first_vectors, rating_head
from xrec_repro.seeding import torch_generator
from xrec_repro.shards import Shard

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
        ({"model_type": "gemma"}, "family gemma; use one of llama, mistral, qwen2, gpt2, or set it to fast"),
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


@pytest.mark.parametrize(
    "changed",
    [{"activation_function": "gelu"}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}],
)
def test_a_gpt_2_that_is_read_otherwise_is_unfit(language_model, monkeypatch, changed):
    llm = language_model("gpt2")
    assert unfit(llm, 100) is None
    for name, value in changed.items():
        monkeypatch.setattr(llm.model.config, name, value)
    assert unfit(llm, 100).startswith("of its activation, its scaling of attention or")


def test_a_quantised_model_is_unfit(explainer, monkeypatch):
    made = explainer()
    assert unfit(made.llm, 100) is None
    monkeypatch.setattr(made.llm.model, "is_quantized", True, raising=False)
    assert unfit(made.llm, 100) == "llm.quantisation is on; set it to none"


@pytest.mark.parametrize("shape", ["llama2", "llama3", "qwen2", "gpt2"])
def test_what_is_read_is_what_transformers_reads(explainer, shape):
    """Logits of packs and of steps, beside garbage in other slots, against one forward pass over the text."""
    made, seen = explainer(shape, "none"), []
    model, ids = made.llm.model, [5, 9, 17, 4, 30, 8, 61, 12]
    if isinstance(model.config, Qwen2Config):
        assert model.model.layers[0].self_attn.q_proj.bias is not None
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.bias.uniform_(-1, 1)
    if isinstance(model.config, GPT2Config):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "bias" in name or "ln_" in name:
                    parameter.uniform_(-1, 1)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", ["llama2", "qwen2", "gpt2"])
def test_with_exact_the_logits_of_a_text_have_the_same_bits_beside_any_others(explainer, shape, dtype):
    made, rng, found = explainer(shape, "none"), random.Random(6), []
    made.llm.model.to(dtype)
    nothing = torch.zeros(0, made.llm.hidden)
    for count in (1, 2, 5, 16):
        seen = []
        choose = lambda logits, _: seen.append(logits) or logits.argmax(-1)  # noqa: E731, B023
        slots = SlotModel(made.llm.model, made.injector, count, 20, 4, choose, True)
        slots.open(())
        for slot in range(count - 1):
            slots.fill([slots_prompt(slot, rng.sample(range(400), rng.randint(2, 9)), nothing)])
        slots.fill([slots_prompt(count - 1, [5, 9, 17], nothing)])
        for _ in range(3):
            slots.step()
        found.append(torch.stack([seen[count - 1][0], *(logits[-1] for logits in seen[count:])]))
    assert all(torch.equal(logits, found[0]) for logits in found)


def slots_prompt(slot, ids, adapted):
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


def test_the_layers_of_gpt_2_multiply_in_another_way_and_lie_as_others_do(language_model):
    model = language_model("gpt2").model
    layer, x = model.transformer.h[0].mlp.c_fc, torch.randn(1, 3, 32)
    with torch.no_grad():
        layer.bias.uniform_(-1, 1)
    assert type(layer) is Conv1D
    want = layer(x)
    seen = []
    with multiplying(model, lambda x, w, b: seen.append(tuple(w.shape)) or one_by_one(x, w, b)):
        torch.testing.assert_close(layer(x), want)
    assert seen == [(128, 32)]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert not all(matrix.is_contiguous() for matrix in matrices(model))
    lay_out(model)
    assert all(matrix.is_contiguous() for matrix in matrices(model))
    assert len(matrices(model)) == 2 * 4 + 1  # four products a layer, and the vocabulary's
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(layer(x), want)


# --- PEPLER -----------------------------------------------------------------------------------------------------------
PEPLER = {
    "continuous": {},
    "mlp": {"rating": "mlp", "rating_hidden": 6},
    "discrete": {"prompt": "discrete", "stage1": "none", "prompt_words": 4},
}
FEATURES = ["dry", "humour", "slow", "suspense", "a", "cosy"]


@pytest.fixture
def pepler(language_model, monkeypatch):
    """Make a PEPLER of random weights, as it writes: with many tokens that end a text, so that slots are refilled."""

    def make(shape, kind, chosen, device="cpu"):
        llm, own = language_model(shape), PeplerSettings(tokens="own", **PEPLER[kind])
        llm.model.to(device)
        monkeypatch.setattr(pepler_write, "load_language_model", lambda *_: llm)
        monkeypatch.setattr(pepler_write.Writing, "_stops", dict.fromkeys(range(5, 400, 7), "eos"))
        rows = {"user": range(6), "item": range(5)}  # users are 0 to 6: training saw no text of one
        words = [{str(row): [FEATURES[(row + n) % 6]] for row in side} for n, side in enumerate(rows.values())]
        discrete = kind == "discrete"
        tables = [None if discrete else 10 * first_vectors(side, n, llm.hidden, 1) for side, n in rows.items()]
        tensors = Prompted(llm.model, *tables, rating_head(own, llm.hidden, 1)).state_dict()
        known = {side: list(numbers) for side, numbers in rows.items()}
        method = pepler_write.Writing(own, Run(seed=SEED, device=device, sections={"generation": chosen}))
        method.load(Fitted(tensors=tensors, facts={"llm": None, "known": known, "features": discrete and words}))
        return method

    return make


def pairs(count):
    return [replace(example, rating=3.0, feature=FEATURES[0]) for example in make_examples(count)]


def written_to(folder, method, examples, chosen, shard=None):
    """Write explanations as the workflow does; return the file."""
    more, out = {"shard": shard} if shard else {}, folder / f"{chosen['batch_size']}-{shard}.parquet"
    write_explanations(method, examples, chosen, folder / "partial.jsonl", out, **more)
    return out


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("shape", ["gpt2", "qwen2"])
def test_in_float32_texts_of_pepler_in_slots_are_those_of_batch_1(pepler, shape, kind, chosen):
    method, examples = pepler(shape, kind, chosen), pairs(7)
    want = {example.example_id: method.write([example])[0] for example in examples}
    assert len({row.text for row in want.values()}) > 3
    assert len({row.new_tokens for row in want.values()}) > 2
    encoded = {example.example_id: method._encoded(example) for example in examples}

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies.permutations(range(7)), strategies.integers(1, 9), strategies.integers(1, 7))
    def whatever_the_order(order, slots, count):
        some = [examples[place] for place in order[:count]]
        decoder = SlotDecoder(method, chosen | {"batch_size": slots}, SEED, encoded, method._stops)
        found = {example.example_id: method._written(example, result) for example, result in decoder.decode(some)}
        assert found == {example.example_id: want[example.example_id] for example in some}

    whatever_the_order()


@pytest.mark.parametrize("chosen", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("shape", "kind"), [("gpt2", "mlp"), ("gpt2", "discrete"), ("llama2", "mlp")])
def test_in_16_bits_files_of_pepler_are_the_same_for_all_slots_orders_and_shards(
    tmp_path, pepler, monkeypatch, shape, kind, chosen
):
    method, examples = pepler(shape, kind, dict(chosen)), pairs(9)
    method.llm.model.to(torch.bfloat16)
    monkeypatch.setattr(pepler_write, "explain", None)  # no batch is decoded
    whole = pq.read_table(written_to(tmp_path, method, examples, chosen | {"batch_size": 1}))
    assert len(set(whole["prediction"].to_pylist())) > 4
    assert len(set(whole["new_tokens"].to_pylist())) > 2
    assert all(isinstance(rating, float) for rating in whole["rating"].to_pylist()) == (kind == "mlp")
    for slots in (2, 4, 16):
        method.run.sections["generation"]["batch_size"] = slots
        assert pq.read_table(written_to(tmp_path, method, examples, method.run.sections["generation"])).equals(whole)
    shards = [Shard.parse(f"{n}-of-3") for n in (1, 2, 3)]
    parts = [written_to(tmp_path, method, examples, chosen | {"batch_size": 2}, shard) for shard in shards]
    gather(parts, examples, chosen, tmp_path / "all.parquet")
    assert pq.read_table(tmp_path / "all.parquet").equals(whole)
    rows = whole.to_pylist()
    for example, text in zip(examples[::-1], method.write(examples[::-1]), strict=True):
        row = rows[examples.index(example)]
        assert [row[name] for name in ("prediction", "rating")] == [text.text, text.rating]


def test_pepler_takes_the_batches_where_they_are_exact_or_nothing_is_promised(pepler, monkeypatch):
    method, examples = pepler("gpt2", "continuous", dict(GREEDY)), pairs(4)
    monkeypatch.setattr(pepler_write, "SlotDecoder", None)
    generation = method.run.sections["generation"]
    assert [len(some) for some in method.stream([examples[:3], examples[3:]])] == [3, 1]
    assert list(method.stream([])) == []
    method.module.to(torch.bfloat16)
    with pytest.raises(TypeError):
        method.write(examples)
    generation["invariance"] = "fast"
    assert len(method.write(examples)) == 4
    generation["invariance"] = "exact"
    monkeypatch.setattr(method.llm.model.config, "activation_function", "relu")
    with pytest.raises(ConfigError, match="'exact' needs what is not here: of its activation, its scaling"):
        method.write(examples)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", PEPLER)
@pytest.mark.parametrize("shape", ["gpt2", "llama2"])
def test_files_of_pepler_are_the_same_for_all_slots_in_float32_on_a_gpu(tmp_path, pepler, shape, kind):
    many, tables = pairs(96), []
    for slots in (1, 2, 7, 32, 96):
        chosen = SAMPLED | {"batch_size": slots}
        tables.append(pq.read_table(written_to(tmp_path, pepler(shape, kind, chosen, "cuda"), many, chosen)))
    assert len(set(tables[0]["prediction"].to_pylist())) > 20
    assert all(table.equals(tables[0]) for table in tables)


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
