"""A finished run, and what each of many edits makes due: exactly what depends on it, and no rule more."""

import contextlib
import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.dag.edits import Edit, applied, copy_checkout, due_rules, snakemake
from tests.forks import SNAKEMAKE, fork_server
from xrec_repro.config import merge

# What follows from what, by the names of the tiny run's rules.
TABLES = {"make_table1", "make_table2", "make_table3"}
NUMBERS = {"write_statistics", "group_scores", "collect_jobs"}
DRAWN = {"plot_figure2", "plot_figure4", "plot_costs"}
PAPER = {*TABLES, *NUMBERS, *DRAWN, "judge_claims", "pick_examples", "write_browser", "write_questions"}
SCORED = {"score_explanations", "check_metrics", *PAPER}  # with metrics that need no model
BY_MODELS = {"score_by_models", *SCORED}
GENERATED = {"generate_explanations", *BY_MODELS}
TUNED = {"train_method", "plot_figure3", "plot_embeddings", *GENERATED}
SCORERS = {"train_bart", "train_bleurt", "train_judge"}
TEXTS = {"join_examples", "pretrain_lm", "write_browser", *SCORERS, *TUNED}
ALL_AFTER_SPLIT = {"generate_profiles", "generate_references", "train_recommender", *TEXTS}
COSTS = {"collect_jobs", "plot_costs", "make_table3"}
NOTHING: set[str] = set()

