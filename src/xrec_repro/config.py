"""The configuration: read, merge, validate, and hand each stage just its own settings.

This module is imported by the Snakefile, which is parsed again in every job: it must stay free of heavy imports.
"""

import copy
import difflib
import glob
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators

from xrec_repro.config_files import read_config_file, with_added
from xrec_repro.errors import ConfigError

# Sections that an experiment may override: everything else is computed once a data set and shared. One that overrides
# the recommender trains its own.
EXPERIMENT_SECTIONS = ("recommender", "prompt", "embeddings", "adapter", "injection", "tuning", "generation")

# Sources of raw reviews, and the files that each needs.
READ = dict.fromkeys(("amazon", "amazon2023", "yelp", "google"), ("reviews", "items")) | {"table": ("reviews",)}
_NEEDED = READ | {"glassbox": (), "release": ("folder",)}

Config = dict[str, Any]

# What an experiment's entry may leave out; a data set's is in `dataset_defaults`. The label of both is their name.
_EXPERIMENT: Config = {"published_model": None, "overrides": {}}


def merge(base: Config, over: Config) -> Config:
    """Return `base` overlaid with `over`: dictionaries merge key by key, everything else replaces."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def load_config(*paths: str | Path) -> Config:
    """Read a base configuration, overlay the others on it, in order, and complete its entries.

    Raises:
        ConfigError: A file cannot be read, is not a YAML mapping, or gives a key twice.
    """
    config: Config = {}
    for path in paths:
        config = merge(config, with_added(config, read_config_file(path)))
    return complete(config)


def complete(config: Config) -> Config:
    """Return the configuration with what entries of `datasets` and `experiments` leave out.

    Args:
        config: Merged, not checked yet: what is no mapping stays, for `check_config` to refuse.
    """
    filled = dict(config)
    for section, defaults in (("datasets", config.get("dataset_defaults")), ("experiments", _EXPERIMENT)):
        entries = config.get(section)
        if isinstance(entries, dict) and isinstance(defaults, dict):
            filled[section] = {
                name: merge({"label": name} | defaults, entry) if isinstance(entry, dict) else entry
                for name, entry in entries.items()
            }
    return filled


def check_config(config: Config, schema: Config) -> None:
    """Check the whole configuration, then every data set and experiment after merging, those of sweeps included.

    Args:
        config: The merged configuration, `complete`.
        schema: The JSON schema (workflow/schemas/config.schema.yaml).

    Raises:
        ConfigError: Names the first offending key and what to do.
    """
    _refuse_first(_impossible(config))
    _refuse_first(_problems(config, schema))
    missing = next(_absent(config["defaults"], schema["$defs"]["settings"], "defaults"), None)
    if missing:
        raise ConfigError(f"configuration: {missing}: missing; config/config.yaml gives its default")
    config = complete(config)
    if config["sweeps"]:
        config = expand_sweeps(config)
        _refuse_first(_problems(config, schema))  # a sweep's values are known to be settings only now
    for name, experiment in config["experiments"].items():
        for dataset in experiment.get("per_dataset", {}):
            if dataset not in config["datasets"]:
                place = f"configuration: experiments.{name}.per_dataset.{dataset}"
                raise ConfigError(f"{place}: not in datasets{_hint(dataset, config['datasets'])}")
        for section in chain(experiment["overrides"], *experiment.get("per_dataset", {}).values()):
            if section not in EXPERIMENT_SECTIONS:
                raise ConfigError(
                    f"configuration: experiments.{name}.overrides.{section}: shared by all experiments of a "
                    f"data set; set it in defaults or datasets.<name>.overrides instead"
                )
    for dataset, experiment in experiment_pairs(config):
        _check_pair(config, dataset, experiment)
    if config["metrics"]["bertscore"]["model"] == "scratch":
        raise ConfigError("configuration: metrics.bertscore.model: no run trains one; use minilm, or a folder")
    for place, name in _named_experiments(config):
        if name not in config["experiments"]:
            hint = _hint(name, config["experiments"])
            raise ConfigError(f"configuration: {place} names {name!r}, which is not in experiments{hint}")


def _named_experiments(config: Config) -> Iterator[tuple[str, str]]:
    """Yield where the paper stage's sections name an experiment, and the name."""
    yield "statistics.reference", config["statistics"]["reference"]
    for system, entry in config["claims"]["systems"].items():
        if entry["experiment"] is not None:
            yield f"claims.systems.{system}.experiment", entry["experiment"]
    paper = config["paper"]
    lists = {f"tables.{table}": paper["tables"][table] for table in ("table1", "table2")}
    lists |= {section: paper[section]["experiments"] for section in ("figure3", "embeddings")}
    lists |= {f"examples.sections.{one['title']}": one["experiments"] for one in paper["examples"]["sections"]}
    for section, names in lists.items():
        yield from ((f"paper.{section}", name) for name in names or ())


