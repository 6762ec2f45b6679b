"""Language models in 8 and 4 bits, by bitsandbytes: loaded, tuned and explained with where there is a GPU."""

import pytest
import torch

from tests.unit.test_generation import GREEDY
from tests.unit.test_tuning import SETTINGS, parameters
from xrec_repro.errors import ConfigError
from xrec_repro.explainer.generation import explain_batch
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import add_reserved_tokens, load_llm
from xrec_repro.explainer.tuning import held_out_losses, tune

LLM = {"source": "local", "dtype": "bfloat16", "attention": "sdpa"}
BITS = ("8bit", "4bit")


@pytest.fixture
def folder(language_model, tmp_path):
    """Save a tiny model."""
    made = language_model("llama2")
    for part in (made.model, made.tokenizer):
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("bits", BITS)
def test_without_a_gpu_it_is_one_line(folder, bits):
    with pytest.raises(ConfigError, match=rf"llm\.quantisation: {bits} needs a CUDA device and the package"):
        load_llm(LLM | {"path": str(folder), "quantisation": bits}, None, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("bits", BITS)
def test_a_quantised_model_is_loaded_tuned_and_explains(folder, explainer, examples, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    losses = {}
    for chosen in ("none", bits):
        made = explainer("llama2", "output")
        made.llm = load_llm(LLM | {"path": str(folder), "quantisation": chosen}, None, "cuda")
        add_reserved_tokens(made.llm, seed=5)
        made.injector = Injector(made.llm.model, "output")
        made.adapters.to("cuda")
        losses[chosen] = torch.tensor(held_out_losses(made, examples, 4))
    assert not torch.equal(losses[bits], losses["none"])  # fewer bits, other losses
    torch.testing.assert_close(losses[bits], losses["none"], atol=0.0, rtol=0.25)
    before = parameters(made)
    curve = tune(made, examples, SETTINGS | {"epochs": 8}, 1, tmp_path / "checkpoint.safetensors")
    assert all(not torch.equal(before[name], now) for name, now in parameters(made).items() if "weight" in name)
    mean = [torch.tensor([loss for step in steps for loss in step]).mean() for steps in (curve[:6], curve[-6:])]
    assert mean[1] < mean[0]
    texts = explain_batch(made, examples, GREEDY | {"invariance": "fast"}, 1)
    assert len(texts) == len(examples)
    assert all(text.new_tokens > 0 for text in texts)
