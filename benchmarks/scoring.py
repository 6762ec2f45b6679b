"""Scoring: USR, DIV, FCR, BERTScore, BARTScore, BLEURT and the judge, each against the usual way."""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from operator import ne
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ROOT, arguments, compare, limit, record, run, seconds
from material import predictions
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BartTokenizer,
    LlamaConfig,
)

from xrec_repro.config import load_config
from xrec_repro.metrics._judge import question
from xrec_repro.metrics.bartscore import BartScore
from xrec_repro.metrics.base import Features
from xrec_repro.metrics.bertscore import BertScore
from xrec_repro.metrics.bleurt import Bleurt
from xrec_repro.metrics.llamascore import LlamaScore
from xrec_repro.metrics.registry import build_metric
from xrec_repro.metrics.usr import Usr
from xrec_repro.scorers import bart as scratch_bart
from xrec_repro.scorers import bleurt as scratch_bleurt
from xrec_repro.scorers.tokenizer import byte_pairs
from xrec_repro.seeding import numpy_rng

REPLY = 3  # tokens: a number of two digits and the end, which is all that the prompt asks for
RANDOM = "random weights: how fast, not how good"
Texts = list[str]
CHAT = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def measure_usr(args: argparse.Namespace) -> None:
    """USR against the search of a list, and its growth from n to 8 n."""
    n = 300 if args.smoke else 4000

    def texts(count: int) -> Texts:
        rows = numpy_rng(0, "usr", count).integers(0, 2000, (count, 50))
        return [" ".join(map(str, row)) for row in rows.tolist()]

    few, metric = texts(n), Usr()

    def searched() -> float:
        different: list[Texts] = []
        for text in few:
            if text.split() not in different:
                different.append(text.split())
        return len(different) / len(few)

    assert searched() == metric.score(few, few).columns["usr"].mean(), "USR differs"
    record(args, "usr", compare(lambda: metric.score(few, few), searched, args.rounds), f"{n:,} texts of 50 words")
    some, many = texts(5 * n), texts(40 * n)
    used = [
        statistics.median(seconds(lambda t=t: metric.score(t, t)) for _ in range(args.rounds)) for t in (some, many)
    ]
    facts = {"time at 8 n over time at n": round(used[1] / used[0], 2)}
    record(args, "usr_linear", limit(used[1], 16 * used[0]), f"{len(some):,} and {len(many):,} texts", facts)


def measure_corpus(args: argparse.Namespace) -> None:
    """USR, DIV and FCR together: the time of 32,000 texts, and at 2,000 the loops over pairs of the published codes."""
    names = ("usr", "div", "fcr")
    features = Features((), frozenset(f"f{number}" for number in range(500)))
    metrics = {name: build_metric(name, {}) for name in names}

    def texts(count: int) -> Texts:
        rng = numpy_rng(0, "corpus", count)
        words = rng.integers(0, 4000, (count, 15))
        return [" ".join(f"f{word}" if word < 500 else f"w{word}" for word in row) for row in words.tolist()]

    def ours(rows: Texts) -> list[float]:
        given = {"features": Features([None] * len(rows), features.known)}
        scores = [one.score(rows, rows, **(given if name != "usr" else {})) for name, one in metrics.items()]
        return [float(one.columns[name].mean()) for name, one in zip(names, scores, strict=True)]

    def same(one: Texts, two: Texts) -> bool:
        return len(one) == len(two) and not any(map(ne, one, two))

    def pairs(rows: Texts) -> list[float]:
        split, unique = [row.split() for row in rows], []
        for words in split:
            if not any(same(words, other) for other in unique):
                unique.append(words)
        named = [features.known.intersection(words) for words in split]
        common, every = 0, set()
        for number, one in enumerate(named):
            every = every | one
            for other in range(number + 1, len(named)):
                common += len(one & named[other])
        return [len(unique) / len(rows), common / (len(rows) * (len(rows) - 1) / 2), len(every) / len(features.known)]

    few, many = (texts(60 if args.smoke else count) for count in (2000, 32000))
    assert np.allclose(ours(few), pairs(few), rtol=0, atol=1e-9), "USR, DIV or FCR differ"
    where = "random texts of 15 words, 500 features"
    record(args, "corpus", compare(lambda: ours(few), lambda: pairs(few), args.rounds), f"{len(few):,} {where}")
    used = statistics.median(seconds(lambda: ours(many)) for _ in range(args.rounds))
    record(args, "corpus_limit", limit(used, 5.0), f"{len(many):,} {where}")


