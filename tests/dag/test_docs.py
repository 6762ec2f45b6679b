"""What the pages print, tried: configurations are checked and planned, commands run dry, or parsed, or listed here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from xrec_repro.cli import _parser, main
from xrec_repro.config import experiment_pairs, load_config
from xrec_repro.config_rules import check_config
from xrec_repro.metrics.registry import build_metric
from xrec_repro.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(sys.executable).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
PROGRAMS = ("snakemake", "make", "xrec-repro", "pytest")
TRIED = re.compile(r"([A-Z_]+=\S+ )?(\.venv/bin/)?(snakemake|make|xrec-repro|python -m pytest|pytest) ")
INLINE = re.compile(rf"{TRIED.pattern}|(\.venv/bin/)?python ")
# What stands for `…` where the pages leave something to the reader, and for their names of files.
PLACEHOLDERS = {
    "snakemake …": "snakemake --profile profiles/default --cores 2",
    "--configfile …": "--configfile config/xrec-small.yaml",
}

# First words, or whole commands, that are not tried, each with the reason. One that no page prints is an error.
UNTRIED = {
    "git": "needs a network",
    "pip": "changes the environment",
    "hf": "needs a network, and licences",
    "cd": "into a clone that is not made here",
    ".": "sets the shell up",
    "export": "sets the shell up",
    "tmux": "waits for a person",
    "cat": "reads a finished run",
    "echo": "two texts for the next line",
    "tests/slurm/cluster.sh": "starts daemons; make slurm-test runs it",
    "vllm": "somebody else's server",
    "llama-server": "somebody else's server",
    "ollama": "somebody else's server",
    "transformers": "tests/e2e/test_transformers_serve.py starts it",
    "snakemake --cores 2 --configfile nearest.yaml -- all": "tests/e2e/test_outside.py runs it on the page's blocks",
    "snakemake --cores 2 --configfile data/mine.yaml -- all": "tests/dag/test_own_data.py runs it on the page's blocks",
    "PYTHONPATH=data snakemake --cores 2 --configfile data/svd.yaml -- all": "tests/dag/test_own_recommender.py does",
    "PYTHONPATH=data snakemake --cores 2 --configfile data/ratio.yaml -- all": "test_the_metric_of_the_page_works does",
    "snakemake --profile profiles/pbs all": "a profile that a reader writes",
    "snakemake --unlock": "unlocks",
    "snakemake --profile slurm --unlock": "unlocks",
    "snakemake --report report.html": "reads a finished run",
    "snakemake --report report.zip": "reads a finished run",
    "python -c": "reads a finished run",
    "python docs/deviations.py results/deviations --write docs/deviations.md": "reads a finished run",
    "python docs/real_run.py results/xrec-small": "reads a finished run",
    "python docs/real_run.py results/xrec-smollm": "reads a finished run",
    "python docs/kernels.py --write docs/glassbox.md": "trains for an hour",
    "python benchmarks/run.py smollm_writer smollm_judge": "measures, for minutes",
}
# YAML that is no configuration of ours, by its page and first line, and configuration that needs something beside it.
OTHER_YAML = {
    ("cluster.md", "set-resources:"): "a piece of a Snakemake profile, with its variables",
    ("cluster.md", "__use_yte__: true"): "a Snakemake profile for another scheduler",
    ("add-a-recommender.md", "recommenders:"): "names the page's own module: tests/dag/test_own_recommender.py",
    ("add-a-method.md", "methods:"): "names the page's own module and file: tests/e2e/test_outside.py",
    ("add-a-metric.md", "metrics:"): "names the page's own module: test_the_metric_of_the_page_works",
}


def blocks(page: Path):
    """Yield language and text of each fenced block, without its indent."""
    for indent, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)


def printed() -> dict[str, str]:
    """Return the commands of all pages, in blocks and between backticks, as command -> page."""
    found: dict[str, str] = {}
    for page in PAGES:
        inline = BLOCK.sub("", page.read_text(encoding="utf-8"))
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", inline)]
        lines = [span for span in spans if INLINE.match(span)]
        if page.name != "architecture.md":  # its block is a map of the code
            lines += [line for language, text in blocks(page) if not language for line in text.splitlines()]
        for line in lines:
            for part in line.split(" && "):
                words = [word.removeprefix(".venv/bin/") for word in shlex.split(part, comments=True)]
                if words:
                    found.setdefault(shlex.join(words).replace("'…'", "…"), page.name)
    return found


def untried(command: str) -> str | None:
    """Return the entry of UNTRIED that a command falls under."""
    words = [word for word in command.split() if not re.match("[A-Z_]+=", word)] or command.split()
    return next((key for key in (command, " ".join(words[:2]), words[0]) if key in UNTRIED), None)


def tried(program: str) -> list[str]:
    """List the commands of a program that are tried, less those that differ in a dry run's flag alone."""
    wanted = [c for c in printed() if untried(c) is None and f" {program} " in f" {c} " and TRIED.match(c)]
    return list({tuple(word for word in c.split() if word not in ("-n", "--")): c for c in wanted}.values())


