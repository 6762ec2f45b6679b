"""The configuration: read, merge, validate, and hand each stage just its own settings.

This module is imported by the Snakefile, which is parsed again in every job: it must stay free of heavy imports.
"""

import copy
import glob
import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import lru_cache, reduce
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from xrec_repro.checks import absent, hint, impossible, listed, problems
from xrec_repro.config_files import read_config_file, with_added
from xrec_repro.errors import ConfigError
from xrec_repro.methods import METHODS
from xrec_repro.methods.base import Method
from xrec_repro.metrics import METRICS
from xrec_repro.metrics.registry import metric_class, stated
from xrec_repro.plugins import CHOICE, read_settings
from xrec_repro.recommenders import RECOMMENDERS

# Sections that an experiment may override: everything else is computed once a data set and shared.
EXPERIMENT_SECTIONS = ("prompt", "embeddings", "adapter", "injection", "tuning", "generation")
READ_EMBEDDINGS = ("trained", "shuffled")  # forms of `embeddings.as` that take a recommender

# Sources of raw reviews, and the files that each needs.
READ = dict.fromkeys(("amazon", "amazon2023", "yelp", "google"), ("reviews", "items")) | {"table": ("reviews",)}
_NEEDED = READ | {"glassbox": (), "release": ("folder",)}

Config = dict[str, Any]

# What an experiment's entry may leave out; a data set's is in `dataset_defaults`. The label of both is their name.
_EXPERIMENT: Config = {"method": "xrec", "published_model": None, "overrides": {}}


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
    _refuse_first(impossible(config))
    _refuse_first(problems(config, schema))
    missing = absent(_shared(config), schema["$defs"]["settings"], "defaults")
    _refuse_first(f"{one}: missing; config/config.yaml gives its default" for one in missing)
    config = complete(config)
    if config["sweeps"]:
        config = expand_sweeps(config)
        _refuse_first(problems(config, schema))  # a sweep's values are known to be settings only now
    for name, experiment in config["experiments"].items():
        for dataset in experiment.get("per_dataset", {}):
            if dataset not in config["datasets"]:
                place = f"configuration: experiments.{name}.per_dataset.{dataset}"
                raise ConfigError(f"{place}: not in datasets{hint(dataset, config['datasets'])}")
        _check_overrides(config, schema, name)
    _check_recommenders(config)
    for dataset, experiment in experiment_pairs(config):
        _check_pair(config, dataset, experiment)
    _check_metrics(config)
    for place, name in _named_experiments(config):
        if name not in (known := config["experiments"]):
            raise ConfigError(f"configuration: {place} names {name!r}, which is not in experiments{hint(name, known)}")


def _check_metrics(config: Config) -> None:
    """Check the entries of metrics from outside, which the schema does not know, and what it cannot tell of ours."""
    section, place = config["metrics"], "configuration: metrics"
    for name in section["use"]:
        if name not in section:
            raise ConfigError(f"{place}.use: {name!r} has no section{hint(name, section)}; give it metrics.{name}")
    for name in section.keys() - METRICS.own.keys() - {"use"}:
        entry = section[name]
        if "module" not in entry and name not in METRICS.kinds():
            meant = hint(name, METRICS.own)
            raise ConfigError(f"{place}.{name}: unknown key{meant}; a metric of your own names its module")
        _check_own_metric(entry, name, place)
    columns: dict[str, str] = {}
    for name in (*sorted(METRICS.own), *(name for name in section["use"] if name not in METRICS.own)):
        for column in stated(name, section.get(name, {})).columns:
            if columns.setdefault(column, name) != name:
                raise ConfigError(f"{place}.{name}: its column {column!r} is one of {columns[column]} too; rename it")
    bertscore = section["bertscore"]
    if bertscore["model"] == "scratch":
        raise ConfigError("configuration: metrics.bertscore.model: no run trains one; use minilm, or a folder")
    if bertscore["rescale"] is True and bertscore["revision"] is None:
        raise ConfigError(
            "configuration: metrics.bertscore.rescale: true finds the baseline of a hub repository (with its revision) "
            "alone; for a folder name the baseline of its model, e.g. roberta-large"
        )
    for column in config["paper"]["sparsity"]["metrics"]:
        if column in columns and stated(columns[column], section.get(columns[column], {})).columns[column].whole:
            raise ConfigError(
                f"configuration: paper.sparsity.metrics: {column} is a score of all texts together and has no groups"
            )


def _check_own_metric(entry: Config, name: str, place: str) -> None:
    try:
        kind = metric_class(name, entry)
        kind.from_settings(entry)
    except ConfigError as error:
        raise ConfigError(f"configuration: {error}") from None
    read_settings(kind, {key: value for key, value in entry.items() if key not in CHOICE}, f"{place}.{name}")


