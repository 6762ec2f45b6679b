"""Methods that explain from ids: words, batches, shards, kills, cached decoding, and what is wrong with data."""

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.unit.conftest import make_examples
from xrec_repro.config import load_config
from xrec_repro.contracts import EXPLANATIONS
from xrec_repro.errors import ConfigError, DataError
from xrec_repro.examples import Example
from xrec_repro.interrupt import StoppedError
from xrec_repro.io import read_table
from xrec_repro.methods import METHODS
from xrec_repro.methods.base import Run
from xrec_repro.methods.driver import fit, load_fitted, make_method, write_explanations
from xrec_repro.methods.ids import base, fitting
from xrec_repro.methods.ids.decoding import greedy
from xrec_repro.methods.ids.reader import Reader
from xrec_repro.methods.ids.words import EOS, PAD, SPECIALS, UNK, Vocabulary, join, split
from xrec_repro.shards import Shard

SMALL = {"size": 8, "hidden": 12, "layers": 2, "batch_size": 4, "words": 9}
KINDS = {
    "att2seq": SMALL | {"learning_rate": 0.05, "dropout": 0.2, "clip": 5.0},
    "nrt": SMALL | {"learning_rate": 0.05},
    "peter": SMALL | {"learning_rate": 0.1, "heads": 2, "dropout": 0.2, "clip": 1.0, "decay": 0.25},
}
KINDS["peter_plus"] = KINDS["peter"]
every = pytest.mark.parametrize("kind", KINDS)
RATINGS = (1.0, 2.5, 4.0, 5.0)


def pairs(count: int = 21) -> list[Example]:
    """Return examples of a few users and items; the last user and the last item are in no training example."""
    splits = ["train"] * (count - 8) + ["val"] * 3 + ["test"] * 5
    found = [
        replace(e, user_id=f"u{e.user}", item_id=f"i{e.item}", split=splits[row], rating=RATINGS[row % 4])
        for row, e in enumerate(make_examples(count))
    ]
    return [*found[:-2], replace(found[-2], item_id="new"), replace(found[-1], user_id="new", item_id="new")]


def made(kind: str, stage: str = "fit", checkpoint: Path | None = None, **own):
    chosen = {"name": kind, "kind": kind, **KINDS[kind], "epochs": 3, **own}
    return make_method(chosen, stage, Run(seed=3, checkpoint=checkpoint, identity="same", sections={"method": chosen}))


def trained(kind: str, folder: Path, examples: list[Example], **own):
    """Train and return the method as it writes, and the report."""
    report = fit(made(kind, **own), examples, folder / "method")
    method = made(kind, "write", **own)
    method.load(load_fitted(folder / "method"))
    return method, report


def write(method, examples: list[Example], folder: Path, size: int = 2, **options) -> list[dict]:
    settings = {"subset": 1.0, "subset_seed": 42, "batch_size": size}
    test = [e for e in examples if e.split == "test"]
    write_explanations(method, test, settings, folder / "partial", folder / "out.parquet", **options)
    return read_table(folder / "out.parquet", EXPLANATIONS).to_pylist()


# --- Words ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "A fine day, isn't it?",
        '"Well-made" (twice); 3.5 stars!',
        "",
        "...",
        "<eos> a <unk>",
        "naïve — co-op's «x»",
        "日本",
    ],
)
def test_texts_come_back_from_their_words(text):
    assert join(split(text, "punctuation")) == text
    assert join(split(f"  {text}\n", "punctuation")) == text
    assert join(split(text, "whitespace")) == " ".join(text.split())


def test_words_are_counted_only_where_there_are_too_many():
    texts = [["b", "a", "c"], ["a", "<eos>", "c", "d"], ["c"]]
    assert Vocabulary.of(texts, 4).words == [*SPECIALS, "b", "a", "c", "d"]
    assert Vocabulary.of(texts, 3).words == [*SPECIALS, "c", "a", "b"]
    words = Vocabulary.of(texts, 2)
    assert words.sequence(["a", "b", "<eos>"], 3) == [0, words.numbers(["a"])[0], UNK, UNK, EOS]
    assert words.sequence(["a"] * 9, 2) == [0, 5, 5, EOS] and words.sequence([], 2) == [0, EOS, PAD, PAD]
    assert words.text([4, 5, EOS, 4]) == "c a" and words.text([EOS]) == ""