def experiment_pairs(config: Config) -> list[tuple[str, str]]:
    """List the run's (data set, experiment) pairs."""
    return [tuple(pair.split("/")) for pair in config["run"]["experiments"]]


def _check_pair(config: Config, dataset: str, experiment: str) -> None:
    for kind, name in (("datasets", dataset), ("experiments", experiment)):
        if name not in config[kind]:
            raise ConfigError(
                f"configuration: run.experiments names {name!r}, which is not in {kind}{_hint(name, config[kind])}"
            )
    chosen = settings(config, dataset, experiment)
    place = f"configuration: {dataset}/{experiment}"
    if abs(sum(chosen["split"]["ratios"]) - 1) > 1e-6:
        raise ConfigError(f"{place}: split.ratios must add up to 1, not {sum(chosen['split']['ratios']):g}")
    _check_llm(chosen["llm"], place)
    entry = config["datasets"][dataset]
    source = entry["source"]
    for key in _NEEDED[source]:
        if key not in entry["paths"]:
            raise ConfigError(f"configuration: datasets.{dataset}.paths.{key}: a {source} data set needs it")
    if source != "table" and entry["columns"] != config["dataset_defaults"]["columns"]:
        raise ConfigError(f"configuration: datasets.{dataset}.columns: those of {source} are known; use source: table")
    chat = chosen["profiles"]["chat"]
    if "chat" in (chosen["profiles"]["backend"], chosen["profiles"]["references"]) and not chat["model"]:
        raise ConfigError(f"{place}: profiles.chat.model must be set for the chat backend")
    if chat["base_url"] is None and chat["revision"] and not re.fullmatch("[0-9a-f]{40}", chat["revision"]):
        raise ConfigError(f"{place}: profiles.chat.revision: {chat['revision']!r} is no commit; give its 40 digits")
    written = source in ("glassbox", "release")
    if chosen["profiles"]["references"] == "published" and not written:
        raise ConfigError(f"{place}: profiles.references: {source} has no published texts; use chat or extractive")
    if chosen["profiles"]["backend"] == "published" and source != "release":
        raise ConfigError(f"{place}: profiles.backend: {source} has no published profiles; use chat or extractive")


def _check_llm(llm: Config, place: str) -> None:
    needed = {"hub": ("repo", "revision"), "local": ("path",), "scratch": ()}[llm["source"]]
    for key in needed:
        if not llm[key]:
            raise ConfigError(f"{place}: llm.{key} must be set when llm.source is {llm['source']!r}")
    if llm["source"] == "hub" and not re.fullmatch("[0-9a-f]{40}", llm["revision"]):
        raise ConfigError(
            f"{place}: llm.revision: {llm['revision']!r} does not pin {llm['repo']!r}; give the 40-digit commit"
        )
    if llm["source"] == "scratch" and "fixed" not in llm["scratch"]["templates"]:
        raise ConfigError(
            f"{place}: llm.scratch.templates: add 'fixed'; to a model that has read `code` alone every text ends with "
            "[/INST], behind which both templates ask for an explanation"
        )


def gpus_of_a_job(compute: Config, driver: Path = Path("/dev/nvidiactl")) -> int:
    """Return how many GPUs a job that runs a model asks Snakemake for: 1, or 0 where it will run on the CPU.

    Args:
        compute: Section ``compute``.
        driver: A file that is there where NVIDIA's driver is; to import torch takes too long here.
    """
    return int(compute["device"] == "cuda" or (compute["device"] == "auto" and driver.exists()))


