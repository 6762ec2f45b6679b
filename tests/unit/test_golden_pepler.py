"""The numbers of PEPLER's authors' code (see the bundle's README) from our model, optimiser and decoder.

Of the bundle's metrics BLEU and USR are compared, of the texts split into words as their scripts do; their ROUGE is
another definition (`test_golden_metrics`).
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.golden import CUT, each, read_fields, rows_of
from tests.unit.test_golden_metrics import BLEU
from xrec_repro.examples import Example
from xrec_repro.explainer.decoding import Sampler
from xrec_repro.explainer.llm import LanguageModel, load_llm
from xrec_repro.methods.pepler import PeplerSettings
from xrec_repro.methods.pepler_fit import AdamW, Prompting
from xrec_repro.methods.pepler_model import (
    Batch,
    Features,
    Prompted,
    Words,
    collate,
    first_vectors,
    load_language_model,
    rating_head,
)
from xrec_repro.methods.pepler_write import explain
from xrec_repro.metrics.base import summary
from xrec_repro.metrics.bleu import Bleu
from xrec_repro.metrics.usr import Usr

# With the attention that their transformers had: the bias of keys, whose gradient is nothing but rounding (no softmax
# sees it), is what the optimiser moves by up to a step in another direction otherwise.
LLM = {"source": "local", "dtype": "float32", "attention": "eager", "quantisation": "none"}
GREEDY = {"decoding": "greedy"}
pytestmark = each("pepler", "golden")


@dataclass
class Golden:
    """One bundle: its numbers, and the parts that our model is made of."""

    folder: Path
    config: dict
    numbers: dict
    inputs: dict
    tensors: dict
    weights: dict
    llm: LanguageModel
    words: Words

    @property
    def corpus(self) -> dict:
        return read_fields(self.folder / "corpus.json")

    def ids(self, kind: str) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.numbers[f"{kind}_order"])}

    def rows(self, split: str, form: str = "none") -> list[tuple]:
        """Return a split's rows as training has them, from the corpus: of form none, mf, mlp or discrete."""
        users, items, found = self.ids("user"), self.ids("item"), []
        name = {"validation": "valid"}.get(split, split)
        for place, index in enumerate(self.corpus[split]):
            review = self.corpus["reviews"][index]
            prompt = self.inputs[f"discrete.{name}.prompt"][place].tolist() if form == "discrete" else None
            rating = review["rating"] if form in ("mf", "mlp") else None
            text = self.words.text(review["text"])
            found.append((users[review["user"]], items[review["item"]], prompt, text, rating))
        return found

    def batches(self, split: str, form: str = "none") -> list[Batch]:
        """Return a split's batches in its order, padded to the longest text of the split, as theirs are."""
        whole, size = collate(self.rows(split, form), self.words.pad, "cpu"), self.config["batch_size"]
        places = range(0, len(whole.ids), size)
        return [Batch(**{k: v if v is None else v[at : at + size] for k, v in vars(whole).items()}) for at in places]

    def module(self, form: str = "none") -> Prompted:
        """Make our model with the bundle's weights, of form none, mf, mlp or discrete."""
        lm = copy.deepcopy(self.llm.model)
        tables = (
            [None, None] if form == "discrete" else [self.weights[f"{k}_embeddings.weight"] for k in ("user", "item")]
        )
        settings = PeplerSettings(
            rating=form if form in ("mf", "mlp") else "none", rating_hidden=self.config["rec_hidden_size"]
        )
        weight = self.config.get(f"{form}_rating_reg", 1.0)
        module = Prompted(lm, *tables, rating_head(settings, self.llm.hidden, 0), weight)
        with torch.no_grad():
            for name, parameter in named(module).items():
                parameter.copy_(self.weights[name])
        module.train_only("all")
        return module

    def check(self, name: str, ours: Tensor, tolerance: float) -> None:
        """Compare with a tensor of the bundle, in the rows that it has."""
        kept = rows_of(name, read_fields(self.folder / CUT).get("rows", {}))
        ours = ours.detach() if kept is None else ours.detach()[kept]
        torch.testing.assert_close(ours, self.tensors[name], atol=tolerance, rtol=0, msg=lambda m: f"{name}: {m}")

    def check_all(self, prefix: str, values: dict[str, Tensor], tolerance: float) -> None:
        """Compare with all tensors of a prefix; there are some, and none is of something that we do not have."""
        names = [name.removeprefix(prefix) for name in self.tensors if name.startswith(prefix)]
        assert names
        for name in names:
            self.check(f"{prefix}{name}", values[name], tolerance)


