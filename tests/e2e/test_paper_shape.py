"""The full-scale configuration on real rows, with a tiny random model of Llama-2's shape in place of the real one."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from xrec_repro.config import load_config, settings
from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.examples import Example
from xrec_repro.explainer.pretrain import train_tokenizer
from xrec_repro.io import read_table
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import fit, load_fitted, make_method, write_explanations
from xrec_repro.safe_pickle import load_pickle

ROWS = 24


def real_examples(folder) -> list[Example]:
    """Read rows of the released test split: 8 to tune, 4 to validate, the rest to explain."""
    frame: pd.DataFrame = load_pickle(folder / "tst.pkl").head(ROWS)
    splits = ["train"] * 8 + ["val"] * 4 + ["test"] * (ROWS - 12)
    return [
        Example(
            example_id=str(number),
            user=int(row.uid),
            item=int(row.iid),
            user_id=str(row.uid),
            item_id=str(row.iid),
            title=str(row.title),
            user_profile=row.user_summary,
            item_profile=row.item_summary,
            reference=row.explanation,
            split=split,
        )
        for number, (row, split) in enumerate(zip(frame.itertuples(), splits, strict=True))
    ]


def llama2_shape(folder, texts) -> None:
    """Save a random Llama with two layers and Llama 2's vocabulary of 32,000 tokens."""
    tokenizer = train_tokenizer(texts, 32_000, 4096)
    tokenizer.add_tokens([f"unused{number}" for number in range(32_000 - len(tokenizer))])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("dataset", ["amazon", "yelp"])
def test_the_paper_s_configuration_tunes_and_explains_real_rows(root, shared, tmp_path, dataset):
    config = load_config(root / "config/config.yaml", root / "config/paper.yaml")
    chosen = settings(config, dataset, "xrec")
    assert chosen["tuning"]["batch_size"] == chosen["generation"]["batch_size"] == 1
    examples = real_examples(shared / "data/xrec" / dataset)
    llama2_shape(tmp_path / "llm", [f"{e.reference} {e.user_profile} {e.item_profile}" for e in examples])
    chosen["llm"] |= {"source": "local", "path": str(tmp_path / "llm"), "dtype": "float32", "quantisation": "none"}
    chosen |= {"domain": config["datasets"][dataset]["domain"], "embeddings": chosen["embeddings"]["as"]}
    chosen["embedding_width"] = chosen["recommenders"]["released"]["dim"]
    rows = {side: max(getattr(e, side) for e in examples) + 1 for side in ("user", "item")}
    tables = {side: torch.randn(count, chosen["embedding_width"]) for side, count in rows.items()}
    save_file(tables, tmp_path / "embeddings.safetensors")
    run = Run(
        seed=1,
        domain=chosen["domain"],
        sections=chosen,
        inputs={"embeddings": tmp_path / "embeddings.safetensors"},
        checkpoint=tmp_path / "checkpoint",
    )
    report = fit(make_method(chosen["method"], "fit", run), examples, tmp_path / "method")
    assert report["language_model_unchanged"] is True
    assert np.isfinite(report["validation_loss"])
    test = [example for example in examples if example.split == "test"]
    chosen["generation"] |= {"max_new_tokens": 16}
    method = make_method(chosen["method"], "write", run)
    method.load(load_fitted(tmp_path / "method"))
    explainer = method.explainer
    assert explainer.llm.model.get_input_embeddings().num_embeddings == 32_004
    prompts = [len(explainer.encoder.test(example, 128).ids) for example in test]
    assert min(prompts) > 60
    few = chosen["generation"]
    done = write_explanations(method, test, few, tmp_path / "partial.jsonl", tmp_path / "explanations.parquet")
    written = read_table(tmp_path / "explanations.parquet", EXPLANATIONS)
    assert written.num_rows == done["explanations"] == (12 if dataset == "amazon" else 1)
    assert done["test_examples"] == 12
