"""Shared by all others in this folder, the checked configuration, paths, and each stage's own settings."""

import os
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from xrec_repro.config import check_config, experiment_pairs, load_schema, settings
from xrec_repro.errors import ConfigError
from xrec_repro.provenance import code_digest

WORKFLOW = Path(workflow.basedir)
ENVIRONMENT = str(WORKFLOW / "envs/xrec-repro.yaml")
# With --sdm conda a job runs in an environment that holds the pins but not this package.
os.environ.setdefault("PYTHONPATH", str(WORKFLOW / "src"))

try:
    check_config(config, load_schema(str(WORKFLOW / "workflow/schemas/config.schema.yaml")))
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RUN = f"{config['run']['results']}/{config['run']['name']}"
SHARED = f"{RUN}/{{dataset}}/shared"
EXPERIMENT = f"{RUN}/{{dataset}}/{{experiment}}/seed{{seed}}"
PAPER = f"{RUN}/paper"
PAIRS = experiment_pairs(config)
DATASETS = list(dict.fromkeys(dataset for dataset, _ in PAIRS))
SEEDS = config["run"]["seeds"]


wildcard_constraints:
    dataset="|".join(re.escape(name) for name in DATASETS),
    experiment="|".join(dict.fromkeys(re.escape(name) for _, name in PAIRS)),
    seed=r"\d+",


def pick(*sections):
    """Return a params function: the named sections of the settings, for the wildcards at hand.

    A rule that names just its own sections reruns just when one of them changes.
    """

    def chosen(wildcards):
        merged = settings(config, wildcards.dataset, wildcards.get("experiment"))
        return {name: merged[name] for name in sections}

    return chosen


def digest(stem):
    """Return the digest of a script and of all library modules behind it."""
    return code_digest(str(WORKFLOW / f"workflow/scripts/{stem}.py"))


def dataset_key(key):
    """Return a params function: one key of the data set's entry."""
    return lambda wildcards: config["datasets"][wildcards.dataset][key]


def sourced(*sources):
    """Return a wildcard constraint: the run's data sets that come from one of these sources."""
    names = [name for name in DATASETS if config["datasets"][name]["source"] in sources]
    return "|".join(map(re.escape, names)) or "no-such-dataset"


def when(condition, **files):
    """Return the files if the condition holds for the wildcards, else none: optional inputs by name."""
    return files if condition else {}


def scaled(amount):
    """Return a resource function: the amount times the attempt."""
    return lambda wildcards, attempt: amount * attempt


def raw_file(kind):
    """Return an input function: the raw file of a data set, made by the glassbox or given by the user."""

    def path(wildcards):
        entry = config["datasets"][wildcards.dataset]
        if entry["source"] == "glassbox":
            name = {"reviews": "reviews.jsonl.gz", "items": "metadata.jsonl.gz"}[kind]
            return f"{SHARED}/world/{name}".format(dataset=wildcards.dataset)
        return entry["paths"][kind]

    return path


def release_folder(wildcards):
    """Return the release's folder: the configured one, or the download's where that is absent."""
    entry = config["datasets"][wildcards.dataset]
    folder = Path(entry["paths"]["folder"])
    if folder.is_dir() or not entry["download"]:
        return str(folder)
    return f"{config['run']['results']}/downloads/{entry['download']}"


def split_inputs(wildcards):
    """Return the files of a release that the split may need."""
    chosen = settings(config, wildcards.dataset)["split"]
    release = config["datasets"][wildcards.dataset]["source"] == "release"
    raw = f"{SHARED}/raw".format(dataset=wildcards.dataset)
    return when(release, texts=f"{raw}/texts.parquet") | when(
        release and chosen["graph"] == "released", edges=f"{raw}/edges.parquet"
    )


def written_texts(wildcards, key):
    """Return the file of published texts where a stage is set to use it."""
    if settings(config, wildcards.dataset)["profiles"][key] != "published":
        return {}
    folder = "world" if config["datasets"][wildcards.dataset]["source"] == "glassbox" else "raw"
    return {"published": f"{SHARED}/{folder}/texts.parquet".format(dataset=wildcards.dataset)}


def writer_settings(key):
    """Return a params function: the settings of profiles or references, less what their backend does not read."""

    def chosen(wildcards):
        full = settings(config, wildcards.dataset)["profiles"]
        unread = {"backend", "references"} - {key} | ({"chat"} if full[key] != "chat" else set())
        return {"profiles": {name: value for name, value in full.items() if name not in unread}}

    return chosen


def example_inputs(wildcards, profiles):
    """Return the files that make examples; profiles only where the experiment uses them."""
    shared = SHARED.format(dataset=wildcards.dataset)
    return {
        "texts": f"{shared}/split/texts.parquet",
        "references": f"{shared}/references/references.parquet",
    } | when(
        profiles,
        user_profiles=f"{shared}/profiles/users.parquet",
        item_profiles=f"{shared}/profiles/items.parquet",
    )


def llm_inputs(wildcards):
    """Return the folder of the language model where the workflow pretrains it."""
    scratch = settings(config, wildcards.dataset)["llm"]["source"] == "scratch"
    return when(scratch, llm=f"{SHARED}/llm/model".format(dataset=wildcards.dataset))


def explainer_inputs(wildcards):
    """Return all files that tuning and generation read in common."""
    chosen = settings(config, wildcards.dataset, wildcards.experiment)
    embeddings = f"{SHARED}/lightgcn/seed{wildcards.seed}/embeddings.safetensors".format(dataset=wildcards.dataset)
    return example_inputs(wildcards, chosen["prompt"]["profiles"]) | llm_inputs(wildcards) | {"embeddings": embeddings}


def measured_rows():
    """List the rows that this run measures, as the tables name them."""
    return [
        {
            "dataset": dataset,
            "dataset_label": config["datasets"][dataset]["label"],
            "published_as": config["datasets"][dataset]["published_as"],
            "experiment": experiment,
            "experiment_label": config["experiments"][experiment]["label"],
            "seed": seed,
            "kind": "demo" if settings(config, dataset, experiment)["llm"]["source"] == "scratch" else "measured",
        }
        for dataset, experiment in PAIRS
        for seed in SEEDS
    ]
