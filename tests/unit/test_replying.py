"""Replies in slots are those of batches in float32, and in 16 bits depend on no neighbour."""

import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies

from tests.unit import test_chat, test_llamascore
from tests.unit.test_chat import chat_model  # noqa: F401
from tests.unit.test_llamascore import PREDICTIONS, REFERENCES, llama, make, make_seq2seq
from xrec_repro.errors import ModelError
from xrec_repro.lm import replying
from xrec_repro.lm.replying import Replying
from xrec_repro.metrics import llamascore
from xrec_repro.metrics._judge import question
from xrec_repro.profiles.local_model import LocalModel

STOPS = dict.fromkeys(range(5, 400, 7), "eos")
GREEDY = {"decoding": "greedy", "max_new_tokens": 9}
EXAMPLES = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
ASKED = [([2 + (7 * n + place) % 60 for place in range(3 + 4 * n)], (f"key{n}", n % 2)) for n in range(6)]


def writer(folder, temperature=0.0, concurrency=4):
    chosen = {"temperature": temperature, "concurrency": concurrency, "max_new_tokens": 12}
    return LocalModel(test_chat.settings(None, model=str(folder), **chosen), 3, "cpu")


def in_slots(model):
    """Let a chat model reply in slots where its batches are exact already."""
    model._replying.fit = True
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_in_float32_profiles_written_in_slots_are_those_of_batches(chat_model, monkeypatch, temperature):  # noqa: F811
    model = writer(chat_model, temperature)
    model._stops |= dict.fromkeys(range(5, 62, 9), "eos")
    want = dict(zip(range(6), model.complete(ASKED), strict=True))
    assert len({reply.text for reply in want.values()}) > 3
    assert len({reply.truncated for reply in want.values()}) == 2
    monkeypatch.setattr("xrec_repro.explainer.decoding.decode", None)  # no batch is decoded

    @EXAMPLES
    @given(strategies.permutations(range(6)), strategies.integers(1, 8), strategies.integers(1, 5))
    def whatever_the_order(order, slots, count):
        other = in_slots(writer(chat_model, temperature, slots))
        other._stops |= model._stops
        for some in (order[:count], order[count:]):  # two batches, for which one decoder may do
            found = other.complete([ASKED[place] for place in some])
            assert found == [want[place] for place in some]

    whatever_the_order()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_replies_of_a_judge_in_slots_depend_on_no_neighbour(tmp_path, monkeypatch, dtype):
    folder = make(tmp_path / "judge", seed=3)
    asked = {row: question(*pair) for row, pair in enumerate(zip(PREDICTIONS, REFERENCES, strict=True))}
    chosen = {"max_new_tokens": 12, "dtype": str(dtype).removeprefix("torch.")}
    if dtype == torch.float32:
        want = llama(folder, **chosen)._reply(asked)
    else:  # each the only one that there is
        want = {}
        for row, messages in asked.items():
            want |= llama(folder, batch_size=1, **chosen)._reply({row: messages})
    assert len({reply.text for reply in want.values()}) > 4
    monkeypatch.setattr(llamascore, "greedy", None)

    @EXAMPLES
    @given(strategies.permutations(sorted(asked)), strategies.integers(1, 8), strategies.integers(1, len(asked)))
    def whatever_the_order(order, slots, count):
        judge = llama(folder, batch_size=slots, **chosen)
        assert judge._replying.fit == (dtype == torch.bfloat16)
        for some in (order[:count], order[count:]):
            assert in_slots(judge)._reply({row: asked[row] for row in some}) == {row: want[row] for row in some}

    whatever_the_order()


def test_in_16_bits_a_profile_depends_on_no_neighbour(chat_model, monkeypatch):  # noqa: F811
    monkeypatch.setattr("xrec_repro.profiles.local_model.DTYPE", torch.bfloat16)
    model = writer(chat_model, 1.0)
    want = [model.complete([one])[0] for one in ASKED]
    assert len({reply.text for reply in want}) > 3
    monkeypatch.setattr("xrec_repro.explainer.decoding.decode", None)
    for slots in (1, 3, 8):
        assert writer(chat_model, 1.0, slots).complete(ASKED[::-1]) == want[::-1]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("shape", ["llama2", "mistral", "qwen2", "gpt2"])
def test_a_decoder_serves_until_more_is_asked_of_it(language_model, monkeypatch, shape, device):
    model, made, real = language_model(shape).model.to(device, torch.bfloat16), [], replying.SlotDecoder
    monkeypatch.setattr(replying, "SlotDecoder", lambda *given: made.append(given) or real(*given))
    slots = Replying(model, GREEDY | {"batch_size": 3}, 0, STOPS)
    prompts = {f"{n}": list(range(7, 9 + n)) for n in range(6)}
    whole = dict(slots.in_slots(prompts))
    assert whole.keys() == prompts.keys()
    for name, ids in prompts.items():
        assert dict(slots.in_slots({name: ids})) == {name: whole[name]}
    assert len(made) == 1
    longer = {"long": list(range(7, 40)), "short": [7, 8]}
    assert dict(slots.in_slots(longer)).keys() == longer.keys()
    assert dict(slots.in_slots(prompts)) == whole
    assert len(made) == 2
    assert dict(Replying(model, GREEDY | {"batch_size": 1}, 0, STOPS).in_slots(prompts)) == whole


def test_where_slots_are_not_needed_or_cannot_read_batches_reply(language_model, tmp_path, monkeypatch, caplog):
    model, prompts = language_model("llama2").model, {"a": [7, 8]}
    replies = lambda: Replying(model, GREEDY | {"batch_size": 2}, 0, STOPS).in_slots(prompts)  # noqa: E731
    assert replies() is None  # float32 on a CPU: batches are exact already
    model.to(torch.bfloat16)
    assert Replying(model, GREEDY | {"batch_size": 2}, 0, STOPS).in_slots({}) is None
    assert replies() is not None
    for name, value in {"model_type": "gemma", "_attn_implementation": "eager"}.items():
        with monkeypatch.context() as changed:
            changed.setattr(model.config, name, value)
            assert replies() is None

    def refuse(*_):
        raise ModelError("round differently")

    monkeypatch.setattr(replying, "SlotDecoder", refuse)
    with caplog.at_level(logging.WARNING):
        assert replies() is None
    assert "replies may depend on their batch" in caplog.text
    judge = llama(make_seq2seq(tmp_path / "t5", "t5"), dtype="bfloat16")
    assert not judge._replying.fit
    assert len(test_llamascore.replies(judge)) == len(PREDICTIONS)
