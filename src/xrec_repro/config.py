"""The configuration: read, merge, and hand each stage just its own settings; `config_rules` checks it.

This module is imported by the Snakefile, which is parsed again in every job: it must stay free of heavy imports.
"""

import copy
import glob
import re
from dataclasses import asdict, fields
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any

from xrec_repro.checks import hint, listed
from xrec_repro.config_files import read_config_file, with_added
from xrec_repro.errors import ConfigError
from xrec_repro.methods import METHODS
from xrec_repro.methods.base import Method
from xrec_repro.sections import Experiment

# Sections that an experiment may override: everything else is computed once a data set and shared.
EXPERIMENT_SECTIONS = ("prompt", "embeddings", "adapter", "injection", "tuning", "generation")
READ_EMBEDDINGS = ("trained", "shuffled", "swapped")  # forms of `embeddings.as` that take a recommender

# Sources of raw reviews, and the files that each needs.
READ = dict.fromkeys(("amazon", "amazon2023", "yelp", "google"), ("reviews", "items")) | {"table": ("reviews",)}

Config = dict[str, Any]

# What an experiment's entry may leave out; a data set's is in `dataset_defaults`. The label of both is their name.
_EXPERIMENT: Config = {
    name: Experiment.model_fields[name].default for name in ("method", "published_model", "overrides")
}


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


def experiment_pairs(config: Config) -> list[tuple[str, str]]:
    """List the run's (data set, experiment) pairs."""
    return [tuple(pair.split("/")) for pair in config["run"]["experiments"]]


def gpus_of_a_job(compute: Config, driver: Path = Path("/dev/nvidiactl")) -> int:
    """Return how many GPUs a job that runs a model asks Snakemake for: 1, or 0 where it will run on the CPU.

    Args:
        compute: Section ``compute``.
        driver: A file that is there where NVIDIA's driver is; to import torch takes too long here.
    """
    return int(compute["device"] == "cuda" or (compute["device"] == "auto" and driver.exists()))


def settings(config: Config, dataset: str, experiment: str | None = None) -> Config:
    """Return the settings of a data set, or of an experiment on it: defaults and recommenders, overlaid twice."""
    merged = merge(shared_settings(config), config["datasets"][dataset]["overrides"])
    if experiment is not None:
        entry = config["experiments"][experiment]
        changed = merge(entry["overrides"], entry.get("per_dataset", {}).get(dataset, {}))
        method, own = _method(config, entry["method"], changed)
        merged = merge(merged, {key: value for key, value in changed.items() if key not in own})
        merged["method"] = method
    return merged


def _method(config: Config, name: str, changed: Config) -> tuple[Config, set[str]]:
    """Return the section `method` of an experiment's settings, and which of its overrides are in it."""
    entry, place = config["methods"][name], f"configuration: methods.{name}"
    own = {field.name for field in fields(METHODS.chosen(entry, place).Settings)}
    typed = METHODS.settings(entry, place, **{key: value for key, value in changed.items() if key in own})
    chosen = {key: entry[key] for key in ("kind", "module") if key in entry}
    return {"name": name, **chosen, **asdict(typed)}, own


def method_class(config: Config, experiment: str) -> type[Method]:
    """Return the class of the method of an experiment."""
    name = config["experiments"][experiment]["method"]
    return METHODS.chosen(config["methods"][name], f"configuration: methods.{name}")


def shared_settings(config: Config) -> Config:
    """Return what all experiments share unless a data set overrides it: defaults, and recommenders."""
    return config["defaults"] | {"recommenders": config["recommenders"]}


def recommender(config: Config, dataset: str, name: str) -> Config:
    """Return a recommender's entry on a data set, with what it takes over from the one that it is like.

    Raises:
        ConfigError: There is no such entry, or a `like` leads nowhere or in a circle.
    """
    return like(settings(config, dataset)["recommenders"], name)


