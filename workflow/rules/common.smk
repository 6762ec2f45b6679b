"""Shared by all others in this folder: the checked configuration, the plan, and what Snakemake alone knows."""

import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from xrec_repro.config import READ, complete, gpus_of_a_job, load_config, merge
from xrec_repro.config_files import added_experiments, check_files
from xrec_repro.config_rules import check_config
from xrec_repro.errors import ConfigError
from xrec_repro.identity import Told, places_digest
from xrec_repro.neutral import neutral, significant
from xrec_repro.plan import Plan, asked, when
from xrec_repro.plan_rows import inputs
from xrec_repro.shards import JUDGES

WORKFLOW = Path(workflow.basedir)
ENVIRONMENT = str(WORKFLOW / "envs/xrec-repro.yaml")
# With --sdm conda a job runs in an environment that holds the pins but not this package; a module system may have set
# the variable for its own packages.
SEARCHED = [str(WORKFLOW / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), os.getcwd()]
os.environ.update(PYTHONPATH=os.pathsep.join(dict.fromkeys(SEARCHED)))
sys.path.append(os.getcwd())  # for modules of the user's own, here and in jobs
# Slurm signals all processes of a job. A bash that waits for the script must outlive it: when it ends, so does the job,
# before the script has saved its state. (From version 5.1 on bash leaves its place to the script by itself.)
shell.prefix("set -euo pipefail; trap : TERM; ")

try:
    check_files(workflow.configfiles)
    base = WORKFLOW / "config/config.yaml"
    overlays = [path for path in workflow.configfiles if not base.samefile(path)]
    config.update(complete(added_experiments([base, *overlays], config)))
    check_config(config)
    # Keys in the order of the base file: Snakemake puts those of an overlay first, and params compare what is written.
    config.update(merge(load_config(base), config))
    PLAN = Plan(config, WORKFLOW)
    config.update(PLAN.config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RUN, SHARED, EXPERIMENT, METHOD, PAPER = PLAN.run, PLAN.shared, PLAN.experiment, PLAN.method, PLAN.paper
# GPUs of a job that runs a model on one: with --resources gpu=1 such jobs take turns, with gpu=2 two run at a time, each
# on a GPU that it reserves (`xrec_repro.device`). A cluster's profile says its own.
GPUS = gpus_of_a_job(config["compute"])
# `compute` is a parameter, and its change a reason to run again, of the rules that run a torch model and of no others:
# device and threads decide in which order a model's sums are added, and so their last bits. What is trained on the CPU
# whatever the device has the threads alone.
THREADS = {"threads": config["compute"]["threads"]}


wildcard_constraints:
    dataset="|".join(re.escape(name) for name in PLAN.datasets),
    experiment="|".join(dict.fromkeys(re.escape(name) for _, name in PLAN.pairs)),
    recommender="|".join(map(re.escape, config["recommenders"])),
    seed=r"\d+",
    shard=r"\d+-of-\d+",


def pick(*sections):
    """Return a params function: the named sections of the settings, for the wildcards at hand.

    A rule that names just its own sections reruns just when one of them changes.
    """

    def chosen(wildcards):
        merged = PLAN.settings(wildcards.dataset, wildcards.get("experiment"))
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


def resource_inputs(*names):
    """Return files of the folder resources as inputs; their digests tell when they change, not their times."""
    return [ancient(f"{PLAN.resources}/{name}") for name in dict.fromkeys(names)]


def own_files(places):
    """Return an input function: the user's own files and models; digests in params tell when they change."""
    return lambda wildcards: {name: ancient(str(Path(p).expanduser())) for name, p in places(wildcards).items()}


def own_digests(places):
    """Return a params function: the digests of the user's own files and models."""
    return lambda wildcards: places_digest({n: Path(p).expanduser() for n, p in places(wildcards).items()})


def dataset_key(key):
    """Return a params function: one key of the data set's entry."""
    return lambda wildcards: config["datasets"][wildcards.dataset][key]


def scaled(amount):
    """Return a resource function: the amount, or what a function of the wildcards says, times the attempt."""
    return lambda wildcards, attempt: (amount(wildcards) if callable(amount) else amount) * attempt


def by_llm(own, other):
    """Return an amount for `scaled`: with the small language model that the workflow trains itself, and with others."""
    return lambda wildcards: own if PLAN.settings(wildcards.dataset)["llm"]["source"] == "scratch" else other
