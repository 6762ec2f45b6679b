"""The numbers of Att2Seq, NRT, PETER and PETER+ (see each bundle's README) from our networks, reader and training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.golden import each, read_fields
from xrec_repro.examples import Example
from xrec_repro.methods.att2seq import Att2Seq, Att2SeqSettings
from xrec_repro.methods.base import Run
from xrec_repro.methods.ids.decoding import greedy
from xrec_repro.methods.ids.fitting import Explaining
from xrec_repro.methods.ids.reader import Reader, Rows
from xrec_repro.methods.ids.transformer import attention_mask
from xrec_repro.methods.nrt import Nrt, NrtSettings
from xrec_repro.methods.peter import Peter, PeterSettings
from xrec_repro.methods.peter_plus import PeterPlus, PeterPlusSettings
from xrec_repro.metrics.base import Features, Ratings, summary
from xrec_repro.metrics.bleu import Bleu
from xrec_repro.metrics.registry import build_metric
from xrec_repro.training import train

METHODS = {
    "att2seq": (Att2Seq, Att2SeqSettings),
    "nrt": (Nrt, NrtSettings),
    "peter": (Peter, PeterSettings),
    "peter_plus": (PeterPlus, PeterPlusSettings),
}
RECURRENT = {
    "encoder.user_embeddings": "user", "encoder.item_embeddings": "item", "encoder.encoder": "start",
    "decoder.word_embeddings": "word", "decoder.lstm": "rnn", "decoder.gru": "rnn", "decoder.linear": "out",
}  # fmt: skip
TRANSFORMER = {
    "user_embeddings": "user", "item_embeddings": "item", "word_embeddings": "word", "transformer_encoder": "encoder",
    "hidden2token": "out", "recommender.linear1": "rating.0", "recommender.linear2": "rating.2",
}  # fmt: skip
FORWARD, LOSS, GRADIENT, AFTER = (
    {"peter": 1e-4, "peter_plus": 1e-4}, {}, {"peter": 2e-5, "peter_plus": 2e-5},
    {"peter": 1e-4, "peter_plus": 1e-4, "att2seq": 5e-6, "nrt": 5e-6},
)  # fmt: skip


class Bundle:
    """A bundle, and our method with its sizes and its weights."""

    def __init__(self, folder: Path) -> None:
        self.config, self.numbers = read_fields(folder / "config.json"), read_fields(folder / "golden.json")
        self.kind = self.config["model"]
        self.inputs, self.golden = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "golden"))
        self.weights = load_file(folder / "weights.safetensors")
        self.corpus = read_fields(folder / "corpus.json")
        kind, settings = METHODS[self.kind]
        self.method = kind(settings(**self.settings()), Run(seed=1))
        self.reader = self.read()
        self.network = self.method.network(self.config["nuser"], self.config["nitem"], self.reader)
        self.network.load_state_dict({self.ours(name): value for name, value in self.weights.items()})
        self.network.eval()

    def settings(self) -> dict:
        config = self.config
        own = {"size": config["emsize"], "hidden": config["nhid"], "layers": config["nlayers"]}
        own |= {"words": config["words"], "tokens": "whitespace", "vocabulary": "all", "special_words": True}
        own |= {"vocabulary_size": config["vocab_size"], "learning_rate": config["lr"], "clip": config.get("clip")}
        own |= {"batch_size": config["batch_size"], "epochs": 1, "first_epoch": "in_order", "unseen": "random"}
        if self.kind == "att2seq":
            return own | {"dropout": config["dropout"]}
        if self.kind == "nrt":
            return own | {"rating_weight": config["rating_reg"], "l2_weight": config["l2_reg"]}
        own |= {"heads": config["nhead"], "dropout": config["dropout"]}
        own |= {"rating_weight": config["rating_reg"], "context_weight": config["context_reg"]}
        own |= {"given": "feature"} if config["use_feature"] else {}
        return own | {"mask": "peter" if config["peter_mask"] else "left_to_right"}

    def examples(self) -> list[Example]:
        names = {"train": "train", "validation": "val", "test": "test"}
        place = {row: ours for theirs, ours in names.items() for row in self.corpus[theirs]}
        return [
            Example(
                f"e{row}", -1, -1, one["user"], one["item"], "", None, None, one["text"], place[row],
                float(one["rating"]), None, one["feature"],
            )
            for row, one in enumerate(self.corpus["reviews"])
        ]  # fmt: skip

    def read(self) -> Reader:
        """The authors number users and items of all splits; PETER counts features, used or not."""
        examples = self.examples()
        feature = {"given": "feature"} if self.kind.startswith("peter") else {}
        reader = Reader.of(
            examples,
            rated=examples,
            tokens="whitespace",
            words=self.config["words"],
            vocabulary_size=self.config["vocab_size"],
            **feature,
        )
        width = self.inputs["train.feature"].shape[1] if self.kind == "peter_plus" else 0
        return replace(reader, given_words=width)

    def ours(self, name: str) -> str:
        """Return our name of a parameter of theirs."""
        table = RECURRENT if self.kind in ("att2seq", "nrt") else TRANSFORMER
        if self.kind == "nrt":
            further = int(self.config["nlayers"])
            table = table | {"encoder.first_layer": "rating.0", "encoder.last_layer": f"rating.{further + 1}"}
            table |= {f"encoder.layers.{k}": f"rating.{k + 1}" for k in range(further)}
        prefix = max((one for one in table if name.startswith(f"{one}.")), key=len)
        return table[prefix] + name.removeprefix(prefix)

    def rows(self, split: str, count: int | None = None) -> Rows:
        """Return the rows of a split from their own inputs, the first `count` of them."""
        found = {
            name: self.inputs[f"{split}.{name}"][:count]
            for name in ("user", "item", "seq", "rating", "feature")
            if f"{split}.{name}" in self.inputs
        }
        given = found["feature"] if self.kind == "peter_plus" else found["seq"][:, :0]
        return Rows(found["user"], found["item"], found["seq"], found["rating"], given)

    @property
    def first(self) -> Rows:
        return self.rows("train", self.config["batch_size"])

    def close(self, found: torch.Tensor, name: str, tolerance: float = 1e-5) -> None:
        torch.testing.assert_close(
            found.detach(), self.golden[name], atol=tolerance, rtol=0, msg=lambda m: f"{name}: {m}"
        )


@pytest.fixture(scope="module")
def golden(request) -> Bundle:
    return Bundle(request.param)


def of(*kinds: str):
    """Give a test the bundles of some kinds."""
    marks = [each(kind, "golden") for kind in kinds]
    values, ids = zip(
        *((v, i) for mark in marks for v, i in zip(mark.args[1], mark.kwargs["ids"], strict=True)), strict=True
    )
    return pytest.mark.parametrize("golden", values, ids=ids, indirect=True, scope="module")


every, recurrent, transformers = of(*METHODS), of("att2seq", "nrt"), of("peter", "peter_plus")


@every
def test_golden_numbers_of_words_users_and_items(golden):
    assert golden.reader.vocabulary.words == golden.numbers["vocabulary"]
    assert list(golden.reader.users) == golden.numbers["user_order"]
    assert list(golden.reader.items) == golden.numbers["item_order"]
    for theirs, split in (("train", "train"), ("validation", "valid"), ("test", "test")):
        chosen = [golden.examples()[row] for row in golden.corpus[theirs]]
        found, expected = golden.reader.rows(chosen), golden.rows(split)
        for name in ("user", "item", "text", "rating", "given"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name


@recurrent
def test_golden_states_and_words_of_the_recurrent_networks(golden):
    rows, network = golden.first, golden.network
    state, rating = network.first(rows)
    hidden, last = network.rnn(network.word(rows.text[:, :-1]), state)
    golden.close(torch.log_softmax(network.out(hidden), 2), "fwd.log_word_prob")
    if golden.kind == "att2seq":
        golden.close(state[0], "fwd.encoder_state")
        golden.close(last[0], "fwd.final_h")
        golden.close(last[1], "fwd.final_c")
        assert rating is None and not state[1].any()
    else:
        golden.close(state, "fwd.encoder_state")
        golden.close(rating, "fwd.rating")


@transformers
def test_golden_masks_vectors_and_attention_of_the_transformer(golden):
    rows, network = golden.first, golden.network
    words = rows.text[:, :-1]
    assert torch.equal(torch.cat([rows.given, words], 1).T, golden.golden["fwd.text"])
    kind = "peter" if golden.config["peter_mask"] else "left_to_right"
    for name, mask in (
        ("attention", attention_mask(len(network.mask), kind)),
        ("left_to_right", attention_mask(len(network.mask), "left_to_right")),
    ):
        assert torch.equal(mask.to(torch.uint8), golden.golden[f"mask.{name}"])
    padding = network.padding(rows, words)
    assert torch.equal(padding.to(torch.uint8), golden.golden["mask.key_padding"])
    vectors = network.embedded(rows, words)
    golden.close(vectors.transpose(0, 1), "fwd.embedded", 1e-4)
    for number, layer in enumerate(network.encoder.layers):
        seen = {"attn_mask": network.mask, "key_padding_mask": padding, "need_weights": True}
        weights = layer.self_attn(vectors, vectors, vectors, **seen)[1]
        torch.testing.assert_close(weights.detach(), golden.golden["fwd.attns"][number], atol=1e-5, rtol=0)
        vectors = layer(vectors, network.mask, padding)
    golden.close(vectors.transpose(0, 1), "fwd.hidden", 1e-4)


@transformers
@pytest.mark.parametrize("prefix", ["fwd", "ltr"])
def test_golden_outputs_of_the_transformer(golden, prefix):
    rows, network, kept = golden.first, golden.network, golden.network.mask
    words = rows.text[:, :-1]
    if prefix == "ltr":
        network.mask = attention_mask(len(kept), "left_to_right")
    try:
        found = network.encoded(rows, words)
    finally:
        network.mask = kept
    golden.close(network.rating(found[:, 0])[:, 0], f"{prefix}.rating")
    golden.close(torch.log_softmax(network.out(found[:, 1]), 1), f"{prefix}.log_context_dis", 1e-4)
    real = (words != 2).T  # theirs hides padding from padding too, whose outputs nobody reads
    scores = torch.log_softmax(network.out(found[:, network.first_word :]), 2).transpose(0, 1)
    expected = golden.golden[f"{prefix}.log_word_prob"]
    torch.testing.assert_close(scores[real].detach(), expected[real], atol=1e-4, rtol=0)


@every
def test_golden_losses_and_gradients(golden):
    network, expected = golden.network, golden.numbers["steps"][0]
    network.train()
    network.zero_grad()
    rows = golden.first.take(slice(None))  # cut to the longest, as in training
    losses = network.losses(rows)
    total = network.total(losses)
    total.backward()
    for name, value in {**losses, "total": total}.items():
        if name != "l2":
            assert value.item() == pytest.approx(expected[name], abs=1e-5), name
    assert {n for n in ("text", "rating", "context") if n in expected} == losses.keys() - {"l2"}
    parameters = dict(network.named_parameters())
    for name in golden.weights:
        golden.close(parameters[golden.ours(name)].grad, f"grad.{name}", GRADIENT.get(golden.kind, 1e-5))
    network.zero_grad()
    network.eval()


@every
def test_golden_validation_losses(golden):
    rows = golden.rows("valid")
    trainee = Explaining(golden.network, rows, rows, batch_size=golden.config["batch_size"], unseen="random")
    with torch.no_grad():
        found = trainee.held_out()
    for name, value in golden.numbers["evaluate.valid"].items():
        assert found[f"val_{name.removesuffix('_loss')}"] == pytest.approx(value, abs=1e-5), name


@every
def test_golden_steps_of_the_optimiser(golden):
    before = {name: value.clone() for name, value in golden.network.state_dict().items()}
    rows = golden.rows("train")
    trainee = Explaining(
        golden.network, rows, rows, batch_size=golden.config["batch_size"], unseen="random", in_order=True
    )
    found = train(trainee, golden.method.plan(evaluated=False))
    assert found.done == golden.config["steps"]
    parameters = dict(golden.network.named_parameters())
    for name in golden.weights:
        golden.close(parameters[golden.ours(name)], f"after3.{name}", AFTER[golden.kind])
    for step, losses in zip(golden.numbers["steps"], found.curve, strict=True):
        assert losses[0] == pytest.approx(step["total"], abs=1e-4)
    golden.network.load_state_dict(before)


@every
def test_golden_texts_ratings_and_scores(golden):
    rows, words = golden.rows("test"), golden.config["words"]
    found, rating = greedy(golden.network, rows, words, stop=False)
    assert torch.equal(found, golden.golden["gen.ids"])
    if rating is not None:
        golden.close(rating, "gen.rating")
    if golden.kind.startswith("peter"):
        context = golden.network.out(golden.network.encoded(rows, rows.text[:, :1])[:, 1])
        assert torch.equal(context.topk(words, 1).indices, golden.golden["gen.context"])
    predicted = [golden.reader.vocabulary.text(one) for one in found.tolist()]
    assert [text.split() for text in predicted] == golden.numbers["predicted_tokens"]
    stopped = greedy(golden.network, rows, words)[0]
    assert [golden.reader.vocabulary.text(one) for one in stopped.tolist()] == predicted
    references = [golden.reader.vocabulary.text(one[1:]) for one in rows.text.tolist()]
    assert [text.split() for text in references] == golden.numbers["reference_tokens"]
    check_scores(golden, predicted, references, rating)


def check_scores(golden: Bundle, predicted: list[str], references: list[str], rating: torch.Tensor | None) -> None:
    """Compare the scores of which ours has the definition."""
    numbers = golden.numbers
    settings = {"effective_order": False, "smoothing": "none", "tokenizer": "none", "lowercase": False}
    counts = Bleu.from_settings(settings).score(predicted, references).counts
    found = {f"BLEU-{order}": counts[f"corpus_bleu_{order}"] for order in (1, 4)}
    features = Features(numbers["test_feature"], frozenset(numbers["feature_set"]))
    for name in ("usr", "fmr", "fcr", "div"):
        extra = {} if name == "usr" else {"features": features}
        found[name.upper()] = summary(build_metric(name, {}).score(predicted, references, **extra))[name]["mean"]
    if rating is not None:
        low, high = golden.config["min_rating"], golden.config["max_rating"]
        ratings = Ratings(rating.tolist(), golden.rows("test").rating.tolist(), low, high)
        for name in ("rmse", "mae"):
            scores = build_metric(name, {}).score(predicted, references, ratings=ratings)
            found[name.upper()] = summary(scores)[name]["mean"]
    for name, value in found.items():
        assert value == pytest.approx(numbers["metrics"][name], abs=1e-5), name