SRC = "src/xrec_repro"
TINY = [
    # What says something, runs the job, or has another time stamp.
    Edit("a runtime message", NOTHING, {f"{SRC}/interrupt.py": ("stopped as asked: ", "has been stopped: ")}),
    Edit("runtime code", NOTHING, {f"{SRC}/progress.py": ("every_s: float = 30.0", "every_s: float = 31.0")}),
    Edit("how files are written", NOTHING, {f"{SRC}/io.py": ("0o644", "0o640")}),
    Edit("what provenance records", NOTHING, {f"{SRC}/provenance.py": ('"numpy",', '"numpy", "scipy",')}),
    Edit("a docstring", NOTHING, {f"{SRC}/explainer/tuning.py": ("Instruction tuning: the", "Tuning: the")}),
    Edit("a log line", NOTHING, {f"{SRC}/training.py": ("resumed %s after", "going on with %s after")}),
    Edit(
        "the text of an error",
        NOTHING,
        {f"{SRC}/explainer/pretrain.py": ("pretraining: the train split has", "there are")},
    ),
    Edit("a comment in a script", NOTHING, {"workflow/scripts/train_recommender.py": (None, "# why\n")}),
    Edit("a comment in the rules", NOTHING, {"workflow/rules/common.smk": (None, "# why\n")}),
    Edit("a comment in the configuration", NOTHING, {"config/config.yaml": (None, "# why\n")}),
    Edit("a caption of the report", NOTHING, {"workflow/report/table1.rst": (None, "More.\n")}),
    Edit("a script touched", NOTHING, touched=("workflow/scripts/train_method.py",)),
    Edit("published numbers touched", NOTHING, touched=("resources/published/study_table1.csv",)),
    Edit("the environment file touched", NOTHING, touched=("envs/xrec-repro.yaml",)),
    # Code that decides.
    Edit("tuning", TUNED, {f"{SRC}/explainer/tuning.py": (None, "X = 1\n")}),
    Edit(
        "the training loop",
        {"train_recommender", "pretrain_lm", *SCORERS, *TUNED},
        {f"{SRC}/training.py": ("self._seen - self._best_at >=", "self._seen >")},
    ),
    Edit("decoding", GENERATED, {f"{SRC}/explainer/decoding.py": ("_LEAVE_AT = 7 / 8", "_LEAVE_AT = 3 / 4")}),
    Edit("the explainer", TUNED, {f"{SRC}/explainer/explainer.py": ("if not opening:", "if opening == ():")}),
    Edit(
        "an epoch of a recommender",
        {"train_recommender", *TUNED},
        {f"{SRC}/recommenders/sampling.py": (None, "MORE = 1\n")},
    ),
    Edit(
        "the forms of pretraining",
        {"pretrain_lm", *TUNED},
        {f"{SRC}/explainer/pretrain.py": ("(example, False)", "(bare, False)")},
    ),
    Edit(
        "the k-core",
        {"filter_kcore", "split_interactions", *ALL_AFTER_SPLIT},
        {f"{SRC}/data/kcore.py": (None, "X = 1\n")},
    ),
    Edit("a metric", SCORED, {f"{SRC}/metrics/usr.py": (None, "X = 1\n")}),
    Edit(
        "the judge's protocol",
        {"train_judge", *BY_MODELS},
        {f"{SRC}/metrics/_judge.py": ("LOWEST, HIGHEST = 0, 100", "LOWEST, HIGHEST = 1, 100")},
    ),
    Edit("a scorer", {"train_bart", *BY_MODELS}, {f"{SRC}/scorers/bart.py": (None, "X = 1\n")}),
    Edit("a figure", {"plot_figure3"}, {f"{SRC}/paper/curves.py": (None, "X = 1\n")}),
    Edit("the words of claims", {"judge_claims"}, {f"{SRC}/paper/claims.py": (None, "X = 1\n")}),
    Edit("the audit", {"audit_published"}, {f"{SRC}/audit/texts.py": (None, "X = 1\n")}),
    # Data of the package and of the repository.
    Edit(
        "a prompt text",
        {"generate_profiles", "generate_references", *TEXTS},
        {f"{SRC}/profiles/prompt_texts/yelp_user.txt": (None, "More.\n")},
    ),
    Edit(
        "the page's template", {"write_browser"}, {f"{SRC}/paper/browse.html": ("<!doctype html>", "<!DOCTYPE html>")}
    ),
    Edit(
        "a published score",
        {"make_table1", "plot_figure2", "judge_claims", "audit_published"},
        {"resources/published/study_table1.csv": (None, "\n")},
    ),
    Edit(
        "a published ablation",
        {"make_table2", "plot_figure2", "judge_claims", "audit_published"},
        {"resources/published/study_table2.csv": (None, "\n")},
    ),
    Edit(
        "a published time", {"make_table3", "audit_published"}, {"resources/published/study_table3.csv": (None, "\n")}
    ),
    Edit(
        "a published verdict",
        {"judge_claims", "audit_published"},
        {"resources/published/study_verdicts.csv": (None, "\n")},
    ),
    Edit(
        "the digest of a published model",
        {"make_table1", "make_table2", "plot_figure2", "judge_claims"},
        {"resources/models.tsv": (None, "a/b\t1\t1\tMIT\tno\t\t\n")},
    ),
    Edit(
        "what a paper scored with",
        {"make_table1", "make_table2", "plot_figure2", "judge_claims", "audit_published"},
        {"resources/published/signatures.csv": (None, "\n")},
    ),
    Edit("from how many examples on a claim is judged", {"judge_claims"}, overlay={"claims": {"min_examples": 99}}),
    Edit("marks", {"audit_published"}, {"resources/published/marks.csv": (None, "\n")}),
    Edit("the power of a device", {*COSTS, "audit_published"}, {"resources/hardware.tsv": (None, "\n")}),
    Edit("the manifest of downloads", NOTHING, {"resources/manifest.tsv": (None, "\n")}),
    # Settings that change nothing.
    Edit("generation.batch_size", NOTHING, overlay={"defaults": {"generation": {"batch_size": 3}}}),
    Edit("generation.invariance", NOTHING, overlay={"defaults": {"generation": {"invariance": "fast"}}}),
    Edit("tuning.checkpoint_every", NOTHING, overlay={"defaults": {"tuning": {"checkpoint_every": 7}}}),
    Edit("tuning.micro_batch_size", NOTHING, overlay={"defaults": {"tuning": {"micro_batch_size": 4}}}),
    Edit(
        "tuning.activation_checkpointing", NOTHING, overlay={"defaults": {"tuning": {"activation_checkpointing": True}}}
    ),
    Edit(
        "metrics.*.batch_size",
        NOTHING,
        overlay={"metrics": {m: {"batch_size": 3} for m in ("bertscore", "bartscore", "bleurt", "llamascore")}},
    ),
    Edit(
        "the heading of a metric that is not used",
        PAPER - COSTS,
        {f"{SRC}/metrics/gptscore.py": ('Column("GPTScore", "GPT"', 'Column("GPTScore", "GPT 3.5"')},
    ),
    Edit("a metric that is not used", NOTHING, overlay={"metrics": {"gptscore": {"temperature": 1.0}}}),
    Edit("a chat model that writes nothing", NOTHING, overlay={"defaults": {"profiles": {"chat": {"model": "other"}}}}),
    Edit("llm.repo of a scratch model", NOTHING, overlay={"defaults": {"llm": {"repo": "a/b", "path": "c"}}}),
    Edit("how energy is metered", COSTS, overlay={"emissions": {"energy": "none"}}),
    # Settings that change something.
    Edit("generation.temperature", GENERATED, overlay={"defaults": {"generation": {"temperature": 0.7}}}),
    Edit("adapter.experts", TUNED, overlay={"defaults": {"adapter": {"experts": 4}}}),
    Edit(
        "a setting of a recommender",
        {"train_recommender", *TUNED},
        overlay={"recommenders": {"lightgcn": {"epochs": 1}}},
    ),
    Edit("a setting of a recommender that is not used", NOTHING, overlay={"recommenders": {"bprmf": {"epochs": 1}}}),
    Edit("a recommender that is not used", NOTHING, {f"{SRC}/recommenders/bprmf.py": ('"normal"', '"uniform"')}),
    Edit("an entry that is not used", NOTHING, overlay={"recommenders": {"more": {"like": "lightgcn"}}}),
    Edit("llm.scratch.seed", {"pretrain_lm", *TUNED}, overlay={"defaults": {"llm": {"scratch": {"seed": 12}}}}),
    Edit("an option of a metric", BY_MODELS, overlay={"metrics": {"bertscore": {"idf": True}}}),
    Edit("the seed of a scorer", {"train_bleurt", *BY_MODELS}, overlay={"scorers": {"bleurt": {"seed": 2}}}),
    Edit(
        "the threads of a job", {"train_recommender", *TEXTS} - {"join_examples"}, overlay={"compute": {"threads": 2}}
    ),
    Edit(
        "statistics.alpha",
        {"write_statistics", "write_questions", "judge_claims", "group_scores", "plot_figure2", "plot_figure4"},
        overlay={"statistics": {"alpha": 0.01}},
    ),
    Edit(
        "statistics.primary",
        {
            "write_statistics",
            "judge_claims",
            "write_questions",
            "group_scores",
            "plot_figure2",
            "plot_figure4",
            "make_table1",
            "make_table2",
        },
        overlay={"statistics": {"primary": ["usr"]}},
    ),
    Edit("the window of figure 3", {"plot_figure3"}, overlay={"paper": {"figure3": {"window": 9}}}),
    Edit("the size of figure 4", {"plot_figure4"}, overlay={"paper": {"figures": {"sizes": {"figure4": [3.4, 5]}}}}),
    Edit(
        "figures without captions",
        {"plot_figure2", "plot_figure3", "plot_figure4", "plot_embeddings", "plot_costs"},
        overlay={"paper": {"figures": {"captions": False}}},
    ),
    Edit("emissions.pue", COSTS, overlay={"emissions": {"pue": 1.3}}),
    Edit("the title of the page", {"write_browser"}, overlay={"paper": {"browse": {"title": "Texts"}}}),
    # Libraries that a signature names, and one that none names.
    Edit("another bert-score", BY_MODELS, library="bert-score"),
    Edit("another transformers", BY_MODELS, library="transformers"),
    Edit("another pandas", NOTHING, library="pandas"),
]
# A run with the user's own models, in half precision, and a chat model; nothing of it is computed.
OWN_MODELS = ("llm", "chat", "bleurt")
OWN = {
    "run": {"name": "own", "experiments": ["glassbox/xrec"]},
    "defaults": {
        "llm": {"source": "local", "path": "models/llm", "dtype": "bfloat16"},
        "profiles": {"backend": "chat", "chat": {"model": "models/chat"}},
    },
    "metrics": {
        "use": ["bleurt", "bartscore", "gptscore", "usr"],
        "bleurt": {"model": "models/bleurt", "dtype": "bfloat16"},
        "bartscore": {"model": "models/bleurt", "weights": "models/weights.pth"},
    },
}
# A judge behind a server is apart.
GENERATED_OWN = {"generate_explanations", "score_gptscore", *BY_MODELS}
TUNED_OWN = {"train_method", "plot_figure3", "plot_embeddings", *GENERATED_OWN}
OWN_EDITS = [
    Edit("the weights of a local model", TUNED_OWN, own=("models/llm/model.safetensors",)),
    Edit("the tokenizer of a local model", TUNED_OWN, own=("models/llm/tokenizer.json",)),
    Edit("the page about a local model", NOTHING, own=("models/llm/README.md",)),
    Edit(
        "the weights of the chat model",
        {"generate_profiles_by_model", "join_examples", *TUNED_OWN},
        own=("models/chat/model.safetensors",),
    ),
    Edit(
        "the weights of a metric",
        BY_MODELS,
        own=("models/bleurt/model.safetensors",),
    ),
    Edit("further weights of a metric", BY_MODELS, own=("models/weights.pth",)),
    Edit("generation.batch_size in bfloat16", NOTHING, overlay={"defaults": {"generation": {"batch_size": 3}}}),
    Edit(
        "generation.invariance in bfloat16", GENERATED_OWN, overlay={"defaults": {"generation": {"invariance": "fast"}}}
    ),
    Edit("tuning.micro_batch_size in bfloat16", TUNED_OWN, overlay={"defaults": {"tuning": {"micro_batch_size": 3}}}),
    Edit("tuning.checkpoint_every in bfloat16", NOTHING, overlay={"defaults": {"tuning": {"checkpoint_every": 9}}}),
    Edit(
        "the batch size of a metric in bfloat16",
        BY_MODELS,
        overlay={"metrics": {"bleurt": {"batch_size": 3}}},
    ),
    Edit("the batch size of a metric in float32", NOTHING, overlay={"metrics": {"bartscore": {"batch_size": 3}}}),
    Edit("llm.scratch of a local model", NOTHING, overlay={"defaults": {"llm": {"scratch": {"seed": 5}}}}),
    Edit(
        "how a server is asked",
        NOTHING,
        overlay={
            "metrics": {
                "gptscore": {"concurrency": 9, "timeout_s": 9, "api_key_env": "K", "request_attempts": 9, "cache": None}
            }
        },
    ),
    Edit(
        "what a server is asked",
        {"score_gptscore", *SCORED},
        overlay={"metrics": {"gptscore": {"temperature": 1.0}}},
    ),
]


