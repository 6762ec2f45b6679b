"""Which models a run loads, whether their files are on this machine and how large they are, without loading them."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xrec_repro.config import Config, experiment_pairs, method_class, settings

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "8bit": 1, "4bit": 0.5}  # of a parameter
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model")


class Model(NamedTuple):
    """A model that a run loads.

    Attributes:
        key: Of the configuration.
        place: Folder or repository.
        revision: Commit of a repository.
        dtype: Number format of the weights, ``8bit``, ``4bit``, or ``auto`` for that of the file.
        longest: Tokens that it must be able to read, where that is known.
    """

    key: str
    place: str
    revision: str | None
    dtype: str
    longest: int | None = None


def models_of(config: Config) -> Iterator[Model]:
    """Yield the models that are not trained in the run, served, or carried by a package; some several times."""
    for pair in experiment_pairs(config):
        chosen = settings(config, *pair)
        llm, profiles, chat = chosen["llm"], chosen["profiles"], chosen["profiles"]["chat"]
        dtype = llm["dtype"] if llm["quantisation"] == "none" else llm["quantisation"]
        longest = chosen["generation"]["max_new_tokens"] + 1
        if llm["source"] == "hub":
            yield Model("llm.repo", llm["repo"], llm["revision"], dtype, longest)
        elif llm["source"] == "local":
            yield Model("llm.path", llm["path"], None, dtype, longest)
        own = chosen["method"] if "llm" in method_class(config, pair[1]).needs else {}
        if own.get("repo"):
            yield Model(f"methods.{own['name']}.repo", own["repo"], own["revision"], "float32", longest)
        elif own.get("model"):
            yield Model(f"methods.{own['name']}.model", own["model"], None, "float32", longest)
        if "chat" in (profiles["backend"], profiles["references"]) and chat["base_url"] is None:
            yield Model("profiles.chat.model", chat["model"], chat["revision"], "auto")
    for name in config["metrics"]["use"]:
        section = config["metrics"][name]
        if name != "gptscore" and section.get("model", "scratch") not in ("scratch", "minilm"):
            dtype = section.get("dtype", "float32")
            yield Model(
                f"metrics.{name}.model", section["model"], section["revision"], dtype, section.get("max_length")
            )


def memory_gb(parameters: int, dtype: str) -> float:
    """Return the gigabytes of so many parameters in memory."""
    return parameters * _BYTES.get(dtype, 4) / 1e9


def hub_folder(repository: str, revision: str) -> Path | None:
    """Return the folder of a commit in the hub's local cache, or None where nothing of it is there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "snapshots", revision)
    return folder if folder.is_dir() else None


def lacks(folder: Path) -> str | None:
    """Return what a model's folder lacks, or None where configuration, weights and tokenizer are there."""
    if not (folder / "config.json").is_file():
        return "config.json"
    whole = [path for pattern in _WEIGHTS for path in folder.glob(pattern)]
    shards = {index.name: _shards(index) for index in folder.glob("*.index.json")}
    if shards and all(any(not (folder / name).is_file() for name in names) for names in shards.values()):
        absent = [name for names in shards.values() for name in names if not (folder / name).is_file()]
        return f"the weights {absent[0]}" if absent else "weights"
    if not whole:
        return "weights (*.safetensors or pytorch_model*.bin)"
    return None if any(any(folder.glob(pattern)) for pattern in _TOKENIZERS) else "a tokenizer"


def _shards(index: Path) -> list[str]:
    """Return the files that an index names; of one that cannot be read, a file that is not there."""
    found = read_json(index).get("weight_map")
    return sorted(set(found.values())) if isinstance(found, dict) and found else [f"that {index.name} should name"]


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def parameters(folder: Path) -> int | None:
    """Count the parameters of a folder's safetensors files by their headers, None where it has none."""
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            total += sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
            return None
    return total or None


def read_models(path: Path) -> dict[str, dict[str, str]]:
    """Read resources/models.tsv: repository -> parameters, gigabytes to download, licence, gated (yes or no)."""
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["repository"]: row for row in csv.DictReader(stream, delimiter="\t")}
