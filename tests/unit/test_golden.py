"""The numbers of the original code (see each bundle's README), reproduced from stock transformers and our hooks."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xrec_repro.explainer.batching import pad_left
from xrec_repro.explainer.bundle import load_authors_adapter
from xrec_repro.explainer.decoding import Sampler, decode, stop_tokens
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import add_reserved_tokens, load_llm, weights_digest
from xrec_repro.explainer.prompts import Example, PromptEncoder, prompt_text
from xrec_repro.explainer.tuning import example_losses

LLM = {"source": "local", "dtype": "float32", "attention": "sdpa", "quantisation": "none"}
AUTHORS = {"w_gate": "w_gate", "w_noise": "w_noise"}


@dataclass
class Golden:
    """One bundle: its numbers, and our explainer on its model."""

    folder: Path
    numbers: dict
    tensors: dict
    examples: list
    domains: list
    explainer: Explainer

    def encoder(self, index: int) -> PromptEncoder:
        llm = self.explainer.llm
        return PromptEncoder(llm.tokenizer, self.domains[index], "code", llm.context)


def load(folder: Path) -> Golden:
    samples = json.loads((folder / "samples.json").read_text())
    fields = ("title", "user_summary", "item_summary", "explanation")
    examples = [
        Example(str(i), i, i, str(s["uid"]), str(s["iid"]), *(s[f] for f in fields), split="train")
        for i, s in enumerate(samples)
    ]
    llm = load_llm({**LLM, "path": folder / "model"}, None, "cpu")
    add_reserved_tokens(llm, seed=0)
    pair = load_authors_adapter(*(load_file(folder / f"{w}_converter.safetensors") for w in ("user", "item"))).eval()
    rows = load_file(folder / "embeddings.safetensors")
    explainer = Explainer(llm, pair, Injector(llm.model, "output"), None, rows["user_emb"], rows["item_emb"])
    domains = ["book" if s["dataset"] == "amazon" else "business" for s in samples]
    numbers = json.loads((folder / "golden.json").read_text())
    return Golden(folder, numbers, load_file(folder / "golden.safetensors"), examples, domains, explainer)


@pytest.fixture(scope="module")
def goldens(golden_bundles) -> list[Golden]:
    torch.set_num_threads(2)
    return [load(folder) for folder in golden_bundles]


def authors_gradients(side) -> dict[str, torch.Tensor]:
    named = {key: getattr(side, key).grad for key in AUTHORS}
    for e in range(side.shape["experts"]):
        named[f"experts.{e}.bias"] = side.bias.grad[e]
        named[f"experts.{e}.lin.weight"] = side.weight.grad[e]
    return named


def test_golden_prompts_are_word_for_word(goldens):
    for golden in goldens:
        samples = json.loads((golden.folder / "samples.json").read_text())
        for example, domain, sample in zip(golden.examples, golden.domains, samples, strict=True):
            assert prompt_text(example, domain, "code", train=True) == sample["train_text"]
            assert prompt_text(example, domain, "code", train=False) == sample["test_text"]


def test_golden_token_ids_labels_and_positions(goldens):
    for golden in goldens:
        for i, (example, numbers) in enumerate(zip(golden.examples, golden.numbers["samples"], strict=True)):
            train, test = golden.encoder(i).train(example), golden.encoder(i).test(example, 1)
            assert train.ids == golden.tensors[f"s{i}.train_ids"].flatten().tolist()
            assert train.labels == golden.tensors[f"s{i}.train_labels"].flatten().tolist()
            assert test.ids == golden.tensors[f"s{i}.test_ids"].flatten().tolist()
            assert train.positions == (numbers["user_pos"], numbers["item_pos"])


def test_golden_adapter_outputs_and_gradients(goldens):
    for golden in goldens:
        for which in ("user", "item"):
            side = getattr(golden.explainer.adapters, which)
            x = getattr(golden.explainer, f"{which}_embeddings")
            want = {k.split(f"adapter.{which}.")[1]: v for k, v in golden.tensors.items() if f"adapter.{which}." in k}
            torch.testing.assert_close(side(x), want["eval_out"], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(side.gates(x), want["eval_gates"], atol=1e-6, rtol=1e-5)
            dropout, side.dropout = side.dropout, 0.0
            out = side.train()(x, noise=want["noise"])
            torch.testing.assert_close(out, want["train_out_given_noise"], atol=1e-5, rtol=1e-5)
            side.zero_grad()
            (out**2).mean().backward()
            for name, gradient in authors_gradients(side).items():
                torch.testing.assert_close(
                    gradient,
                    want[f"train_given_noise.grad.{name}"],
                    atol=1e-6,
                    rtol=1e-4,
                    msg=lambda m, n=name: n + m,
                )
            side.dropout = dropout
            side.eval().zero_grad()


def test_golden_logits_loss_and_gradients(goldens):
    for golden in goldens:
        explainer = golden.explainer
        before = weights_digest(explainer.llm.model)
        for i, (example, numbers) in enumerate(zip(golden.examples, golden.numbers["samples"], strict=True)):
            encoded = golden.encoder(i).train(example)
            batch = pad_left([encoded], explainer.pad_id, "cpu")
            with (
                torch.no_grad(),
                explainer.injector.prompt(explainer.adapt([example]), batch.positions, batch.ids.shape[1]),
            ):
                logits = explainer.llm.model(input_ids=batch.ids, attention_mask=batch.mask).logits
            want = golden.tensors[f"s{i}.train_logits"].reshape(logits.shape)
            torch.testing.assert_close(logits, want, atol=1e-4, rtol=0)
            explainer.adapters.zero_grad()
            loss = example_losses(explainer, [example], [encoded]).mean()
            assert loss.item() == pytest.approx(numbers["loss"], abs=1e-5)
            loss.backward()
            for which in ("user", "item"):
                for name, gradient in authors_gradients(getattr(explainer.adapters, which)).items():
                    key = f"s{i}.grad.{which}.{name}"
                    if key in golden.tensors:
                        torch.testing.assert_close(gradient, golden.tensors[key], atol=1e-6, rtol=1e-3)
                    else:
                        assert f"{which}.{name}" in numbers["grad_none"]
                        assert gradient is None
        assert weights_digest(explainer.llm.model) == before
        assert all(p.grad is None and not p.requires_grad for p in explainer.llm.model.parameters())


def test_golden_adam_steps(golden_bundles):
    for golden in map(load, golden_bundles):
        explainer = golden.explainer
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
            side = getattr(explainer.adapters, which)
            for e in range(side.shape["experts"]):
                want = golden.tensors[f"after6adam.{which}.experts.{e}.lin.weight"]
                torch.testing.assert_close(side.weight[e], want, atol=2e-6, rtol=0)
                torch.testing.assert_close(
                    side.bias[e], golden.tensors[f"after6adam.{which}.experts.{e}.bias"], atol=2e-6, rtol=0
                )


def test_golden_greedy_tokens_alone_and_in_a_batch(goldens):
    for golden in goldens:
        explainer = golden.explainer
        length = max(len(n["greedy_ids"]) for n in golden.numbers["samples"])
        greedy = {"decoding": "greedy"}
        stops = stop_tokens(explainer.llm.tokenizer, at_bracket=False)
        indices = list(range(len(golden.examples)))
        for group in [[i] for i in indices] + [indices]:
            examples = [golden.examples[i] for i in group]
            encoded = [golden.encoder(i).test(golden.examples[i], length) for i in group]
            batch = pad_left(encoded, explainer.pad_id, "cpu")
            sampler = Sampler(greedy, 0, [str(i) for i in group])
            with torch.no_grad():
                adapted = explainer.adapt(examples)
            results = decode(explainer.llm.model, explainer.injector, adapted, batch, sampler, length, stops)
            for i, result in zip(group, results, strict=True):
                assert result.ids == golden.numbers["samples"][i]["greedy_ids"]