def by_due(edits: list[Edit]) -> list[Edit]:
    return [edit for edit in edits if edit.due]


@pytest.fixture(scope="module")
def forks():
    return fork_server(*SNAKEMAKE)


@pytest.fixture(scope="module")
def clone(root, finished, tmp_path_factory) -> Path:
    """A fresh clone, to be edited, into which a finished run was copied with its time stamps (``cp -a``)."""
    folder = copy_checkout(root, tmp_path_factory.mktemp("clone"))
    for part in ("results", ".snakemake"):
        shutil.copytree(finished / part, folder / part)
    return folder


@pytest.fixture
def plan(forks, tmp_path):
    """Return a function that runs Snakemake with a configuration in a checkout and returns what it printed."""
    numbers = itertools.count()

    def plan(checkout: Path, config: dict, *arguments: str, library: str | None = None) -> str:
        number = next(numbers)
        overlay, printed = tmp_path / f"overlay{number}.yaml", tmp_path / f"printed{number}"
        overlay.write_text(yaml.safe_dump(config))
        command = [*(arguments or ["--dry-run"]), "--configfile", str(overlay), "--", "all"]
        process = forks.Process(target=snakemake, args=(checkout, command, printed, library))
        process.start()
        process.join()
        text = printed.read_text()
        assert process.exitcode == 0, text
        return text

    return plan