def settings(config: Config, dataset: str, experiment: str | None = None) -> Config:
    """Return the settings of a data set, or of an experiment on it: defaults, overlaid twice."""
    merged = merge(config["defaults"], config["datasets"][dataset]["overrides"])
    if experiment is not None:
        entry = config["experiments"][experiment]
        merged = merge(merge(merged, entry["overrides"]), entry.get("per_dataset", {}).get(dataset, {}))
    return merged


def raw_files(config: Config) -> dict[str, dict[str, list[str]]]:
    """Return data set -> ``reviews`` and ``items`` -> the raw files of the run's data sets, in the order of reading.

    A pattern (``data/review-*.json.gz``) stands for the files that match it now, sorted; a file is read once.

    Args:
        config: Its data sets are whole (`complete`), its sweeps expanded.

    Raises:
        ConfigError: No file matches a pattern.
    """
    names = {dataset for dataset, _ in experiment_pairs(config) if config["datasets"][dataset]["source"] in READ}
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        paths = config["datasets"][name]["paths"]
        found[name] = {
            kind: list(dict.fromkeys(chain(*(_matches(path, name, kind) for path in _listed(paths.get(kind, []))))))
            for kind in ("reviews", "items")
        }
    return found


def _matches(path: str, dataset: str, kind: str) -> list[str]:
    pattern = Path(path).expanduser()
    if not glob.has_magic(path):
        return [str(pattern)]
    root, below = Path(pattern.anchor), str(pattern.relative_to(pattern.anchor))  # the current folder, if relative
    files = sorted(str(file) for file in root.glob(below) if file.is_file() and file.name[0] != ".")
    if not files:
        place = f"configuration: datasets.{dataset}.paths.{kind}"
        raise ConfigError(f"{place}: no file matches {path!r}, seen from {Path.cwd()}; check the path and the pattern")
    return files


def expand_sweeps(config: Config) -> Config:
    """Return the configuration with an experiment for every value of every sweep, and the run's pairs with theirs.

    A member is its base with one setting changed, whatever the base's overrides have there; a value that the base has
    already is the base itself.

    Args:
        config: Valid under the schema, and not expanded before.

    Raises:
        ConfigError: A sweep's base or setting is unknown, the setting is no experiment's to choose, or the name of a
            new experiment is taken.
    """
    expanded = copy.deepcopy(config)
    pairs = dict.fromkeys(config["run"]["experiments"])
    for sweep, entry in config["sweeps"].items():
        dataset, base = entry["base"].split("/")
        for value, name in sweep_members(config, sweep):
            pairs[f"{dataset}/{name}"] = None
            if name == base:
                continue
            if name in expanded["experiments"]:
                place = f"configuration: sweeps.{sweep}"
                raise ConfigError(f"{place}: {name!r}, for its value {value!r}, is in experiments already; rename one")
            expanded["experiments"][name] = _sweep_member(config, sweep, value)
    expanded["run"]["experiments"] = list(pairs)
    return expanded


def sweep_members(config: Config, sweep: str) -> list[tuple[Any, str]]:
    """List the values of a sweep, each with the experiment that has it.

    Args:
        config: Expanded (`expand_sweeps`) or not.
        sweep: A key of `sweeps`.

    Raises:
        ConfigError: The sweep's base or setting is unknown, or the setting is no experiment's to choose.
    """
    entry = config["sweeps"][sweep]
    base, own = entry["base"].split("/")[1], _own_value(config, sweep)
    names = [f"{base}-{sweep}-{re.sub('[^A-Za-z0-9_-]', '_', str(value))}" for value in entry["values"]]
    return [(value, base if value == own else name) for value, name in zip(entry["values"], names, strict=True)]


def _sweep_member(config: Config, sweep: str, value: Any) -> Config:
    """Return the entry of the experiment that a sweep adds for a value."""
    entry = config["sweeps"][sweep]
    base, changed = config["experiments"][entry["base"].split("/")[1]], value
    for part in reversed(entry["key"].split(".")):
        changed = {part: changed}
    member = {
        "label": f"{base['label']}, {sweep} {value}",
        "published_model": None,
        "overrides": merge(base["overrides"], changed),
    }
    if "per_dataset" in base:
        member["per_dataset"] = {name: merge(over, changed) for name, over in base["per_dataset"].items()}
    return member