def like(entries: Config, name: str) -> Config:
    """Return a recommender's entry with what it takes over from those that it is like."""
    seen: list[str] = []
    while name is not None:
        if name not in entries:
            place = f"configuration: recommenders.{seen[-1]}.like" if seen else "configuration: recommenders"
            raise ConfigError(f"{place}: there is no {name!r}{hint(name, entries)}")
        if name in seen:
            raise ConfigError(f"configuration: recommenders.{name}.like: it is like itself, by way of {seen[-1]!r}")
        seen.append(name)
        name = entries[name].get("like")
    whole = [entries[one].items() for one in reversed(seen)]
    return {key: value for entry in whole for key, value in entry if key != "like"}


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
            kind: list(dict.fromkeys(chain(*(matching(path, name, kind) for path in listed(paths.get(kind, []))))))
            for kind in ("reviews", "items")
        }
    return found


def matching(path: str, dataset: str, kind: str) -> list[str]:
    """Return the files that a path or pattern of a data set stands for; a path alone need not be there.

    Raises:
        ConfigError: No file matches a pattern.
    """
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
    already is the base itself. Where the setting is of the base's recommender (``recommenders.<name>.<setting>``), the
    configuration gets an entry that is like it, and two sweeps of one setting share it.

    Args:
        config: Valid under the schema, and not expanded before.

    Raises:
        ConfigError: A sweep's base or setting is unknown, the setting is no experiment's to choose, or the name of a
            new experiment is taken.
    """
    expanded = copy.deepcopy(config)
    pairs = dict.fromkeys(config["run"]["experiments"])
    for sweep, entry in config["sweeps"].items():
        place, (dataset, base) = f"configuration: sweeps.{sweep}", entry["base"].split("/")
        for value, name in sweep_members(config, sweep):
            pairs[f"{dataset}/{name}"] = None
            if name == base:
                continue
            if name in expanded["experiments"]:
                raise ConfigError(f"{place}: {name!r}, for its value {value!r}, is in experiments already; rename one")
            expanded["experiments"][name] = _sweep_member(config, sweep, value)
            changed = _changed(entry["key"], value)
            for varied, setting in changed.get("recommenders", {}).items():
                variant = {"like": varied} | setting
                if expanded["recommenders"].setdefault(_variant(changed), variant) != variant:
                    raise ConfigError(f"{place}: {_variant(changed)!r} is in recommenders already; rename that entry")
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
    base, changed = config["experiments"][entry["base"].split("/")[1]], _changed(entry["key"], value)
    if "recommenders" in changed:
        changed = {"embeddings": {"of": _variant(changed)}}
    member = {
        "label": f"{base['label']}, {sweep} {value}",
        "method": base["method"],
        "published_model": None,
        "overrides": merge(base["overrides"], changed),
    }
    if "per_dataset" in base:
        member["per_dataset"] = {name: merge(over, changed) for name, over in base["per_dataset"].items()}
    return member


def _changed(key: str, value: Any) -> Config:
    return reduce(lambda below, part: {part: below}, reversed(key.split(".")), value)


def _variant(changed: Config) -> str:
    """Return the name of a recommender that differs from another in one setting, whichever sweep asks for it."""
    ((name, setting),) = changed["recommenders"].items()
    return "-".join([name, *(re.sub("[^A-Za-z0-9_-]", "_", str(part)) for one in setting.items() for part in one)])


def _own_value(config: Config, sweep: str) -> Any:
    """Return what a sweep's base has where the sweep changes it."""
    entry, place = config["sweeps"][sweep], f"configuration: sweeps.{sweep}"
    dataset, base = entry["base"].split("/")
    for kind, name in (("datasets", dataset), ("experiments", base)):
        if name not in config[kind]:
            raise ConfigError(f"{place}.base names {name!r}, which is not in {kind}{hint(name, config[kind])}")
    found, parts = settings(config, dataset, base), entry["key"].split(".")
    if parts[0] == "recommenders":
        used = found["embeddings"]["of"]
        if parts[1:2] != [used] or len(parts) != 3:
            raise ConfigError(f"{place}.key: {base} takes its embeddings of {used!r}; sweep recommenders.{used}.…")
        found["recommenders"][used] = recommender(config, dataset, used)
    elif parts[0] in found and parts[0] not in EXPERIMENT_SECTIONS:
        raise ConfigError(f"{place}.key: {parts[0]} is shared by all experiments of a data set and cannot be swept")
    for part in parts:
        if not isinstance(found, dict) or part not in found:
            meant = hint(part, found if isinstance(found, dict) else ())
            raise ConfigError(f"{place}.key: there is no setting {entry['key']}{meant}")
        found = found[part]
    return found
