"""Every key of the configuration, once: its type, default, bounds and meaning.

config/config.yaml, its checks and docs/configuration.md follow (tests/unit/test_sections.py, docs/settings.py). The
settings of a recommender or a method are its own class's (`xrec_repro.plugins`).
"""

from functools import lru_cache
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from xrec_repro.sections.data import Compute, Dataset, DatasetDefaults, Run, Scatter
from xrec_repro.sections.metrics import Metrics, Scorers
from xrec_repro.sections.paper import Claims, Emissions, Paper, Statistics
from xrec_repro.sections.settings import Recommender, Settings
from xrec_repro.setting_types import UNIQUE, Entry, Name, Pair, Section, Text, key, schema_of


class Method(Entry):
    """What explains; its other keys are the settings of its kind (docs/add-a-method.md)."""

    model_config = ConfigDict(extra="allow")

    kind: str = key("of this package (e.g. xrec), or an entry point of xrec_repro.methods", None)
    module: str = key("of your own, instead of a kind", None)


class Experiment(Entry):
    """A method and what it overrides."""

    label: Text = key("in tables and figures; its name, if left out", None)
    method: str = key("a key of methods", "xrec")
    published_model: Text | None = key("its name in the published tables", None)
    overrides: dict[str, Any] = key("of the method's own settings and of the sections that it reads", {})
    per_dataset: dict[Name, dict[str, Any]] = key("further overrides, by data set", None)


class Sweep(Entry):
    """Experiments that differ from a base in one setting."""

    base: Pair = key("data set/experiment")
    values: Annotated[list[float | str | bool], Field(min_length=1, json_schema_extra=UNIQUE)] = key(
        "one experiment each; a value that the base has already is the base itself"
    )
    key: Text = key("the setting, e.g. adapter.experts")


def entries(kind: Any) -> Any:
    """Return the type of entries by name, of which there is one at least."""
    return Annotated[dict[Name, kind], Field(min_length=1)]


class Configuration(Section):
    """The configuration."""

    run: Run
    compute: Compute
    scatter: Scatter
    dataset_defaults: DatasetDefaults
    datasets: entries(Dataset) = key("where data sets come from, and their overrides")
    recommenders: entries(Recommender) = key("whose embeddings an experiment reads (its embeddings.of)")
    methods: entries(Method) = key("what explains")
    experiments: entries(Experiment) = key("methods and their overrides")
    sweeps: dict[Name, Sweep] = key("further experiments that differ from a base in one setting", {})
    defaults: Settings
    metrics: Metrics
    scorers: Scorers
    statistics: Statistics
    claims: Claims
    emissions: Emissions
    paper: Paper


@lru_cache
def configuration_schema() -> dict[str, Any]:
    """Return the JSON schema of the whole configuration."""
    schema = schema_of(Configuration)
    # They stand beside the defaults: whoever looks for them there is told so by `config_rules.check_config`.
    schema["properties"]["defaults"]["properties"]["recommenders"] = {}
    return schema


def overrides_schema() -> dict[str, Any]:
    """Return the JSON schema of what a data set may override."""
    return configuration_schema()["properties"]["datasets"]["additionalProperties"]["properties"]["overrides"]
