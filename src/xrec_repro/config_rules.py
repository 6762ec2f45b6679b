"""What a configuration must fulfil beyond the types of its keys: what is wrong first is named with its place."""

import re
from collections.abc import Iterator
from dataclasses import fields

from xrec_repro.checks import hint, impossible, problems
from xrec_repro.config import (
    EXPERIMENT_SECTIONS,
    READ,
    READ_EMBEDDINGS,
    Config,
    complete,
    expand_sweeps,
    experiment_pairs,
    like,
    recommender,
    settings,
)
from xrec_repro.errors import ConfigError
from xrec_repro.methods import METHODS
from xrec_repro.metrics import METRICS
from xrec_repro.metrics.registry import metric_class, stated
from xrec_repro.plugins import CHOICE, read_settings
from xrec_repro.recommenders import RECOMMENDERS
from xrec_repro.sections import configuration_schema, overrides_schema

_NEEDED = READ | {"glassbox": (), "release": ("folder",)}  # files that each source needs
# What a rule of each kind has beside what all have; the schema knows the keys of both, and which all have.
_OF_KIND = {"better": {"system", "against", "aspects"}, "unique": {"systems", "at_least"}}
_LISTS = (("tables", "table1"), ("tables", "table2"), ("figure3", "experiments"), ("embeddings", "experiments"))


def check_config(config: Config) -> None:
    """Check the whole configuration, then every data set and experiment after merging, those of sweeps included.

    Args:
        config: The merged configuration, `complete`.

    Raises:
        ConfigError: Names the first offending key and what to do.
    """
    _refuse_first(impossible(config))
    schema = configuration_schema()
    _refuse_first(problems(config, schema))
    if "recommenders" in config["defaults"]:
        raise ConfigError("configuration: defaults.recommenders: recommenders are a section of their own, at the top")
    config = complete(config)
    if config["sweeps"]:
        config = expand_sweeps(config)
        _refuse_first(problems(config, schema))  # a sweep's values are known to be settings only now
    for name, experiment in config["experiments"].items():
        for dataset in experiment.get("per_dataset", {}):
            if dataset not in config["datasets"]:
                place = f"configuration: experiments.{name}.per_dataset.{dataset}"
                raise ConfigError(f"{place}: not in datasets{hint(dataset, config['datasets'])}")
        _check_overrides(config, name)
    for name, entry in config["methods"].items():
        METHODS.settings(entry, f"configuration: methods.{name}")
    _check_recommenders(config)
    for dataset, experiment in experiment_pairs(config):
        _check_pair(config, dataset, experiment)
    _check_metrics(config)
    for place, name in _named_experiments(config):
        if name not in (known := config["experiments"]):
            raise ConfigError(f"configuration: {place} names {name!r}, which is not in experiments{hint(name, known)}")
    _check_lists(config)
    _check_claims(config["claims"])
    if (ranks := config["paper"]["questions"]["ranks"]) != sorted(ranks):
        raise ConfigError(f"configuration: paper.questions.ranks: {ranks} do not rise; sort them")


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
    for key, column in _named_columns(config):
        if column not in columns:
            raise ConfigError(f"configuration: {key} names {column!r}, which no metric gives{hint(column, columns)}")
    for column in config["paper"]["sparsity"]["metrics"]:
        if stated(columns[column], section.get(columns[column], {})).columns[column].whole:
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


def _check_overrides(config: Config, name: str) -> None:
    """Check what an experiment changes: sections that its method reads, and the method's own settings."""
    experiment, place = config["experiments"][name], f"configuration: experiments.{name}"
    if experiment["method"] not in config["methods"]:
        meant = hint(experiment["method"], config["methods"])
        raise ConfigError(f"{place}.method: {experiment['method']!r} is not in methods{meant}")
    kind = METHODS.chosen(config["methods"][experiment["method"]], f"configuration: methods.{experiment['method']}")
    own = {field.name for field in fields(kind.Settings)}
    known = overrides_schema()
    parts = {"overrides": experiment["overrides"]}
    parts |= {f"per_dataset.{dataset}": over for dataset, over in experiment.get("per_dataset", {}).items()}
    for part, overrides in parts.items():
        for key in overrides.keys() - own:
            if key not in known["properties"]:
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
        _refuse_first(problems(sections, known, f"experiments.{name}.{part}"))


def _named_experiments(config: Config) -> Iterator[tuple[str, str]]:
    """Yield where the paper stage's sections name an experiment, and the name."""
    yield "statistics.reference", config["statistics"]["reference"]
    for system, entry in config["claims"]["systems"].items():
        if entry["experiment"] is not None:
            yield f"claims.systems.{system}.experiment", entry["experiment"]
    paper = config["paper"]
    lists = {f"{section}.{key}": paper[section][key] for section, key in _LISTS}
    lists |= {f"examples.sections.{one['title']}": one["experiments"] for one in paper["examples"]["sections"]}
    for section, names in lists.items():
        yield from ((f"paper.{section}", name) for name in names or ())


