"""The workflow's stages that resume, run by their own scripts on a tiny world, to be killed by test_kills.py."""

import os
import random
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from xrec_repro import provenance
from xrec_repro.config import load_config, merge, settings
from xrec_repro.contracts import EXAMPLES, GRAPH
from xrec_repro.explainer import pretrain
from xrec_repro.io import write_table
from xrec_repro.job import Job
from xrec_repro.methods import pepler_fit
from xrec_repro.metrics import _blocks
from xrec_repro.scorers import training

ROOT = Path(__file__).resolve().parents[2]
# Imported once, in the process that all runs are forked from.
PRELOAD = [__name__, "transformers.models.llama.modeling_llama", "xrec_repro.explainer.assemble"]
PRELOAD += ["xrec_repro.methods.xrec_fit", "xrec_repro.methods.xrec_write", "xrec_repro.recommenders.train"]
PRELOAD += ["xrec_repro.methods.pepler_write", "xrec_repro.scorers.judge", "xrec_repro.metrics.llamascore"]
USERS, ITEMS = 20, 16
SMALL = {
    "llm": {"scratch": {"epochs": 2, "batch_size": 4, "hidden": 16, "intermediate": 24}},
    "recommenders": {"lightgcn": {"epochs": 30, "patience": 30, "batch_size": 16, "evaluate_every": 3, "k": 5}},
    "tuning": {"epochs": 2, "batch_size": 4, "checkpoint_every": 3},
    "generation": {"batch_size": 2},
}
METHODS_SMALL = {"pepler": {"epochs": 1, "batch_size": 4}}
SCORER = {"steps": 9, "pairs": 40}
JUDGE = {"batch_size": 2, "min_mass": 0.0}
# What may change between a kill and the next attempt: of the settings, or of what stands around the stage.
EDITS = {
    "dtype": {"llm": {"dtype": "bfloat16"}, "metrics": {"llamascore": {"dtype": "bfloat16"}}},
    "setting": {
        "recommenders": {"lightgcn": {"weight_decay": 1e-5}},
        "tuning": {"learning_rate": 1e-3},
        "generation": {"top_k": 9},
        "metrics": {"llamascore": {"min_mass": 1e-9}},
    },
    "neutral": {
        "tuning": {"checkpoint_every": 4, "micro_batch_size": 4},
        "generation": {"batch_size": 5},
        "metrics": {"llamascore": {"batch_size": 4}},
    },
}


class Stage(NamedTuple):
    """A rule as far as a job can see it."""

    script: str
    sections: tuple[str, ...]
    outputs: dict[str, str]
    kept: dict[str, str]  # the parameter for the file that keeps an unfinished run, where there is one
    inputs: tuple[str, ...]
    experiment: str = "xrec"
    produced: tuple[tuple[str, str], ...] = ()  # where inputs lie that are not XRec's (`PRODUCED`)


EXPLAINER = ("method", "prompt", "embeddings", "adapter", "injection", "llm")
STAGES = {
    "recommender": Stage(
        "train_recommender",
        ("recommender",),
        {"embeddings": "embeddings.safetensors", "metrics": "metrics.json"},
        {"checkpoint": "checkpoint.safetensors"},
        ("graph",),
    ),
    "llm": Stage("pretrain_lm", ("llm",), {"model": "model"}, {}, ("examples",)),
    "tuning": Stage(
        "train_method",
        (*EXPLAINER, "tuning"),
        {"weights": "weights.safetensors", "facts": "method.json", "training": "training.parquet"},
        {"checkpoint": "checkpoint.safetensors"},
        ("examples", "embeddings", "llm"),
    ),
    "generation": Stage(
        "generate_explanations",
        (*EXPLAINER, "generation"),
        {"explanations": "explanations.parquet"},
        {"partial": "explanations.partial.jsonl"},
        ("examples", "embeddings", "llm", "weights", "facts"),
    ),
    "pepler_tuning": Stage(
        "train_method",
        ("method", "llm"),
        {"weights": "weights.safetensors", "facts": "method.json", "training": "training.parquet"},
        {"checkpoint": "checkpoint.safetensors"},
        ("examples", "llm"),
        "pepler",
    ),
    "pepler_texts": Stage(
        "generate_explanations",
        ("method", "llm", "generation"),
        {"explanations": "explanations.parquet"},
        {"partial": "explanations.partial.jsonl"},
        ("examples", "llm", "weights", "facts"),
        "pepler",
        (("weights", "pepler_tuning/weights.safetensors"), ("facts", "pepler_tuning/method.json")),
    ),
    "scorer": Stage("train_scorer", (), {"model": "model"}, {}, ("examples",)),
    "judging": Stage(
        "score_metric",
        ("metrics",),
        {"scores": "scores.parquet", "summary": "summary.json", "replies": "replies.parquet"},
        {"partial": "scores.partial.jsonl"},
        ("explanations", "model"),
    ),
}
PRODUCED = {
    "embeddings": "recommender/embeddings.safetensors",
    "llm": "llm/model",
    "weights": "tuning/weights.safetensors",
    "facts": "tuning/method.json",
    "explanations": "generation/explanations.parquet",
    "model": "scorer/model",
}