def named(module: Prompted) -> dict[str, nn.Parameter]:
    """Return the parameters by the authors' names."""
    found = {}
    for name, parameter in module.named_parameters():
        if name in ("users", "items"):
            name = f"{name[:-1]}_embeddings.weight"
        elif name.startswith("rating."):
            _, place, kind = name.split(".")
            layer = ["first_layer", "layers.0", "layers.1", "last_layer"][int(place) // 2]
            name = f"rec.{layer}.{kind}"
        found[name.removeprefix("lm.")] = parameter
    return found


def gradients(module: Prompted) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in named(module).items() if parameter.grad is not None}


def total(module: Prompted, batch: Batch) -> Tensor:
    text, rating = module.losses(batch)
    return (text + module.rating_weight * rating).mean()


def steps(module: Prompted, part: str, batches: Sequence[Batch], lr: float) -> list[dict]:
    """Train on batches as a stage of training does; return what the bundle says of each step."""
    module.train_only(part)
    chosen = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer, found = AdamW(chosen, lr), []
    for batch in batches:
        optimizer.zero_grad()
        loss = total(module, batch)
        loss.backward()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in chosen])
        found.append({"total": loss.item(), "grad_norm": norm.item(), "with_gradient": len(chosen)})
        optimizer.step()
    module.train_only("all")
    return found


def close(ours: list[dict], theirs: list[dict]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-5)


@pytest.fixture(scope="module")
def golden(request) -> Golden:
    folder = request.param
    config, numbers = (read_fields(folder / f"{name}.json") for name in ("config", "golden"))
    inputs, tensors, weights = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "golden", "weights"))
    llm = load_llm(LLM | {"path": folder / "model"}, None, "cpu")
    words = Words(llm, PeplerSettings(words=config["words"], prompt_words=config["words"]), 1)
    return Golden(folder, config, numbers, inputs, tensors, weights, llm, words)


@pytest.fixture
def first(golden) -> Batch:
    return golden.batches("train")[0]


def test_golden_token_ids_users_items_and_masks(golden):
    special = golden.numbers["special_ids"]
    assert [golden.words.bos, golden.words.eos, golden.words.pad] == [special[f"<{n}>"] for n in ("bos", "eos", "pad")]
    assert len(golden.words.tokenizer) == golden.numbers["ntoken"] == golden.config["ntoken"]
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        whole = collate(golden.rows(split, "mf"), golden.words.pad, "cpu")
        for ours, theirs in ((whole.ids, "seq"), (whole.mask, "mask"), (whole.users, "user"), (whole.items, "item")):
            assert ours.equal(golden.inputs[f"{name}.{theirs}"]), (name, theirs)
        assert whole.ratings.equal(golden.inputs[f"{name}.rating"])


def test_golden_prompts_of_features(golden):
    reviews, (users, items) = golden.corpus["reviews"], (golden.ids("user"), golden.ids("item"))
    train = [
        Example(
            str(i),
            users[r["user"]],
            items[r["item"]],
            r["user"],
            r["item"],
            "",
            "",
            "",
            "",
            "train",
            feature=r["feature"],
        )
        for i, r in enumerate(reviews[index] for index in golden.corpus["train"])
    ]
    features = Features.of(train, "twice")
    for kind, ids, ours in (("user", users, features.users), ("item", items, features.items)):
        theirs = golden.numbers[f"discrete.{kind}2feature"]
        assert {name: set(found) for name, found in theirs.items()} == {
            name: set(ours[str(ids[name])]) for name in theirs
        }
    whole = 0
    for example, theirs in zip(train, golden.numbers["discrete.prompt_text"], strict=True):
        ours = golden.words.prompt(features.prompt(example))
        assert len(ours) == golden.config["words"]
        if theirs.endswith("<pad>"):  # not cut; in whatever order their sets were
            shown = golden.words.tokenizer.decode(ours, skip_special_tokens=True)
            assert sorted(shown.split()) == sorted(theirs.replace("<pad>", " ").split())
            whole += 1
    assert whole


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_golden_forward_pass(golden, first, attention):
    module = golden.module().eval()
    module.lm.set_attn_implementation(attention)
    ids, mask, prefix = first.ids, first.mask, module.prefix(first)
    golden.check("fwd.inputs_embeds", torch.cat([prefix, module.lm.get_input_embeddings()(ids)], 1), 1e-6)
    golden.check("fwd.attention_mask", torch.cat([torch.ones(len(ids), 2, dtype=torch.long), mask], 1), 0)
    labels = torch.cat([torch.full((len(ids), 2), -100), ids.masked_fill(mask == 0, -100)], 1)
    golden.check("fwd.labels", labels, 0)
    golden.check("fwd.logits", module.logits(prefix, ids, mask), 1e-4)
    loss = total(module, first)
    assert loss.item() == pytest.approx(golden.numbers["fwd.loss"], abs=1e-5)
    loss.backward()
    golden.check_all("grad.", gradients(module), 1e-5)