def start(command: list[str], folder: Path = ROOT, **variables: str) -> str:
    environment = os.environ | {"PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def plan(folder: Path, *words: str, **variables: str) -> str:
    """Dry-run the workflow of the checkout in another folder."""
    return start(["snakemake", "--dry-run", "--nolock", "--directory", str(folder), *words], **variables)


def test_every_command_is_tried_or_listed():
    unknown = [c for c in printed() if untried(c) is None and not TRIED.match(c)]
    assert unknown == []
    assert set(UNTRIED) - {untried(c) for c in printed()} == set()
    assert all(tried(program) for program in PROGRAMS)


@pytest.mark.parametrize("command", tried("snakemake"))
def test_snakemake_plans_what_the_pages_print(command, tmp_path):
    for old, new in PLACEHOLDERS.items():
        command = command.replace(old, new)
    variables = {}
    words = shlex.split(command)
    while words[0] != "snakemake":
        name, variables[name] = words.pop(0).split("=")
    assert "rule all:" in (out := plan(tmp_path, *words[1:], **variables)) or "--until" in words or "--force" in words
    assert "Job stats:" in out


@pytest.mark.parametrize("command", tried("make"))
def test_make_has_the_targets_that_the_pages_print(command):
    words = shlex.split(command)
    assert start(["make", "-n", *words[words.index("make") + 1 :]])


@pytest.mark.parametrize("command", tried("xrec-repro"))
def test_the_command_line_takes_what_the_pages_print(command):
    words = shlex.split(command)
    assert callable(_parser().parse_args(words[words.index("xrec-repro") + 1 :]).command)


@pytest.mark.parametrize("command", ["xrec-repro audit", "xrec-repro check config/paper.yaml"])
def test_what_is_offline_and_quick_runs_as_it_is_printed(command, capsys, monkeypatch):
    assert command in printed()
    monkeypatch.chdir(ROOT)
    assert main(command.split()[1:]) in (0, 1)  # 1: something is missing on this machine
    assert len(capsys.readouterr().out.splitlines()) > 5


@pytest.mark.parametrize("command", tried("pytest"))
def test_pytest_finds_the_tests_that_the_pages_name(command):
    words = shlex.split(command)[shlex.split(command).index("pytest") + 1 :]
    wanted = words[words.index("-k") + 1] if "-k" in words else "test"
    paths = [ROOT / word for word in words if word.startswith("tests")] or [ROOT / "tests"]
    assert all(path.exists() for path in paths)
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))]
    assert any(
        wanted in file.name or re.search(rf"^def test_\w*{wanted}", file.read_text(), re.MULTILINE) for file in files
    )


def yamls() -> list:
    """List (page, text) of the YAML blocks."""
    found = [(page.name, text) for page in PAGES for language, text in blocks(page) if language == "yaml"]
    return [pytest.param(*one, id=f"{one[0]}-{row}") for row, one in enumerate(found)]


@pytest.mark.parametrize(("page", "text"), yamls())
def test_a_configuration_of_the_pages_is_taken_as_it_is_printed(page, text, tmp_path):
    value = yaml.safe_load(text)
    assert isinstance(value, dict)
    if (page, text.splitlines()[0]) in OTHER_YAML:
        return
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text)
    config = load_config(ROOT / "config/config.yaml", overlay)
    check_config(config)
    if not {"run", "sweeps"} & set(value):
        return
    for dataset, _ in experiment_pairs(config):
        for path in config["datasets"][dataset]["paths"].values():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    planned = plan(tmp_path, "--configfile", str(overlay))
    for _, experiment in experiment_pairs(config):
        assert f"/{experiment}/seed1/generation/explanations.parquet" in planned


def test_every_other_yaml_is_on_its_page():
    there = {(page.name, text.splitlines()[0]) for page in PAGES for _, text in blocks(page)}
    assert set(OTHER_YAML) <= there


def test_the_metric_of_the_page_works(tmp_path, monkeypatch, capsys):
    found = dict(blocks(ROOT / "docs/add-a-metric.md"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "length_ratio.py").write_text(found["python"])
    (folder / "ratio.yaml").write_text(found["yaml"])
    monkeypatch.syspath_prepend(folder)
    try:
        section = yaml.safe_load(found["yaml"])["metrics"]["length_ratio"]
        metric = build_metric("length_ratio", section)
        assert metric.signature == "length_ratio|cap:2.0|tokens:whitespace|v:1"
        scores = metric.score(["a b", "a b c"], ["a b c d", "a"])
        assert (scores.columns["length_ratio"].tolist(), scores.counts) == ([0.5, 2.0], {"capped": 1})
        for name, texts in (("p.txt", "a b\na b c\n"), ("r.txt", "a b c d\na\n")):
            (tmp_path / name).write_text(texts)
        words = ["--metrics", "length_ratio", "--config", str(folder / "ratio.yaml")]
        assert main(["score", str(tmp_path / "p.txt"), str(tmp_path / "r.txt"), *words]) == 0
        assert "length_ratio  1.2500" in capsys.readouterr().out
        merged = load_config(ROOT / "config/config.yaml", folder / "ratio.yaml")
        scored = Plan(merged, ROOT).by_texts(SimpleNamespace(dataset="glassbox", experiment="xrec"))
        assert scored == ["usr", "length_ratio"]
    finally:
        sys.modules.pop("length_ratio", None)
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    planned = plan(tmp_path, "--cores", "2", "--configfile", str(folder / "ratio.yaml"), "--", "all", PYTHONPATH=path)
    assert re.search(r"^score_explanations +[1-9]", planned, flags=re.MULTILINE)