# --- Training and writing -------------------------------------------------------------------------------------------
@every
def test_texts_depend_neither_on_batches_nor_on_shards(kind, tmp_path, monkeypatch):
    examples = pairs(29)
    method, report = trained(kind, tmp_path, examples)
    assert report["train_examples"] == 21 and report["epochs"] == 3 and report["full_texts"] > 0
    for table in method._network.entities:  # so that texts differ, as after a longer training
        torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(0))
    alone = write(method, examples, tmp_path, size=1)
    assert len({row["prediction"] for row in alone}) > 1
    for size in (2, 3, 99):
        rows = write(method, examples, tmp_path, size=size)
        for one, other in zip(alone, rows, strict=True):
            assert one | {"rating": None} == other | {"rating": None}
            assert one["rating"] == pytest.approx(other["rating"], abs=1e-5)
    parts = [write(method, examples, tmp_path, shard=Shard.parse(f"{n}-of-2")) for n in (1, 2)]
    found = {row["example_id"]: row["prediction"] for part in parts for row in part}
    assert found == {row["example_id"]: row["prediction"] for row in alone}
    assert {row["finish_reason"] for row in alone} <= {"eos", "length"}
    assert all((row["rating"] is None) == (kind == "att2seq") for row in alone)
    assert not any(special in row["prediction"] for row in alone for special in SPECIALS)
    for device, invariance, apart in (("cuda", "exact", True), ("cuda", "fast", False), ("cpu", "exact", False)):
        told = Run(seed=1, device=device, sections={"generation": {"invariance": invariance}})
        assert type(method)(method.settings, told)._alone == apart
    monkeypatch.setattr(type(method), "_alone", True)  # as there, also the ratings are those of batch 1
    assert write(method, examples, tmp_path, size=99) == alone


class Killed(BaseException):
    """Stands in for a kill: nothing in the library catches it."""


