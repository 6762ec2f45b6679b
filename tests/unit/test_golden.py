"""The numbers of the original code (see each bundle's README), reproduced from stock transformers and our hooks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.golden import CUT, each, read_fields, rows_of, whole
from xrec_repro.examples import Example
from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.bundle import load_authors_adapter
from xrec_repro.explainer.decoding import Sampler, decode, stop_tokens
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import add_reserved_tokens, load_llm, weights_digest
from xrec_repro.explainer.prompts import PromptEncoder, prompt_text
from xrec_repro.explainer.tuning import example_losses

LLM = {"source": "local", "dtype": "float32", "attention": "sdpa", "quantisation": "none"}
pytestmark = each("xrec", "golden")


@dataclass
class Golden:
    """One bundle: its numbers, and our explainer on its model."""

    folder: Path
    numbers: dict
    tensors: dict
    samples: list
    explainer: Explainer

    @property
    def examples(self) -> list[Example]:
        fields = ("title", "user_summary", "item_summary", "explanation")
        return [
            Example(str(i), i, i, str(s["uid"]), str(s["iid"]), *(s[f] for f in fields), split="train")
            for i, s in enumerate(self.samples)
        ]

    def domain(self, index: int) -> str:
        return "book" if self.samples[index]["dataset"] == "amazon" else "business"

    def encoder(self, index: int) -> PromptEncoder:
        llm = self.explainer.llm
        return PromptEncoder(llm.tokenizer, self.domain(index), "code", llm.context)

    def check(self, name: str, ours: torch.Tensor, **tolerance: float) -> None:
        """Compare with a tensor of the bundle, in the rows that it has."""
        kept = rows_of(name, read_fields(self.folder / CUT).get("rows", {}))
        ours = ours if kept is None else ours[kept]
        want = self.tensors[name].reshape(ours.shape)
        torch.testing.assert_close(ours, want, **tolerance, msg=lambda m: f"{name}: {m}")


def load(folder: Path) -> Golden:
    llm = load_llm({**LLM, "path": folder / "model"}, None, "cpu")
    add_reserved_tokens(llm, seed=0)
    pair = load_authors_adapter(*(load_file(folder / f"{w}_converter.safetensors") for w in ("user", "item"))).eval()
    rows = load_file(folder / "embeddings.safetensors")
    explainer = Explainer(llm, pair, Injector(llm.model, "output"), None, rows["user_emb"], rows["item_emb"])
    numbers, samples = (read_fields(folder / f"{name}.json") for name in ("golden", "samples"))
    return Golden(folder, numbers, load_file(folder / "golden.safetensors"), samples, explainer)


@pytest.fixture(scope="module")
def golden(request, tmp_path_factory) -> Golden:
    torch.set_num_threads(2)
    return load(whole(request.param, tmp_path_factory.mktemp("golden")))


def by_authors_names(side, read: Callable = lambda parameter: parameter) -> dict[str, torch.Tensor | None]:
    named = {key: read(getattr(side, key)) for key in ("w_gate", "w_noise")}
    for e in range(side.shape["experts"]):
        named[f"experts.{e}.bias"] = read(side.bias)[e]
        named[f"experts.{e}.lin.weight"] = read(side.weight)[e]
    return named


def gradients(side) -> dict[str, torch.Tensor | None]:
    return by_authors_names(side, lambda parameter: parameter.grad)


def test_golden_prompts_are_word_for_word(golden):
    for i, (example, sample) in enumerate(zip(golden.examples, golden.samples, strict=True)):
        assert prompt_text(example, golden.domain(i), "code", train=True) == sample["train_text"]
        assert prompt_text(example, golden.domain(i), "code", train=False) == sample["test_text"]


def test_golden_token_ids_labels_and_positions(golden):
    for i, (example, numbers) in enumerate(zip(golden.examples, golden.numbers["samples"], strict=True)):
        train, test = golden.encoder(i).train(example), golden.encoder(i).test(example, 1)
        assert train.ids == golden.tensors[f"s{i}.train_ids"].flatten().tolist()
        assert train.labels == golden.tensors[f"s{i}.train_labels"].flatten().tolist()
        assert test.ids == golden.tensors[f"s{i}.test_ids"].flatten().tolist()
        assert train.positions == (numbers["user_pos"], numbers["item_pos"])


@pytest.mark.parametrize("which", ["user", "item"])
def test_golden_adapter_outputs_and_gradients(golden, which):
    side, x = getattr(golden.explainer.adapters, which), getattr(golden.explainer, f"{which}_embeddings")
    golden.check(f"adapter.{which}.eval_out", side(x), atol=1e-5, rtol=1e-5)
    golden.check(f"adapter.{which}.eval_gates", side.gates(x), atol=1e-6, rtol=1e-5)
    dropout, side.dropout = side.dropout, 0.0
    out = side.train()(x, noise=golden.tensors[f"adapter.{which}.noise"])
    golden.check(f"adapter.{which}.train_out_given_noise", out, atol=1e-5, rtol=1e-5)
    side.zero_grad()
    (out**2).mean().backward()
    for name, gradient in gradients(side).items():
        golden.check(f"adapter.{which}.train_given_noise.grad.{name}", gradient, atol=1e-6, rtol=1e-4)
    side.dropout = dropout
    side.eval().zero_grad()


def test_golden_logits_loss_and_gradients(golden):
    explainer = golden.explainer
    before = weights_digest(explainer.llm.model)
    for i, (example, numbers) in enumerate(zip(golden.examples, golden.numbers["samples"], strict=True)):
        encoded = golden.encoder(i).train(example)
        batch = pad_left([encoded], explainer.pad_id, "cpu")
        adapted = explainer.adapt([example])
        with torch.no_grad(), explainer.injector.prompt(adapted, batch.positions, batch.ids.shape[1]):
            logits = explainer.llm.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        golden.check(f"s{i}.train_logits", logits[0], atol=1e-4, rtol=0)
        explainer.adapters.zero_grad()
        loss = example_losses(explainer, [example], [encoded]).mean()
        assert loss.item() == pytest.approx(numbers["loss"], abs=1e-5)
        loss.backward()
        for which in ("user", "item"):
            for name, gradient in gradients(getattr(explainer.adapters, which)).items():
                if f"{which}.{name}" in numbers["grad_none"]:
                    assert gradient is None
                else:
                    golden.check(f"s{i}.grad.{which}.{name}", gradient, atol=1e-6, rtol=1e-3)
    assert weights_digest(explainer.llm.model) == before
    assert all(p.grad is None and not p.requires_grad for p in explainer.llm.model.parameters())


def test_golden_adam_steps(golden):
    explainer = load(golden.folder).explainer
    optimizer = torch.optim.Adam(explainer.adapters.parameters(), lr=1e-4)
    losses = []
    for i, example in enumerate(golden.examples):
        optimizer.zero_grad()
        loss = example_losses(explainer, [example], [golden.encoder(i).train(example)]).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(golden.numbers["meta"]["adam_losses"], abs=1e-5)
    for which in ("user", "item"):
        for name, value in by_authors_names(getattr(explainer.adapters, which)).items():
            golden.check(f"after{len(losses)}adam.{which}.{name}", value, atol=2e-6, rtol=0)


def test_golden_greedy_tokens_alone_and_in_a_batch(golden):
    explainer = golden.explainer
    length = max(len(n["greedy_ids"]) for n in golden.numbers["samples"])
    stops = stop_tokens(explainer.llm.tokenizer, at_bracket=False)
    indices = list(range(len(golden.examples)))
    for group in [[i] for i in indices] + [indices]:
        encoded = [golden.encoder(i).test(golden.examples[i], length) for i in group]
        batch = pad_left(encoded, explainer.pad_id, "cpu")
        sampler = Sampler({"decoding": "greedy"}, 0, [str(i) for i in group])
        with torch.no_grad():
            adapted = explainer.adapt([golden.examples[i] for i in group])
        results = decode(explainer.llm.model, explainer.injector, adapted, batch, sampler, length, stops)
        for i, result in zip(group, results, strict=True):
            assert result.ids == golden.numbers["samples"][i]["greedy_ids"]
