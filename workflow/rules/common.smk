"""Shared by all others in this folder, the checked configuration, paths, and each stage's own settings."""

import os
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from xrec_repro.config import (
    READ,
    check_config,
    complete,
    expand_sweeps,
    experiment_pairs,
    gpus_of_a_job,
    load_config,
    load_schema,
    merge,
    raw_files,
    settings,
    sweep_members,
)
from xrec_repro.config_files import added_experiments, check_files
from xrec_repro.errors import ConfigError
from xrec_repro.identity import Told, code_digest, libraries_of, neutral, places_digest, significant
from xrec_repro.shards import JUDGES, SCRATCH_SCORERS, shard_names

WORKFLOW = Path(workflow.basedir)
ENVIRONMENT = str(WORKFLOW / "envs/xrec-repro.yaml")
# With --sdm conda a job runs in an environment that holds the pins but not this package; a module system may have set
# the variable for its own packages.
SEARCHED = [str(WORKFLOW / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
os.environ.update(PYTHONPATH=os.pathsep.join(dict.fromkeys(SEARCHED)))
# Slurm signals all processes of a job. A bash that waits for the script must outlive it: when it ends, so does the job,
# before the script has saved its state. (From version 5.1 on bash leaves its place to the script by itself.)
shell.prefix("set -euo pipefail; trap : TERM; ")

try:
    check_files(workflow.configfiles)
    base = WORKFLOW / "config/config.yaml"
    overlays = [path for path in workflow.configfiles if not base.samefile(path)]
    config.update(complete(added_experiments([base, *overlays], config)))
    check_config(config, load_schema(str(WORKFLOW / "workflow/schemas/config.schema.yaml")))
    # Keys in the order of the base file: Snakemake puts those of an overlay first, and params compare what is written.
    config.update(merge(load_config(base), config))
    LISTED = experiment_pairs(config)  # what tables and figures show unless they name more: sweeps add to the run
    config.update(expand_sweeps(config))
    RAW_FILES = raw_files(config)  # as they are when the configuration is read, for all jobs
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RUN = f"{config['run']['results']}/{config['run']['name']}"
SHARED = f"{RUN}/{{dataset}}/shared"
EXPERIMENT = f"{RUN}/{{dataset}}/{{experiment}}/seed{{seed}}"
PAPER = f"{RUN}/paper"
PAIRS = experiment_pairs(config)
DATASETS = list(dict.fromkeys(dataset for dataset, _ in PAIRS))
SEEDS = config["run"]["seeds"]
# Relative, as all paths in params and inputs are, so that a copy of the folder elsewhere is the same run.
RESOURCES = os.path.relpath(WORKFLOW / "resources")
SHOWN = ("csv", "md", "png", "html")  # endings that the HTML report shows
TABLE_OPTIONS = {name: config["paper"]["tables"][name] for name in ("columns", "published", "show_difference")}
NEEDS_TRUTH = ("faithfulness",)
# GPUs of a job that runs a model on one: with --resources gpu=1 such jobs take turns, with gpu=2 two run at a time, each
# on a GPU that it reserves (`xrec_repro.device`). A cluster's profile says its own.
GPUS = gpus_of_a_job(config["compute"])
# `compute` is a parameter, and its change a reason to run again, of the rules that run a torch model and of no others:
# device and threads decide in which order a model's sums are added, and so their last bits. What is trained on the CPU
# whatever the device has the threads alone.
THREADS = {"threads": config["compute"]["threads"]}
BUNDLED = ("minilm",)  # names of models that a package carries
# What tables, figures and reports read of the folder resources.
TABLE1, TABLE2 = (
    ["published/study_table1.csv", "published/xrec_table1.csv"],
    ["published/study_table2.csv"],
)
TABLE3 = ["published/study_table3.csv", "published/statements.csv", "hardware.tsv"]
AUDITED = [f"published/{path.name}" for path in sorted(Path(RESOURCES, "published").glob("*.csv"))] + ["hardware.tsv"]


wildcard_constraints:
    dataset="|".join(re.escape(name) for name in DATASETS),
    experiment="|".join(dict.fromkeys(re.escape(name) for _, name in PAIRS)),
    seed=r"\d+",
    shard=r"\d+-of-\d+",


def pick(*sections):
    """Return a params function: the named sections of the settings, for the wildcards at hand.

    A rule that names just its own sections reruns just when one of them changes.
    """

    def chosen(wildcards):
        merged = settings(config, wildcards.dataset, wildcards.get("experiment"))
        return {name: merged[name] for name in sections}

    return chosen


def split_params(chosen):
    """Return the params `settings` and `neutral` of a rule; an edit of the second reruns nothing.

    Args:
        chosen: A params function that returns settings by section, or such settings.
    """
    if not callable(chosen):
        return {"settings": significant(chosen), "neutral": Told(neutral(chosen))}
    return {
        "settings": lambda wildcards: significant(chosen(wildcards)),
        "neutral": lambda wildcards: Told(neutral(chosen(wildcards))),
    }


def digest(stem, *modules):
    """Return the digest of a script, of modules that it imports by name, and of all library modules behind them."""
    paths = [f"workflow/scripts/{stem}.py", *(f"src/xrec_repro/{module}.py" for module in modules)]
    return code_digest(*(str(WORKFLOW / path) for path in paths))


def resource_inputs(*names):
    """Return files of the folder resources as inputs; `resource_digests` tells when they change, not their times."""
    return [ancient(f"{RESOURCES}/{name}") for name in names]


def resource_digests(*names):
    """Return the digests of files of the folder resources, for params."""
    return places_digest({name: f"{RESOURCES}/{name}" for name in names})


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
    """Return a resource function: the amount, or what a function of the wildcards says, times the attempt."""
    return lambda wildcards, attempt: (amount(wildcards) if callable(amount) else amount) * attempt


def by_llm(own, other):
    """Return an amount for `scaled`: with the small language model that the workflow trains itself, and with others."""
    return lambda wildcards: own if settings(config, wildcards.dataset)["llm"]["source"] == "scratch" else other


def by_writer(key):
    """Return the memory of profiles or references for `scaled`, in MB: a chat model of this machine is large."""
    return lambda wildcards: 32000 if writes_by_model(wildcards, key) else 4000


def metric_memory(metric):
    """Return the memory of a metric's job in MB: without a model, with a small one of ours, with a large one."""
    if not runs_model(metric):
        return 1000
    small = config["metrics"][metric]["model"] in ("scratch", *BUNDLED)
    return 4000 if small else 32000 if metric in JUDGES else 16000


def raw_file(kind):
    """Return an input function: the raw files of a data set, made by the glassbox or given by the user."""

    def paths(wildcards):
        if config["datasets"][wildcards.dataset]["source"] == "glassbox":
            name = {"reviews": "reviews.jsonl.gz", "items": "metadata.jsonl.gz"}[kind]
            return f"{SHARED}/world/{name}".format(dataset=wildcards.dataset)
        return RAW_FILES[wildcards.dataset][kind]

    return paths


def release_folder(wildcards):
    """Return the folder of a release: fetched and checked where it has a name in the manifest, else the user's own."""
    entry = config["datasets"][wildcards.dataset]
    if entry["download"]:
        return {"folder": f"{config['run']['results']}/downloads/{entry['download']}"}
    return own_files(release_places(wildcards))


def release_places(wildcards):
    """Return the folder of a release of the user's own: a file in it may change where the folder's time does not."""
    entry = config["datasets"][wildcards.dataset]
    return when(not entry["download"], folder=entry["paths"].get("folder"))


def release_copies(wildcards):
    """List the folders in which the files of a download may lie already."""
    entries = [config["datasets"][name] for name in DATASETS]
    found = [entry["paths"].get("folder") for entry in entries if entry["download"] == wildcards.download]
    return list(filter(None, found))


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


def writes_by_model(wildcards, key):
    """Tell whether the texts are written by a chat model of this machine: not by rules, nor by a server."""
    chosen = settings(config, wildcards.dataset)["profiles"]
    return chosen[key] == "chat" and chosen["chat"]["base_url"] is None


def chat_places(wildcards, key):
    """Return the folder of a chat model that runs here, if one writes the texts and no hub revision pins it."""
    chat = settings(config, wildcards.dataset)["profiles"]["chat"]
    return when(writes_by_model(wildcards, key) and chat["revision"] is None, chat_model=chat["model"])


def writer_inputs(key):
    """Return an input function: published texts, or the folder of a chat model."""
    return lambda wildcards: written_texts(wildcards, key) | own_files(chat_places(wildcards, key))


def own_files(places):
    """Return the user's own files and models as inputs; digests in params tell when they change, not their times."""
    return {name: ancient(str(Path(place).expanduser())) for name, place in places.items()}


def own_digests(places):
    """Return a params function: the digests of the user's own files and models."""
    return lambda wildcards: places_digest({n: Path(p).expanduser() for n, p in places(wildcards).items()})


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


def llm_places(wildcards):
    """Return the folder of a language model of the user's own."""
    llm = settings(config, wildcards.dataset)["llm"]
    return when(llm["source"] == "local", llm=llm["path"])


def llm_inputs(wildcards):
    """Return the folder of the language model: the one that the workflow pretrains, or the user's own."""
    scratch = settings(config, wildcards.dataset)["llm"]["source"] == "scratch"
    return when(scratch, llm=f"{SHARED}/llm/model".format(dataset=wildcards.dataset)) | own_files(llm_places(wildcards))


def explainer_inputs(wildcards):
    """Return all files that tuning and generation read in common."""
    chosen = settings(config, wildcards.dataset, wildcards.experiment)
    return (
        example_inputs(wildcards, chosen["prompt"]["profiles"])
        | llm_inputs(wildcards)
        | when(chosen["embeddings"] in ("lightgcn", "shuffled"), embeddings=embeddings_file(**wildcards))
    )


def embeddings_file(dataset, experiment, seed, **_):
    """Return the recommender's embeddings: the data set's, or an experiment's own where it overrides the recommender."""
    if settings(config, dataset, experiment)["recommender"] == settings(config, dataset)["recommender"]:
        return f"{SHARED.format(dataset=dataset)}/lightgcn/seed{seed}/embeddings.safetensors"
    own = EXPERIMENT.format(dataset=dataset, experiment=experiment, seed=seed)
    return f"{own}/lightgcn/embeddings.safetensors"


def adapter_inputs(wildcards):
    """Return the tuned adapter; an experiment without embeddings has none, and nothing is tuned for it."""
    chosen = settings(config, wildcards.dataset, wildcards.experiment)
    folder = f"{EXPERIMENT}/adapter".format(**wildcards)
    return when(
        chosen["embeddings"] != "none", weights=f"{folder}/adapter.safetensors", config=f"{folder}/adapter.json"
    )


def explainer_settings(*sections):
    """Return a params function: sections, and what an explainer needs of the data set and the recommender."""

    def chosen(wildcards):
        merged = settings(config, wildcards.dataset, wildcards.experiment)
        return {name: merged[name] for name in sections} | {
            "domain": config["datasets"][wildcards.dataset]["domain"],
            "embedding_width": merged["recommender"]["dim"],
        }

    return chosen


def runs_model(metric):
    """Tell whether a metric runs a model in its own job."""
    return "model" in config["metrics"][metric] and metric != "gptscore"


def metric_places(metric):
    """Return the user's own files that a metric reads: a model's folder, a state dict."""
    chosen = config["metrics"][metric]
    named = runs_model(metric) and chosen["model"] not in ("scratch", *BUNDLED) and chosen["revision"] is None
    return when(named, model=chosen.get("model")) | when(chosen.get("weights"), weights=chosen.get("weights"))


def metric_inputs(metric):
    """Return an input function: the explanations, and what the metric reads beside them."""

    def files(wildcards):
        shared = SHARED.format(dataset=wildcards.dataset)
        return (
            {"explanations": f"{EXPERIMENT}/generation/explanations.parquet".format(**wildcards)}
            | when(metric in NEEDS_TRUTH, truth=f"{shared}/world/truth.parquet")
            | when(
                config["metrics"][metric].get("model") == "scratch",
                model=f"{RUN}/scorers/{SCRATCH_SCORERS.get(metric)}/model",
            )
            | own_files(metric_places(metric))
        )

    return files


def metric_params(metric):
    """Return what decides a metric's scores: settings, code, its own files, and the libraries that its signature names."""
    return {
        **split_params({"metrics": {metric: config["metrics"][metric]}}),
        "metric": metric,
        "models": own_digests(lambda wildcards: metric_places(metric)),
        "libraries": libraries_of(WORKFLOW / f"src/xrec_repro/metrics/{metric}.py"),
    }


def failure_params(folder):
    """Return where a metric's failures are counted, and their number: one more makes the rule due again."""
    record = f"{folder}/failures.txt"

    def count(wildcards):
        path = Path(record.format(**wildcards))
        return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0

    return {"failures": record, "failed_before": count}


def shards_of(stage, metric=None):
    """Return the names of a stage's shards, none where one job does it all; of the metrics, judges alone have some."""
    count = 1 if stage == "judging" and metric not in JUDGES else config["scatter"][stage]
    return shard_names(count) if count > 1 else []


def metrics_of(dataset):
    """List the metrics that a data set can be scored by: true reasons are known of a glassbox alone."""
    known = config["datasets"][dataset]["source"] == "glassbox"
    return [metric for metric in config["metrics"]["use"] if known or metric not in NEEDS_TRUTH]


def all_scores(wildcards):
    """Return the files of all metrics of an experiment."""
    folder = f"{EXPERIMENT}/metrics".format(**wildcards)
    names = metrics_of(wildcards.dataset)
    return {
        "scores": [f"{folder}/{name}/scores.parquet" for name in names],
        "summaries": [f"{folder}/{name}/summary.json" for name in names],
    }


def paper_rows(experiments):
    """List the rows of a table or figure: these experiments of the run, or all (also where it has none of them).

    All are those that the run lists; of what a sweep adds, only what is named.
    """
    named = [pair for pair in PAIRS if experiments and pair[1] in experiments]
    return [paper_row(dataset, experiment, seed) for dataset, experiment in named or LISTED for seed in SEEDS]


def paper_row(dataset, experiment, seed):
    """Describe one experiment and seed, as the paper stage names it."""
    chosen = settings(config, dataset, experiment)
    return {
        "dataset": dataset,
        "dataset_label": config["datasets"][dataset]["label"],
        "published_as": config["datasets"][dataset]["published_as"],
        "experiment": experiment,
        "experiment_label": config["experiments"][experiment]["label"],
        "published_model": config["experiments"][experiment]["published_model"],
        "seed": seed,
        "kind": "demo" if chosen["llm"]["source"] == "scratch" else "measured",
        "few": chosen["generation"]["subset"] < 1,
    }


def paper_file(kind, row):
    """Return the file of a kind for a row, or None where the row has none."""
    chosen = settings(config, row["dataset"], row["experiment"])
    shared, own = SHARED.format(**row), EXPERIMENT.format(**row)
    present = {
        "train": chosen["embeddings"] != "none",
        "training": chosen["embeddings"] != "none",
        "weights": chosen["embeddings"] != "none",
        "embeddings": chosen["embeddings"] in ("lightgcn", "shuffled"),
        "truth": config["datasets"][row["dataset"]]["source"] == "glassbox",
        "user_profiles": chosen["prompt"]["profiles"],
        "item_profiles": chosen["prompt"]["profiles"],
    }
    paths = {
        "train": f"{own}/adapter/provenance.json",
        "training": f"{own}/adapter/training.parquet",
        "weights": f"{own}/adapter/adapter.safetensors",
        "embeddings": embeddings_file(**row),
        "generate": f"{own}/generation/provenance.json",
        "explanations": f"{own}/generation/explanations.parquet",
        "scores": f"{own}/metrics/scores.parquet",
        "summary": f"{own}/metrics/summary.json",
        "graph": f"{shared}/split/graph.parquet",
        "texts": f"{shared}/split/texts.parquet",
        "references": f"{shared}/references/references.parquet",
        "user_profiles": f"{shared}/profiles/users.parquet",
        "item_profiles": f"{shared}/profiles/items.parquet",
        "truth": f"{shared}/world/truth.parquet",
    }
    return paths[kind] if present.get(kind, True) else None


def paper_paths(experiments, *kinds):
    """Return kind -> the file of each row of `paper_rows`, None where it has none."""
    return {kind: [paper_file(kind, row) for row in paper_rows(experiments)] for kind in kinds}


def paper_inputs(experiments, *kinds):
    """Return the files of `paper_paths` as inputs by name."""
    return {
        kind: list(dict.fromkeys(path for path in paths if path))
        for kind, paths in paper_paths(experiments, *kinds).items()
    }


def shown(path, category):
    """Mark a file for the HTML report; its caption is workflow/report/<stem>.rst."""
    stem = Path(path).name.split(".")[0]
    return report(path, caption=str(WORKFLOW / f"workflow/report/{stem}.rst"), category=category)


def paper_files(stem, *endings, category):
    """Return the outputs of a rule of the paper stage by their ending, and its provenance."""
    files = {ending: f"{PAPER}/{stem}.{ending}" for ending in endings}
    marked = {ending: shown(path, category) if ending in SHOWN else path for ending, path in files.items()}
    return marked | {"provenance": f"{PAPER}/{stem}.provenance.json"}


def table_files(number):
    """Return the outputs of a table's rule."""
    return paper_files(f"tables/table{number}", "csv", "md", "tex", category="Tables")


def figure_files(stem, prefix=""):
    """Return the outputs of a figure's rule; a second figure of the same rule has a prefix and no provenance."""
    files = paper_files(f"figures/{stem}", "pdf", "png", category="Figures")
    return {prefix + name: path for name, path in files.items() if not prefix or name != "provenance"}


def figures():
    """List the figures of the run: curves and embeddings need a tuned experiment."""
    tuned = any(paper_file("training", row) for row in paper_rows(config["paper"]["figure3"]["experiments"]))
    mapped = any(paper_paths(config["paper"]["embeddings"]["experiments"], "weights")["weights"])
    return [
        "figure2",
        "figure2_zoomed",
        "figure4",
        "costs",
        *(["figure3"] if tuned else []),
        *(["embeddings"] if mapped else []),
    ]