@every
def test_a_killed_or_stopped_training_ends_in_the_same_bytes(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "SAVE_EVERY", 2)
    examples = pairs()
    fit(made(kind), examples, tmp_path / "whole")
    loss, taken = fitting.Explaining.loss, []

    def dying(step: int, error: type):
        def one(self, batch):
            taken.append(batch)
            if len(taken) == step:
                raise error("there", Path("here")) if error is StoppedError else error
            return loss(self, batch)

        return one

    place = tmp_path / "checkpoint"
    for step in (4, 3):  # 13 rows in batches of 4: the second death is in the second epoch
        taken.clear()
        monkeypatch.setattr(fitting.Explaining, "loss", dying(step, Killed))
        with pytest.raises(Killed):
            fit(made(kind, checkpoint=place), examples, tmp_path / "killed")
    monkeypatch.setattr(fitting.Explaining, "loss", dying(0, Killed))
    taken.clear()
    fit(made(kind, checkpoint=place), examples, tmp_path / "killed")
    assert 0 < len(taken) < 12 and not place.exists()
    for name in ("weights.safetensors", "method.json", "training.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@every
def test_the_last_batch_may_be_one_row_and_the_last_text_one_word(kind, tmp_path):
    examples = [replace(e, reference="word") if e.split == "test" else e for e in pairs()]
    assert sum(e.split == "train" for e in examples) % 4 == 1
    method, _ = trained(kind, tmp_path, examples, words=1)
    assert len(write(method, examples, tmp_path, size=4)) == 5


def test_without_validation_the_last_weights_stay_and_unknown_ids_have_the_mean(tmp_path):
    examples = [e for e in pairs() if e.split != "val"]
    report = trained("nrt", tmp_path, examples)[1]
    assert (report["stopped_by"], report["best_epoch"], report["val"]["unseen_user"]) == ("epochs", 0, 0)
    user = load_fitted(tmp_path / "method").tensors["user.weight"]
    torch.testing.assert_close(user[-1], user[:-1].mean(0))
    drawn, _ = trained("nrt", tmp_path, examples, unseen="random")
    user = load_fitted(tmp_path / "method").tensors["user.weight"]
    torch.testing.assert_close(user[-1], drawn.fresh(drawn._reader).user.weight[-1].detach())


def test_users_and_items_without_a_training_example_are_counted_and_named(tmp_path, caplog):
    examples = pairs()
    method, _ = trained("peter", tmp_path, examples)
    test = [e for e in examples if e.split == "test"]
    found = method.report(test)
    assert found == {"unseen_user": 1, "unseen_item": 2, "unseen": [e.example_id for e in test[-2:]]}
    assert "2 of 5 examples have a user (1) or an item (2) without a training example: the mean vector" in caplog.text
    nobody = replace(test[0], user=-1, item=-1, user_id="", item_id="")
    assert method.write([nobody])[0].text == method.write([replace(nobody, user_id="other")])[0].text


def test_words_of_the_test_split_are_known_only_as_by_the_authors(tmp_path):
    examples = pairs()
    examples[-1] = replace(examples[-1], reference="elsewhere")
    for chosen, known in (("train", False), ("all", True)):
        trained("att2seq", tmp_path, examples, vocabulary=chosen)
        assert ("elsewhere" in load_fitted(tmp_path / "method").facts["vocabulary"]) is known


def test_stopping_counts_as_the_authors_or_in_a_row():
    for stopping, endured in (("endured", True), ("patience", False)):
        plan = made("peter", stopping=stopping, patience=2).plan(evaluated=True)
        assert (plan.endured, plan.patience, plan.decay, plan.clip, plan.evaluate_every) == (endured, 2, 0.25, 1.0, 1)
    assert made("att2seq").plan(evaluated=False).evaluate_every is None


# --- PETER ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("given", [None, "item_profile"])
@pytest.mark.parametrize("mask", ["peter", "left_to_right"])
def test_cached_decoding_writes_what_reading_all_again_does(given, mask):
    kind = "peter_plus" if given else "peter"
    method = made(kind, mask=mask, special_words=True, **({"given": given} if given else {}))
    examples = pairs()
    reader = method.reader(examples)
    network = method.fresh(reader).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # so that texts differ
        network.out.bias[PAD] += 2  # and some have a <pad> in the middle, which is then no key
    rows = reader.rows(examples)
    found, rating = greedy(network, rows, 9, stop=False)
    words = torch.zeros_like(rows.text[:, :1])
    with torch.no_grad():
        for total in range(network.first_word + 1, network.first_word + 10):
            seen = network.mask[:total, :total], network.padding(rows, words)
            hidden = network.encoder(network.embedded(rows, words), *seen)
            words = torch.cat([words, network.out(hidden[:, -1]).argmax(1)[:, None]], 1)
    assert torch.equal(words[:, 1:], found)
    assert (found[:, :-1] == PAD).any() and len({tuple(text) for text in found.tolist()}) > 3
    torch.testing.assert_close(rating, network.rating(hidden[:, 0])[:, 0].detach(), atol=1e-5, rtol=0)


def test_words_that_are_given_are_features_or_profiles():
    examples = [replace(e, feature="front desk" if row % 2 else "pool") for row, e in enumerate(pairs())]
    reader = made("peter_plus").reader(examples)
    assert (reader.given, reader.given_words) == ("feature", 1) and "front desk" in reader.vocabulary.words
    odd = [replace(examples[0], feature=text) for text in ("front desk", "never seen", "<pad>", "", None)]
    assert reader.rows(odd).given.flatten().tolist() == [*reader.vocabulary.numbers(["front desk"]), UNK, UNK, PAD, PAD]
    reader = made("peter_plus", given_words=5).reader(pairs())
    assert (reader.given, reader.given_words) == ("item_profile", 5)
    assert reader.rows(pairs()).given.shape == (21, 5)
    again = Reader.of_facts(reader.facts)
    assert again.facts == reader.facts and torch.equal(again.rows(pairs()).given, reader.rows(pairs()).given)
    bare = [replace(e, item_profile=None) for e in pairs()]
    with pytest.raises(DataError, match="all lack the item profile that methods.peter_plus is given"):
        made("peter_plus").reader(bare)


def test_vectors_that_heads_cannot_share_are_refused():
    with pytest.raises(ConfigError, match="methods.peter.size: 8 is no multiple of heads, 3"):
        made("peter", heads=3).fresh(made("peter").reader(pairs()))


# --- Ratings --------------------------------------------------------------------------------------------------------
def test_the_rating_that_starts_a_text_is_clamped_and_truncated():
    method = made("nrt")
    reader = method.reader(pairs())
    assert (reader.scale, reader.grades) == ((1.0, 5.0), 5)
    network, rows = method.fresh(reader), reader.rows(pairs())
    pair = torch.cat([network.user(rows.user), network.item(rows.item)], 1)
    with torch.no_grad():
        network.rating[-1].weight.zero_()
        for value, grade in ((9.0, 4), (-3.0, 0), (4.9, 3), (2.0, 1)):
            network.rating[-1].bias.fill_(value)
            state, rating = network.first(rows)
            assert rating.tolist() == pytest.approx([value] * len(rows))  # as it comes
            graded = torch.eye(5)[grade].expand(len(rows), -1)
            assert torch.equal(state[0], torch.tanh(network.start(torch.cat([pair, graded], 1))))


@pytest.mark.parametrize("kind", ["nrt", "peter"])
def test_without_ratings_none_is_learnt_and_none_predicted(kind, tmp_path, caplog):
    examples = pairs()
    examples[0] = replace(examples[0], rating=None)
    method, report = trained(kind, tmp_path, examples)
    assert report["ratings"] is False and "val_rating" not in report and report["val_loss"] == report["val_text"]
    assert f"methods.{kind}: examples have no rating: none is learnt or predicted" in caplog.text
    assert {row["rating"] for row in write(method, examples, tmp_path)} == {None}
    names = load_fitted(tmp_path / "method").tensors
    assert not any(name.startswith("rating") for name in names)
    off, report = trained(kind, tmp_path, pairs(), rating_weight=0.0)
    assert report["ratings"] is False and off._network.weights.keys() <= {"text", "context"}


def test_ratings_that_are_none_are_refused():
    examples = pairs()
    for rating, message in (
        (math.nan, "example e2: its rating is nan; mend the data"),
        (2e6, r"ratings from 1 \(e\d+\) to 2e\+06 \(e2\) are on no scale of fewer than 1000 steps"),
    ):
        wrong = [replace(e, rating=rating) if e.example_id == "e2" else e for e in examples]
        with pytest.raises(DataError, match=message):
            made("nrt").reader(wrong)


# --- Texts ----------------------------------------------------------------------------------------------------------
def test_texts_without_a_word_are_refused_together_and_learnt_alone(tmp_path):
    empty = [replace(e, reference="") for e in pairs()]
    with pytest.raises(DataError, match="the references of 13 examples have no word to learn"):
        fit(made("att2seq"), empty, tmp_path)
    special = [replace(e, reference="<pad> <eos>") for e in pairs()]
    with pytest.raises(DataError, match="have no word to learn"):
        fit(made("att2seq", tokens="whitespace"), special, tmp_path)
    mixed = [replace(e, reference="<unk> <bos>" if row % 3 else e.reference) for row, e in enumerate(pairs())]
    method, report = trained("peter", tmp_path, mixed, tokens="whitespace")
    assert report["unknown_words"] > 0.2 and len(write(method, mixed, tmp_path)) == 5


# --- Published settings ---------------------------------------------------------------------------------------------
def sizes(kind: str, **own) -> Iterator[int]:
    """Yield the parameters of the configured network: with no tables, and what a user, an item and a word add."""
    config = load_config(Path(__file__).resolve().parents[2] / "config/config.yaml")["methods"][kind]
    method = make_method({"name": kind} | config | own, "fit", Run(seed=1))
    reader = SimpleNamespace(
        vocabulary=range(10), scale=(1.0, 5.0), grades=5, words=method.settings.words, given_words=0, given=None
    )

    def count(users: int, items: int, words: int) -> int:
        reader.vocabulary = range(words)
        return sum(parameter.numel() for parameter in method.network(users, items, reader).parameters())

    one = count(1, 1, 4)
    user, item, word = count(2, 1, 4) - one, count(1, 2, 4) - one, count(1, 1, 5) - one
    return one - user - item - 4 * word, user, item, word


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("att2seq", (4_334_592, 64, 64, 1025)),
        ("nrt", (1_967_201, 300, 300, 701)),
        ("peter", (6_567_937, 512, 512, 1025)),
        ("peter_plus", (6_567_937, 512, 512, 1025)),
    ],
)
def test_configured_networks_have_the_authors_parameters(kind, expected):
    assert sizes(kind) == expected


def test_configured_training_is_the_authors(root):
    entries = load_config(root / "config/config.yaml")["methods"]
    found = {}
    for kind in KINDS:
        one = asdict(METHODS.settings(entries[kind], f"methods.{kind}"))
        names = ("batch_size", "learning_rate", "clip", "decay", "epochs", "patience", "stopping")
        found[kind] = tuple(one[name] for name in names)
    common = (100, 5, "endured")
    peter = (128, 1.0, 1.0, 0.25, *common)
    assert found == {
        "att2seq": (50, 1e-4, 5.0, 1.0, *common), "nrt": (200, 1e-4, None, 1.0, *common),
        "peter": peter, "peter_plus": peter,
    }  # fmt: skip