def measure_bertscore(args: argparse.Namespace, texts: tuple[Texts, Texts, str], folder: Path) -> None:
    """BERTScore with all-MiniLM-L6-v2, whose weights are at hand, against the package."""
    from bert_score import BERTScorer

    made = {"layer": 6, "idf": False, "rescale": False, "batch_size": batch_size("bertscore")}
    metric = BertScore.from_settings({"model": "minilm", "revision": None, **made}, device="cpu")
    package = BERTScorer(model_type=str(metric._folder), num_layers=6, device="cpu")
    left, right, data = texts

    def ours() -> np.ndarray:
        columns = metric.score(left, right).columns
        return np.stack([columns[f"bertscore_{part}"] for part in ("p", "r", "f1")])

    def peer() -> np.ndarray:
        return np.stack([side.numpy() for side in package.score(left, right)])

    same(ours(), peer(), 1e-4, "BERTScore")
    times = compare(ours, peer, args.rounds, warm_up=False)
    record(args, "bertscore", times, data, {"weights": "all-MiniLM-L6-v2, layer 6", "batch": metric.batch_size})


def measure_bartscore(args: argparse.Namespace, texts: tuple[Texts, Texts, str], folder: Path) -> None:
    """BARTScore in the shape of bart-base against what BARTScore's own code does."""
    left, right, data = first(texts, args.modelled)
    tokenizer = bart_model(folder, left + right, args.smoke)
    made = {"weights": None, "direction": "pred_to_ref", "max_length": 1024, "dtype": "float32"}
    made["batch_size"] = batch_size("bartscore")
    metric = BartScore.from_settings({"model": str(folder), "revision": None, **made}, device="cpu")
    model = BartForConditionalGeneration.from_pretrained(folder).eval()
    pad = tokenizer.pad_token_id

    @torch.no_grad()
    def peer() -> np.ndarray:
        found = []
        for start in range(0, len(left), 4):
            source, target = (
                tokenizer(side[start : start + 4], truncation=True, max_length=1024, padding=True, return_tensors="pt")
                for side in (left, right)
            )
            wanted = target.input_ids  # as labels, so that the model works out a loss of its own as well
            logits = model(input_ids=source.input_ids, attention_mask=source.attention_mask, labels=wanted).logits
            lost = F.nll_loss(logits.flatten(0, 1).log_softmax(1), wanted.flatten(), ignore_index=pad, reduction="none")
            found += (-lost.view_as(wanted).sum(1) / target.attention_mask.sum(1)).tolist()
        return np.array(found)

    same(metric.score(left, right).columns["bartscore"], peer(), 1e-4, "BARTScore")
    times = compare(lambda: metric.score(left, right), peer, args.rounds, warm_up=False)
    shape = f"{model.config.encoder_layers} + {model.config.decoder_layers} layers, {model.config.d_model} wide"
    facts = {"weights": f"{RANDOM}; BART, {shape}, {model.config.vocab_size:,} tokens", "batch": metric.batch_size}
    record(args, "bartscore", times, data, facts)