@pytest.mark.parametrize("form", ["none", "mf", "mlp"])
def test_golden_validation_losses(golden, form):
    rows = golden.rows("validation", form)
    with torch.no_grad():
        found = Prompting(golden.module(form), rows, rows, golden.config["batch_size"], golden.words.pad).held_out()
    if form == "none":
        assert found["val_loss"] == pytest.approx(golden.numbers["evaluate.valid"], abs=1e-5)
    else:
        expected = golden.numbers[f"{form}.evaluate.valid"]
        assert (found["val_text"], found["val_rating"]) == pytest.approx(
            (expected["text_loss"], expected["rating_loss"]), rel=1e-5
        )
        assert found["val_loss"] == pytest.approx(sum(expected.values()), rel=1e-5)


def test_golden_two_stages(golden):
    lr, batches = golden.config["lr"], golden.batches("train")
    module = golden.module()
    module.train_only("words")
    trained = [name for name, parameter in named(module).items() if parameter.requires_grad]
    assert set(trained) == set(golden.numbers["stage1_trainable_parameters"])
    close(steps(module, "words", batches, lr), golden.numbers["stage1.steps"])
    golden.check_all("stage1.after3.", named(module), 2e-5)
    close(steps(module, "all", batches, lr), golden.numbers["stage2.steps"])
    golden.check_all("stage2.after3.", named(module), 2e-5)


def test_golden_first_stage_of_the_paper(golden):
    module = golden.module()
    before = copy.deepcopy(module.lm.state_dict())
    close(steps(module, "vectors", golden.batches("train"), golden.config["lr"]), golden.numbers["stage1_frozen.steps"])
    golden.check_all("stage1_frozen.after3.", named(module), 2e-5)
    assert all(value.equal(before[name]) for name, value in module.lm.state_dict().items())


@pytest.mark.parametrize("form", ["mf", "mlp"])
def test_golden_ratings(golden, form):
    module, batches = golden.module(form), golden.batches("train", form)
    text, rating = module.losses(batches[0])
    golden.check(f"{form}.rating", module.ratings(module.prefix(batches[0])), 1e-4)
    expected = golden.numbers[f"{form}.loss"]
    assert text.mean().item() == pytest.approx(expected["text"], abs=1e-5)
    assert rating.mean().item() == pytest.approx(expected["rating"], rel=1e-5)
    assert module.rating_weight == expected["rating_reg"]
    total(module, batches[0]).backward()
    golden.check_all(f"{form}.grad.", gradients(module), 1e-5)
    module.zero_grad()
    close(steps(module, "all", batches, golden.config["lr"]), golden.numbers[f"{form}.steps"])
    golden.check_all(f"{form}.after3.", named(module), 2e-5)
    fresh = golden.module(form)
    check_texts(golden, fresh, f"{form}.gen.ids", fresh.prefix(collate(golden.rows("test"), golden.words.pad, "cpu")))
    golden.check(f"{form}.gen.rating", fresh.ratings(fresh.prefix(collate(golden.rows("test"), 0, "cpu"))), 1e-4)


def test_golden_discrete_prompt(golden):
    module, batches = golden.module("discrete"), golden.batches("train", "discrete")
    whole = collate(golden.rows("train", "discrete"), golden.words.pad, "cpu")
    two = replace(whole, **{key: value[:2] for key, value in vars(whole).items() if value is not None})
    golden.check("discrete.logits_first_two", module.logits(module.prefix(two), two.ids, two.mask), 1e-4)
    assert total(module, batches[0]).item() == pytest.approx(golden.numbers["discrete.loss"], abs=1e-5)
    close(steps(module, "all", batches, golden.config["discrete_lr"]), golden.numbers["discrete.steps"])
    golden.check_all("discrete.after3.", named(module), 2e-5)
    prompt = collate(golden.rows("test", "discrete"), golden.words.pad, "cpu").prompt
    check_texts(golden, golden.module("discrete"), "discrete.gen.ids", prompt)