def _own_value(config: Config, sweep: str) -> Any:
    """Return what a sweep's base has where the sweep changes it."""
    entry, place = config["sweeps"][sweep], f"configuration: sweeps.{sweep}"
    dataset, base = entry["base"].split("/")
    for kind, name in (("datasets", dataset), ("experiments", base)):
        if name not in config[kind]:
            raise ConfigError(f"{place}.base names {name!r}, which is not in {kind}{_hint(name, config[kind])}")
    found, parts = settings(config, dataset, base), entry["key"].split(".")
    if parts[0] in found and parts[0] not in EXPERIMENT_SECTIONS:
        raise ConfigError(f"{place}.key: {parts[0]} is shared by all experiments of a data set and cannot be swept")
    for part in parts:
        if not isinstance(found, dict) or part not in found:
            hint = _hint(part, found if isinstance(found, dict) else ())
            raise ConfigError(f"{place}.key: there is no setting {entry['key']}{hint}")
        found = found[part]
    return found


@lru_cache
def load_schema(path: str) -> Config:
    """Read the JSON schema of the configuration."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _refuse_first(problems: Iterator[str]) -> None:
    for problem in problems:
        raise ConfigError(f"configuration: {problem}")


def _impossible(value: Any, place: str = "") -> Iterator[str]:
    """Yield what no setting can be, which the schema's comparisons would let pass or choke on."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{place}: {value} is not a number to compute with; write a finite one"
    elif isinstance(value, int) and value.bit_length() > 63:
        yield f"{place}: an integer of {value.bit_length()} bits is more than any setting can be; write a smaller one"
    elif isinstance(value, list):
        for row, one in enumerate(value):
            yield from _impossible(one, f"{place}.{row}")
    elif isinstance(value, dict):
        for key, one in value.items():
            below = f"{place}.{key}" if place else f"{key}"
            if not isinstance(key, str):
                yield f"{below}: a key is a text, not {type(key).__name__}; put it in quotes"
            yield from _impossible(one, below)


def _is_integer(_: Any, value: Any) -> bool:
    # JSON schema takes 5.0 for an integer, Python's loops and sizes do not.
    return isinstance(value, int) and not isinstance(value, bool)


_TYPES = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
_Validator = validators.extend(Draft202012Validator, type_checker=_TYPES)


def _problems(config: Config, schema: Config) -> Iterator[str]:
    errors = sorted(_Validator(schema).iter_errors(config), key=lambda e: [str(p) for p in e.absolute_path])
    for error in errors:
        place = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            unknown = [key for key in error.instance if key not in known]
            where = f"{place}.{unknown[0]}" if place else unknown[0]
            yield f"{where}: unknown key{_hint(unknown[0], known)}"
        elif error.validator == "enum":
            yield f"{place}: {error.instance!r} is not one of {', '.join(map(str, error.validator_value))}"
        else:
            yield f"{place or 'top level'}: {error.message}{_number_hint(error)}"


def _number_hint(error: ValidationError) -> str:
    """Return how to write a number that YAML takes for a text (1e-4) or that is whole by its value alone (5.0)."""
    if error.validator != "type" or not {"number", "integer"} & set(_listed(error.validator_value)):
        return ""
    try:
        number = float(error.instance)
    except (TypeError, ValueError):
        return ""
    if isinstance(error.instance, bool) or not math.isfinite(number):
        return ""
    if number.is_integer() and abs(number) < 2**53:
        return f"; write {int(number)}"
    return f"; write {number:.6e}" if isinstance(error.instance, str) else ""


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _absent(value: Any, schema: Config, place: str) -> Iterator[str]:
    for key, child in schema.get("properties", {}).items():
        if key not in value:
            yield f"{place}.{key}"
        elif isinstance(value[key], dict):
            yield from _absent(value[key], child, f"{place}.{key}")