class Named(dict):
    """Files or wildcards as Snakemake hands them over."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def run(name: str, world: Path, folder: Path, moment: tuple[int, int] | None = None, edit: str | None = None) -> None:
    """Run a stage's script in this process.

    Args:
        name: The stage.
        world: Folder of its inputs.
        folder: Of its outputs.
        moment: A signal, and the number of the synced file at which the process gets it.
        edit: What is not as it was: one of `EDITS`, or code, device or library.
    """
    if moment:
        _signal_at_sync(*moment)
    pretrain.CHECKPOINT_EVERY = training.CHECKPOINT_EVERY = pepler_fit.CHECKPOINT_EVERY = 3
    _blocks._PAIRS = 4
    torch.set_num_threads(1)
    if edit == "library":
        provenance.versions = lambda *names: dict.fromkeys(names, "9.9")
    if edit == "device":
        _pretend_a_gpu()
    job = _job(name, world, folder, edit)
    runpy.run_path(str(ROOT / f"workflow/scripts/{STAGES[name].script}.py"), {"snakemake": job})


def _pretend_a_gpu() -> None:
    real = Job.device

    def device(job: Job) -> str:
        chosen = real(job)
        job._device = "cuda"
        return chosen

    Job.device = device


def outputs(name: str, folder: Path) -> dict[str, Path]:
    """Return the declared outputs of a stage by name."""
    return {key: folder / file for key, file in (STAGES[name].outputs | {"provenance": "provenance.json"}).items()}


def make_texts(world: Path) -> None:
    """Write the graph and the examples of a world."""
    rng = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(["dry", "humour", "slow", "suspense", "a", "cosy"], k=rng.randint(low, high)))

    pairs = [(user, item) for user in range(USERS) for item in rng.sample(range(ITEMS), 6)]
    split = ["train", "train", "train", "val", "test", "test"] * USERS
    graph = {"user": [u for u, _ in pairs], "item": [i for _, i in pairs], "split": split}
    ids = [f"e{n}" for n in range(len(pairs))]
    names = {"user_id": [f"u{u}" for u, _ in pairs], "item_id": [f"i{i}" for _, i in pairs]}
    texts = {"title": [words(1, 3) for _ in ids], "reference": [words(3, 12) for _ in ids]}
    profiles = {kind: [words(2, 12) for _ in range(count)] for kind, count in (("user", USERS), ("item", ITEMS))}
    texts |= {f"{kind}_profile": [profiles[kind][row] for row in graph[kind]] for kind in profiles}
    unknown = {name: [None] * len(ids) for name in ("rating", "timestamp", "feature")}
    write_table(world / "graph.parquet", graph, GRAPH)
    examples = graph | names | texts | unknown | {"example_id": ids, "zero_shot": [False] * len(ids)}
    write_table(world / "examples.parquet", examples, EXAMPLES)


def _job(name: str, world: Path, folder: Path, edit: str | None) -> SimpleNamespace:
    stage = STAGES[name]
    config = load_config(ROOT / "config/config.yaml", ROOT / "tests/tiny.yaml")
    every = merge(settings(config, "glassbox", stage.experiment), SMALL)
    every["method"] |= METHODS_SMALL.get(stage.experiment, {})
    every["metrics"] = {"llamascore": config["metrics"]["llamascore"] | JUDGE}
    every = merge(every, EDITS.get(edit, {}))
    every["recommender"] = every["recommenders"]["lightgcn"]
    every["embeddings"] = every["embeddings"]["as"]
    chosen = {section: every[section] for section in stage.sections}
    chosen |= {"domain": "book", "embedding_width": every["recommender"]["dim"], "profiles_shown": True}
    if name == "llm":
        chosen = every["llm"]["scratch"]
    if name == "scorer":
        chosen = config["scorers"]["judge"] | SCORER
    kept = {key: str(folder / file) for key, file in stage.kept.items()}
    code = "another" if edit == "code" else "the same"
    compute = {"device": "cpu", "threads": 1}
    fixed = {
        "code": code,
        "scorer": "judge",
        "metric": "llamascore",
        "compute": compute,
        "domain": "book",
        "models": {},
    }
    if stage.script == "generate_explanations":
        fixed["shard"] = "1-of-1"
    produced = PRODUCED | dict(stage.produced)
    inputs = {key: str(world / produced.get(key, f"{key}.parquet")) for key in stage.inputs}
    return SimpleNamespace(
        rule=stage.script,
        input=Named({key: [path] if name == "scorer" else path for key, path in inputs.items()}),
        output=Named({key: str(path) for key, path in outputs(name, folder).items()}),
        params=Named({"settings": chosen, **fixed, **kept}),
        wildcards=Named(seed="1", recommender="lightgcn"),
        log=[str(folder / "log")],
    )


def _signal_at_sync(number: int, at: int) -> None:
    sync, count = os.fsync, 0

    def counted(handle: int) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), number)
        sync(handle)

    os.fsync = counted