def check_texts(golden: Golden, module: Prompted, name: str, prompt: Tensor) -> None:
    """Decode all test rows at once and one by one, to the length of the bundle's, whatever the tokens are."""
    want = golden.tensors[name]
    decode = partial(explain, module.eval(), bos=golden.words.bos, max_new_tokens=want.shape[1], stops={})
    together = decode(prompt.detach(), sampler=Sampler(GREEDY, 0, [str(row) for row in range(len(prompt))]))
    assert [one.ids for one in together] == want.tolist()
    for row, alone in enumerate(prompt.detach().split(1)):
        (one,) = decode(alone, sampler=Sampler(GREEDY, 0, ["x"]))
        assert one.ids == want[row].tolist()


def test_golden_greedy_texts(golden):
    module, whole = golden.module(), collate(golden.rows("test"), golden.words.pad, "cpu")
    with torch.no_grad():
        begin = torch.full((len(whole.ids), 1), golden.words.bos)
        logits = module.logits(module.prefix(whole), begin, torch.ones_like(begin), 1)[:, -1]
    golden.check("fwd.first_step_logits", logits, 1e-4)
    check_texts(golden, module, "gen.ids", module.prefix(whole))
    texts = [split_words(golden.words, ids) for ids in golden.tensors["gen.ids"].tolist()]
    assert texts == golden.numbers["predicted_tokens"]
    references = [split_words(golden.words, ids[1:]) for ids in whole.ids.tolist()]
    assert references == golden.numbers["reference_tokens"]
    ours, theirs = ([" ".join(tokens) for tokens in side] for side in (texts, references))
    counts, expected = Bleu.from_settings(BLEU).score(ours, theirs).counts, golden.numbers["metrics"]
    assert [counts[f"corpus_bleu_{n}"] for n in (1, 4)] == pytest.approx([expected[f"BLEU-{n}"] for n in (1, 4)])
    assert summary(Usr().score(ours, theirs))["usr"]["mean"] == pytest.approx(expected["USR"])


def split_words(words: Words, ids: list[int]) -> list[str]:
    """Return the words that the authors' scripts score: contractions and punctuation apart, two signs replaced."""
    end = ids.index(words.eos) if words.eos in ids else len(ids)
    text = words.tokenizer.decode(ids[:end], clean_up_tokenization_spaces=True)
    for pattern in (
        r"'s",
        r"'m",
        r"'ve",
        r"n't",
        r"'re",
        r"'d",
        r"'ll",
        r"\(",
        r"\)",
        ",+",
        ":+",
        ";+",
        r"\.+",
        "!+",
        r"\?+",
    ):
        sign = {":+": ",", ";+": "."}.get(pattern) or pattern.replace("\\", "").rstrip("+")
        text = re.sub(pattern, f" {sign} ", text)
    return text.split()


def test_golden_first_values(golden):
    """The authors' vectors start uniform in +-0.1, and so do ours."""
    for kind in ("user", "item"):
        ours = first_vectors(kind, range(200), 16, 1)
        theirs = golden.numbers["init_statistics"][f"{kind}_embeddings.weight"]
        assert max(ours.abs().max().item(), -theirs["min"], theirs["max"]) <= 0.1
        assert ours.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.02)
        assert theirs["std"] == pytest.approx(0.2 / 12**0.5, rel=0.1)


def test_golden_new_rows_are_normal(golden):
    llm = load_language_model(
        PeplerSettings(),
        type("Run", (), {"sections": {"llm": LLM | {"path": golden.folder / "model"}}, "inputs": {}, "device": "cpu"}),
    )
    old = llm.model.get_input_embeddings().weight.clone()
    Words(llm, PeplerSettings(), 1)
    table = llm.model.get_input_embeddings().weight
    assert table is llm.model.get_output_embeddings().weight  # counted once
    assert table[: len(old)].equal(old) and len(table) == len(old) + 3
    assert table[len(old) :].std().item() == pytest.approx(llm.model.config.initializer_range, rel=0.5)