def bart_model(folder: Path, texts: Texts, smoke: bool) -> BartTokenizer:
    """Write a random BART of bart-base's shape; return its tokenizer of the class that BARTScore's code uses."""
    trained = scratch_bart._tokenizer(texts, {"vocabulary": 400 if smoke else 8000, "context": 1024})
    trained.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    tokenizer = BartTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    width, layers = (32, 1) if smoke else (768, 6)
    shape = {
        f"{part}_{what}": number
        for part in ("encoder", "decoder")
        for what, number in (
            ("layers", layers),
            ("attention_heads", width // 16 if smoke else 12),
            ("ffn_dim", 4 * width),
        )
    }
    ends = {key: getattr(tokenizer, key) for key in ("bos_token_id", "pad_token_id", "eos_token_id")}
    start = {"decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    words = len(tokenizer) if smoke else 50_265
    save(
        folder,
        BartForConditionalGeneration(BartConfig(vocab_size=words, d_model=width, **shape, **ends, **start)),
        tokenizer,
    )
    return tokenizer


def measure_bleurt(args: argparse.Namespace, texts: tuple[Texts, Texts, str], folder: Path) -> None:
    """BLEURT in the shape of its test checkpoint, which XRec's authors use, padded as in both packages."""
    from bleurt_pytorch import BleurtConfig, BleurtForSequenceClassification

    left, right, data = texts
    tokenizer = scratch_bleurt._tokenizer(left + right, {"vocabulary": 30_000, "context": 512})
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    config = BleurtConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    model = BleurtForSequenceClassification(config).eval()
    save(folder, model, tokenizer)
    made = {"max_length": 512, "dtype": "float32", "batch_size": batch_size("bleurt")}
    metric = Bleurt.from_settings({"model": str(folder), "revision": None, **made}, device="cpu")

    @torch.no_grad()
    def peer(size: int, padding: str) -> np.ndarray:
        found: list[float] = []
        for start in range(0, len(left), size):
            pairs = right[start : start + size], left[start : start + size]
            inputs = tokenizer(*pairs, padding=padding, truncation=True, max_length=512, return_tensors="pt")
            found += model(**inputs).logits.flatten().tolist()
        return np.array(found)

    facts = {"weights": f"{RANDOM}; shape of BLEURT's test checkpoint (2 layers, 128 wide)", "batch": metric.batch_size}
    ours = metric.score(left, right).columns["bleurt"]
    for name, how in (("bleurt", (16, "max_length")), ("bleurt_longest", (len(left), "longest"))):
        same(ours, peer(*how), 1e-4, "BLEURT")
        times = compare(lambda: metric.score(left, right), lambda how=how: peer(*how), args.rounds, warm_up=False)
        record(args, name, times, data, facts)


def measure_judge(args: argparse.Namespace, texts: tuple[Texts, Texts, str], folder: Path) -> None:
    """The judge's distribution over numbers against replies generated one after the other."""
    left, right, data = first(texts, 6 if args.smoke else args.judged)
    judge_model(folder, left + right, 32 if args.smoke else 256)
    made = {"max_new_tokens": 8, "attempts": 1, "min_mass": 0.0, "dtype": "float32"}
    together, alone = (
        LlamaScore.from_settings(
            {"model": str(folder), "revision": None, "mode": "expected", "batch_size": size, **made}, device="cpu"
        )
        for size in (batch_size("llamascore"), 1)
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.no_grad()
    def peer(reply: int) -> None:
        for pair in zip(left, right, strict=True):
            prompt = tokenizer.apply_chat_template(question(*pair), add_generation_prompt=True, return_tensors="pt")
            model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                min_new_tokens=reply,  # random weights end nothing by themselves
                max_new_tokens=reply,
                pad_token_id=tokenizer.pad_token_id,
            )

    # The peer's replies are no expectations to compare with: what is checked is that batches change nothing.
    scores = [metric.score(left, right).columns["llamascore"] for metric in (together, alone)]
    same(*scores, 1e-3, "judge, in batches and alone")
    shape = f"{model.config.num_hidden_layers} layers, {model.config.hidden_size} wide"
    facts = {"weights": f"{RANDOM}; Llama, {shape}; a digit is a token, as for Llama 2", "batch": together.batch_size}
    for name, reply in (("judge", REPLY), ("judge_limit", configured("llamascore")["max_new_tokens"])):
        times = compare(lambda: together.score(left, right), lambda reply=reply: peer(reply), args.rounds)
        record(args, name, times, data, facts | {"tokens of a reply": reply})


def judge_model(folder: Path, texts: Texts, width: int) -> None:
    """Write a random Llama with a chat template, for which every digit is a token (as for Llama 2)."""
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    prompts = [message["content"] for message in question("", "")]
    bpe = byte_pairs([*texts, *prompts], 400 if width < 256 else 4000, ["<pad>", "<s>", "</s>"])
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), bpe.pre_tokenizer])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=CHAT
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=1 if width < 256 else 4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    save(folder, AutoModelForCausalLM.from_config(config), tokenizer)


def batch_size(metric: str) -> int:
    """Return the batch size that the configuration gives a metric."""
    return configured(metric)["batch_size"]


def configured(metric: str) -> dict[str, Any]:
    """Return a metric's section of the configuration."""
    return load_config(ROOT / "config" / "config.yaml")["metrics"][metric]


def first(texts: tuple[Texts, Texts, str], count: int) -> tuple[Texts, Texts, str]:
    """Return the first pairs, and what they are."""
    left, right, data = texts
    left, right = left[:count], right[:count]
    return left, right, f"{data.partition(',')[0]}, {len(left)} pairs"


def same(ours: np.ndarray, peer: np.ndarray, tolerance: float, what: str) -> None:
    """Fail unless two scorings agree."""
    furthest = float(np.abs(ours - peer).max())
    assert furthest < tolerance, f"{what}: scores differ by up to {furthest:.1e}"


def save(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


MEASURES: dict[str, Callable[..., None]] = {
    "bertscore": measure_bertscore,
    "bartscore": measure_bartscore,
    "bleurt": measure_bleurt,
    "judge": measure_judge,
}
CORPUS: dict[str, Callable[[argparse.Namespace], None]] = {"usr": measure_usr, "corpus": measure_corpus}


def main(args: argparse.Namespace) -> None:
    """Run the measurements that were asked for."""
    texts = predictions(12 if args.smoke else args.pairs)  # as released, in no order of length
    for name, measure in CORPUS.items():
        if name in args.only:
            measure(args)
    for name in args.only:
        if name in MEASURES:
            with tempfile.TemporaryDirectory() as folder:
                MEASURES[name](args, texts, Path(folder))


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=3)
    every = [*CORPUS, *MEASURES]
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="which to run (default: all)")
    parser.add_argument("--pairs", type=int, default=400, help="pairs to score (default: %(default)s)")
    parser.add_argument("--judged", type=int, default=64, help="pairs to judge (default: %(default)s)")
    parser.add_argument("--modelled", type=int, default=64, help="pairs for BARTScore (default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main, options())
