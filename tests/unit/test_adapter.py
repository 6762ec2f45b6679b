import json

import pytest
import torch
from torch.nn import functional as F

from xrec_repro.errors import DataError, ModelError
from xrec_repro.explainer.adapter import MoEAdapter
from xrec_repro.explainer.bundle import pack, unpack
from xrec_repro.explainer.llm import add_reserved_tokens, load_llm, reserved_rows
from xrec_repro.methods.base import Fitted
from xrec_repro.methods.driver import load_fitted, save_fitted


def save_adapter(folder, pair, llm, config):
    tensors, facts = pack(pair, llm, config)
    save_fitted(folder, Fitted(tensors=tensors, facts=facts))


def load_adapter(folder, llm):
    fitted = load_fitted(folder)
    return unpack(fitted, llm), fitted.facts


def random_adapter(experts=4):
    adapter = MoEAdapter(6, 10, experts).reset(torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


def test_output_is_the_gated_sum_of_experts():
    adapter, x = random_adapter().eval(), torch.randn(3, 6)
    gates = (x @ adapter.w_gate).softmax(-1)
    want = sum(gates[:, e : e + 1] * ((x - adapter.bias[e]) @ adapter.weight[e].T) for e in range(4))
    torch.testing.assert_close(adapter(x), want, atol=1e-5, rtol=1e-5)


def test_noise_scales_with_softplus_and_starts_at_0_703():
    adapter, x = MoEAdapter(6, 10, 4).train(), torch.randn(3, 6)
    noise = torch.ones(3, 4) * torch.tensor([0.0, 1.0, 2.0, 3.0])
    want = (noise * (F.softplus(torch.zeros(())) + 0.01)).softmax(-1)
    torch.testing.assert_close(adapter.gates(x, noise), want)
    assert (F.softplus(torch.zeros(())) + 0.01).item() == pytest.approx(0.703, abs=5e-4)


def test_dropout_has_its_own_mask_for_each_expert():
    adapter = MoEAdapter(2000, 1, experts=2, dropout=0.2).train()
    with torch.no_grad():
        adapter.weight.fill_(1.0)
        adapter.w_gate.zero_()
    torch.manual_seed(0)
    seen = {}
    with torch.no_grad():
        x = torch.ones(1, 2000)
        per_expert = F.dropout(x.unsqueeze(1).expand(-1, 2, -1), 0.2, True)
        seen["same"] = (per_expert[0, 0] == per_expert[0, 1]).float().mean().item()
        values = torch.stack([adapter(x, noise=torch.zeros(1, 2)) for _ in range(200)])
    assert seen["same"] == pytest.approx(0.8**2 + 0.2**2, abs=0.05)
    # With one shared mask the variance of the mean of two experts would be twice as large.
    assert values.var().item() == pytest.approx(2000 * 0.25 / 2, rel=0.35)


def test_fresh_weights_are_seeded_normal_0_02_with_zero_gates():
    first, again = (MoEAdapter(64, 128).reset(torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first.weight, again.weight)
    assert first.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not first.bias.any()
    assert not first.w_gate.any()
    assert sum(p.numel() for p in MoEAdapter(64, 4096).parameters()) == 2_098_688


def test_saved_adapter_loads_alone_with_its_token_rows(tmp_path, language_model, explainer):
    made = explainer()
    config = {"domain": "book", "prompt": {"template": "code"}, "injection": {"form": "output"}}
    save_adapter(tmp_path, made.adapters, made.llm, config)
    fresh = language_model()
    with torch.no_grad():
        fresh.model.get_input_embeddings().weight[-4:].zero_()
    pair, saved = load_adapter(tmp_path, fresh)
    x, y = made.user_embeddings[:3], made.item_embeddings[:3]
    assert torch.equal(pair(x, y), made.adapters(x, y))
    assert not pair.training
    assert saved["domain"] == "book"
    for name, rows in reserved_rows(made.llm).items():
        assert torch.equal(rows, reserved_rows(fresh)[name])


def test_saving_twice_gives_the_same_bytes(tmp_path, explainer):
    made = explainer()
    for name in ("a", "b"):
        save_adapter(tmp_path / name, made.adapters, made.llm, {"seed": 1})
    for file in ("weights.safetensors", "method.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_adapter_of_the_wrong_width_is_refused(tmp_path, explainer, language_model):
    made = explainer()
    save_adapter(tmp_path, made.adapters, made.llm, {})
    config = json.loads((tmp_path / "method.json").read_text())
    config["shape"]["outputs"] = 4096
    (tmp_path / "method.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="the adapter is 4096 wide, the language model llama2 32"):
        load_adapter(tmp_path, language_model())


def test_an_adapter_of_another_model_is_refused(tmp_path, explainer, language_model):
    made, other = explainer(), language_model()
    made.llm.identity, other.identity = "a" * 64, "b" * 64
    save_adapter(tmp_path, made.adapters, made.llm, {})
    with pytest.raises(ModelError, match=r"tuned with another language model \(llama2, a{16}\) than llama2 \(b{16}\)"):
        load_adapter(tmp_path, other)
    other.identity = "a" * 64
    load_adapter(tmp_path, other)


def test_a_folder_does_not_pass_for_a_pinned_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/name").mkdir(parents=True)
    settings = {"source": "hub", "repo": "owner/name", "revision": "a" * 40, "quantisation": "none"}
    with pytest.raises(ModelError, match="llm.repo: owner/name is a folder here; set llm.source to local"):
        load_llm(settings, None, "cpu")


def test_a_truncated_or_missing_adapter_is_refused(tmp_path, explainer, language_model):
    made = explainer()
    save_adapter(tmp_path, made.adapters, made.llm, {})
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load_adapter(tmp_path, language_model())
    weights.unlink()
    with pytest.raises(DataError, match="no such file; train the method first"):
        load_adapter(tmp_path, language_model())


def test_token_rows_are_seeded(language_model):
    one, two, other = (language_model() for _ in range(3))
    rows = reserved_rows(one)["input"]
    assert torch.equal(rows, reserved_rows(two)["input"])
    assert rows.std() > 0.05
    assert not torch.equal(rows, reserved_rows(one)["output"])
    add_reserved_tokens(other, seed=99)
    assert torch.equal(rows, reserved_rows(other)["input"]), "rows that a model has are kept"