@pytest.fixture(scope="module")
def tiny(root) -> dict:
    return yaml.safe_load((root / "tests/tiny.yaml").read_text())


def check(plan, checkout, config, edit):
    with applied(edit, checkout):
        due = due_rules(plan(checkout, merge(config, edit.overlay), library=edit.library))
    assert due == set(edit.due), f"too many: {sorted(due - edit.due)}, missing: {sorted(edit.due - due)}"


def check_nothing(plan, checkout, config, edits):
    """Apply all edits that make nothing due at once, and one by one only where something is due then."""
    edits = [edit for edit in edits if not edit.due]
    overlay: dict = {}
    with contextlib.ExitStack() as stack:
        for edit in edits:
            stack.enter_context(applied(edit, checkout))
            overlay = merge(overlay, edit.overlay)
        libraries = [edit.library for edit in edits if edit.library]
        due = due_rules(plan(checkout, merge(config, overlay), library=libraries[0] if libraries else None))
    if due:
        for edit in edits:
            check(plan, checkout, config, edit)
        pytest.fail(f"together they make due: {sorted(due)}")


def test_a_finished_run_is_finished_in_a_fresh_clone(plan, clone, tiny):
    assert "Nothing to be done" in plan(clone, tiny)


def test_results_alone_are_a_finished_run(plan, root, finished, tiny, tmp_path):
    clone = copy_checkout(root, tmp_path / "clone")
    shutil.copytree(finished / "results", clone / "results")
    assert "Nothing to be done" in plan(clone, tiny)