def _check_overrides(config: Config, schema: Config, name: str) -> None:
    """Check what an experiment changes: sections that its method reads, and the method's own settings."""
    experiment, place = config["experiments"][name], f"configuration: experiments.{name}"
    if experiment["method"] not in config["methods"]:
        meant = hint(experiment["method"], config["methods"])
        raise ConfigError(f"{place}.method: {experiment['method']!r} is not in methods{meant}")
    kind = METHODS.chosen(config["methods"][experiment["method"]], f"configuration: methods.{experiment['method']}")
    own = {field.name for field in fields(kind.Settings)}
    known = schema["$defs"]["settings"]["properties"]
    parts = {"overrides": experiment["overrides"]}
    parts |= {f"per_dataset.{dataset}": over for dataset, over in experiment.get("per_dataset", {}).items()}
    for part, overrides in parts.items():
        for key in overrides.keys() - own:
            if key not in known:
                raise ConfigError(f"{place}.{part}.{key}: unknown key{hint(key, {*own, *EXPERIMENT_SECTIONS})}")
            if key not in EXPERIMENT_SECTIONS:
                named = "add an entry to recommenders, and name it in overrides.embeddings.of"
                shared = "set it in defaults or datasets.<name>.overrides instead"
                raise ConfigError(
                    f"{place}.{part}.{key}: shared by all experiments of a data set; "
                    f"{named if key == 'recommenders' else shared}"
                )
            if key not in (*kind.sections, "generation"):
                raise ConfigError(f"{place}.{part}.{key}: the method {experiment['method']!r} does not read it")
        sections = {key: value for key, value in overrides.items() if key not in own}
        whole = {"$defs": schema["$defs"], "$ref": "#/$defs/settings"}
        _refuse_first(problems(sections, whole, f"experiments.{name}.{part}"))


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
                f"configuration: run.experiments names {name!r}, which is not in {kind}{hint(name, config[kind])}"
            )
    chosen = settings(config, dataset, experiment)
    place = f"configuration: {dataset}/{experiment}"
    if abs(sum(chosen["split"]["ratios"]) - 1) > 1e-6:
        raise ConfigError(f"{place}: split.ratios must add up to 1, not {sum(chosen['split']['ratios']):g}")
    _check_llm(chosen["llm"], place)
    _check_embeddings(config, dataset, chosen["embeddings"], place)
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


def _check_recommenders(config: Config) -> None:
    """Check every recommender, by itself and where a data set overrides it."""
    if "recommenders" in config["defaults"]:
        raise ConfigError("configuration: defaults.recommenders: recommenders are a section of their own, at the top")
    for name in config["recommenders"]:
        RECOMMENDERS.settings(_like(config["recommenders"], name), f"configuration: recommenders.{name}")
    for dataset, entry in config["datasets"].items():
        place = f"configuration: datasets.{dataset}.overrides.recommenders"
        for name in entry["overrides"].get("recommenders", {}):
            if name not in config["recommenders"]:
                raise ConfigError(f"{place}.{name}: not in recommenders{hint(name, config['recommenders'])}")
            RECOMMENDERS.settings(recommender(config, dataset, name), f"{place}.{name}")


def _check_embeddings(config: Config, dataset: str, chosen: Config, place: str) -> None:
    name = chosen["of"]
    if name not in config["recommenders"]:
        raise ConfigError(
            f"{place}: embeddings.of names {name!r}, which is not in recommenders{hint(name, config['recommenders'])}"
        )
    kind = RECOMMENDERS.chosen(recommender(config, dataset, name), f"configuration: recommenders.{name}")
    if (
        chosen["as"] in READ_EMBEDDINGS
        and "release" in kind.needs
        and config["datasets"][dataset]["source"] != "release"
    ):
        raise ConfigError(f"{place}: embeddings.of: {name!r} reads a release, and {dataset} is none; take another one")


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
    """Return the settings of a data set, or of an experiment on it: defaults and recommenders, overlaid twice."""
    merged = merge(_shared(config), config["datasets"][dataset]["overrides"])
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


def _shared(config: Config) -> Config:
    return config["defaults"] | {"recommenders": config["recommenders"]}


def recommender(config: Config, dataset: str, name: str) -> Config:
    """Return a recommender's entry on a data set, with what it takes over from the one that it is like.

    Raises:
        ConfigError: There is no such entry, or a `like` leads nowhere or in a circle.
    """
    return _like(settings(config, dataset)["recommenders"], name)


def _like(entries: Config, name: str) -> Config:
    chain: list[str] = []
    while name is not None:
        if name not in entries:
            place = f"configuration: recommenders.{chain[-1]}.like" if chain else "configuration: recommenders"
            raise ConfigError(f"{place}: there is no {name!r}{hint(name, entries)}")
        if name in chain:
            raise ConfigError(f"configuration: recommenders.{name}.like: it is like itself, by way of {chain[-1]!r}")
        chain.append(name)
        name = entries[name].get("like")
    whole = [entries[one].items() for one in reversed(chain)]
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
            kind: list(dict.fromkeys(chain(*(_matches(path, name, kind) for path in listed(paths.get(kind, []))))))
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
            for like, setting in changed.get("recommenders", {}).items():
                variant = {"like": like} | setting
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


@lru_cache
def load_schema(path: str) -> Config:
    """Read the JSON schema of the configuration."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def _refuse_first(found: Iterator[str]) -> None:
    for problem in found:
        raise ConfigError(f"configuration: {problem}")
