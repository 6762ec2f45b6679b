"""Sections of a run, its machines and its data sets."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from xrec_repro.sections.settings import Overrides
from xrec_repro.setting_types import (
    PART,
    UNIQUE,
    Entry,
    Files,
    Name,
    Pair,
    Positive,
    Section,
    Seed,
    Text,
    key,
)

Source = Literal["glassbox", "amazon", "amazon2023", "yelp", "google", "table", "release"]
Domain = Literal["book", "business"]


class Run(Section):
    """What is run, and where its results go."""

    name: Name = key("results go to {results}/{name}/", "demo")
    results: Text = key("folder of all runs", "results")
    seeds: Annotated[list[Seed], Field(min_length=1, json_schema_extra=UNIQUE)] = key(
        "training, tuning and generation are done once a seed", [1, 2, 3]
    )
    experiments: Annotated[list[Pair], Field(min_length=1, json_schema_extra=UNIQUE)] = key(
        "data set/experiment pairs; an overlay's {add: [pairs]} extends the list",
        [
            "glassbox/xrec",
            "glassbox/no_profile",
            "glassbox/no_injection",
            "glassbox/no_profile_no_injection",
            "glassbox/no_embeddings",
            "glassbox/fixed_moe",
        ],
    )


class Compute(Section):
    """On what models run; part of the configuration since sums depend on it."""

    device: Literal["auto", "cpu", "cuda"] = key("auto (a GPU, if there is one) | cpu | cuda", "auto")
    threads: Positive = key(
        "CPU threads of each training job, two of which then run side by side on two cores; part of the configuration "
        "because it can change the last bits",
        1,
    )


class Scatter(Section):
    """Into how many jobs (shards) a stage of one experiment is cut, for a cluster; changes no bit of its results."""

    generation: Positive = key("jobs that explain; 1 adds none", 1)
    judging: Positive = key("jobs of llamascore and of gptscore; no other metric takes long enough", 1)


class Paths(Entry):
    """Raw files of a data set; which of them it needs, its source says."""

    reviews: Files = key("a file, a pattern (data/*.csv) or a list of them", None)
    items: Files = key("likewise; a table's items may stand in its reviews", None)
    folder: str = key("of a release", None)


class Columns(Section):
    """What the columns of a table are called; those from time on need not be there (null)."""

    user: Text = key("its id", "user")
    item: Text = key("its id", "item")
    rating: Text = key("of the review, a number", "rating")
    text: Text = key("of the review", "text")
    time: Text | None = key("of the review", "time")
    title: Text | None = key("of the item", "title")
    description: Text | None = key("of the item", "description")
    categories: Text | None = key("of the item", "categories")
    city: Text | None = key("of the item", "city")


class OwnColumns(Columns):
    """Those that differ."""

    model_config = PART


class DatasetDefaults(Section):
    """What an entry of `datasets` may leave out: all but source and domain (and its label is its name)."""

    published_as: str | None = key(
        "name in resources/published/*.csv, to print published rows beside measured ones", None
    )
    paths: Paths = key(
        "raw files: {reviews: …, items: …}, each a file, a pattern (data/*.csv) or a list of them; a table's items may "
        "stand in its reviews; a release: {folder: …}; glassbox: nothing",
        {},
    )
    columns: Columns
    download: str | None = key(
        "a release's name in resources/manifest.tsv: its files are then taken from `paths.folder`, where they lie "
        "there and have the right hash, or from the net; null: the folder as it is",
        None,
    )
    overrides: Overrides = key("settings below that differ for this data set", {})


class Dataset(DatasetDefaults):
    """A data set."""

    model_config = ConfigDict(json_schema_extra={})

    label: Text = key("in tables and figures; its name, if left out", None)
    source: Source = key("where it comes from")
    domain: Domain = key("the nouns and the system message of the prompts")
    columns: OwnColumns = key("of a table, those that differ", {})