@pytest.mark.parametrize("edit", by_due(TINY), ids=lambda edit: edit.id)
def test_edits_of_a_run(plan, clone, tiny, edit):
    check(plan, clone, tiny, edit)


def test_edits_of_a_run_that_change_nothing(plan, clone, tiny):
    check_nothing(plan, clone, tiny, TINY)


@pytest.fixture(scope="module")
def own_clone(root, finished, tmp_path_factory) -> Path:
    """A checkout with the user's own models."""
    folder = copy_checkout(root, tmp_path_factory.mktemp("own"))
    for name in OWN_MODELS:
        shutil.copytree(finished / "results/tiny/glassbox/shared/llm/model", folder / "models" / name)
        (folder / "models" / name / "README.md").write_text("a model")
    (folder / "models/weights.pth").write_bytes(os.urandom(100))
    return folder


@pytest.fixture
def own(plan, own_clone, tiny) -> tuple[Path, dict]:
    config = merge(tiny, OWN)
    if not (own_clone / "results").is_dir():  # nothing is computed: empty files with the records of a finished run
        for line in re.findall(r"^ +output: (.+)$", plan(own_clone, config), flags=re.MULTILINE):
            for name in line.split(", "):
                (own_clone / name).parent.mkdir(parents=True, exist_ok=True)
                (own_clone / name).touch()
        plan(own_clone, config, "--touch", "--forceall")
    return own_clone, config


@pytest.mark.parametrize("edit", by_due(OWN_EDITS), ids=lambda edit: edit.id)
def test_edits_of_a_run_with_models_of_the_users_own(plan, own, edit):
    check(plan, *own, edit)


def test_edits_of_a_run_with_models_of_the_users_own_that_change_nothing(plan, own):
    check_nothing(plan, *own, OWN_EDITS)