def _named_columns(config: Config) -> Iterator[tuple[str, str]]:
    """Yield where sections name a score, and the name."""
    paper, rules = config["paper"], config["claims"]["rules"]
    lists = {f"claims.rules.{key}.metrics": rule["metrics"] for key, rule in rules.items()}
    lists |= {f"paper.{section}.metrics": paper[section]["metrics"] for section in ("sparsity", "questions")}
    lists["paper.figure2.metrics"] = [column for pair in paper["figure2"]["metrics"] for column in pair]
    for key, columns in lists.items():
        yield from ((key, column) for column in columns)


def _check_claims(claims: Config) -> None:
    """Check that a rule has what its kind has, and that its systems are known."""
    known = set().union(*_OF_KIND.values())
    for key, rule in claims["rules"].items():
        place, wanted = f"configuration: claims.rules.{key}", _OF_KIND[rule["kind"]]
        if odd := sorted(wanted ^ known.intersection(rule)):
            state = "missing" if odd[0] in wanted else "not of this kind"
            needs = ", ".join(sorted(wanted))
            raise ConfigError(f"{place}.{odd[0]}: {state}; a rule of kind {rule['kind']} has {needs}")
        for name in filter(None, (rule.get("system"), *rule.get("against", ()), *rule.get("systems", ()))):
            if name not in claims["systems"]:
                raise ConfigError(f"{place}: {name!r} is not in claims.systems{hint(name, claims['systems'])}")


def _check_lists(config: Config) -> None:
    """Refuse a table or figure of experiments that do not run; of a list that is the default, those that do are taken.

    A section of examples says in its place which of its experiments are not there.
    """
    ran = [experiment for _, experiment in experiment_pairs(config)]
    declared = configuration_schema()["properties"]["paper"]["properties"]
    for section, key in _LISTS:
        names = config["paper"][section][key] or []
        missing = [name for name in names if name not in ran]
        if missing and names != declared[section]["properties"][key]["default"]:
            remedy = "add it there, or take it off the list; null shows all"
            raise ConfigError(
                f"configuration: paper.{section}.{key} names {missing[0]!r}, which is not in run.experiments"
                f"{hint(missing[0], ran)}; {remedy}"
            )


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
    _check_llm(chosen["llm"], chosen["prompt"]["template"], place)
    _check_embeddings(config, dataset, chosen["embeddings"], place)
    if chosen["embeddings"]["as"] == "swapped":
        _check_swapped(config, dataset, experiment, place)
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
    for name in config["recommenders"]:
        RECOMMENDERS.settings(like(config["recommenders"], name), f"configuration: recommenders.{name}")
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


def _check_swapped(config: Config, dataset: str, experiment: str, place: str) -> None:
    chosen = settings(config, dataset, experiment)
    base = chosen["embeddings"]["tuned_by"]
    if base is None or f"{dataset}/{base}" not in config["run"]["experiments"]:
        raise ConfigError(
            f"{place}: embeddings.tuned_by: {base!r} does not run on {dataset}; name an experiment of run.experiments"
        )
    entries, other = config["experiments"], settings(config, dataset, base)
    if other["embeddings"]["as"] != "trained" or entries[base]["method"] != entries[experiment]["method"]:
        raise ConfigError(
            f"{place}: embeddings.tuned_by: {base!r} is of another method or not tuned with embeddings as trained"
        )
    parts = {"embeddings.of": [one["embeddings"]["of"] for one in (chosen, other)]}
    parts |= {name: [one[name] for one in (chosen, other)] for name in ("prompt", "adapter", "injection", "generation")}
    for name, (own, theirs) in parts.items():
        if own != theirs:
            raise ConfigError(f"{place}: {name} is not as in {base}, whose adapters write; give both the same")


def _check_llm(llm: Config, template: str, place: str) -> None:
    needed = {"hub": ("repo", "revision"), "local": ("path",), "package": ("package",), "scratch": ()}[llm["source"]]
    for key in needed:
        if not llm[key]:
            raise ConfigError(f"{place}: llm.{key} must be set when llm.source is {llm['source']!r}")
    if llm["source"] == "hub" and not re.fullmatch("[0-9a-f]{40}", llm["revision"]):
        raise ConfigError(
            f"{place}: llm.revision: {llm['revision']!r} does not pin {llm['repo']!r}; give the 40-digit commit"
        )
    if llm["source"] == "scratch" and template == "chat":
        raise ConfigError(f"{place}: prompt.template: no scratch model knows a chat template; use fixed, or code")
    if llm["source"] == "scratch" and "fixed" not in llm["scratch"]["templates"]:
        raise ConfigError(
            f"{place}: llm.scratch.templates: add 'fixed'; to a model that has read `code` alone every text ends with "
            "[/INST], behind which both templates ask for an explanation"
        )


def _refuse_first(found: Iterator[str]) -> None:
    for problem in found:
        raise ConfigError(f"configuration: {problem}")
