"""The tiny workflow (tests/tiny.yaml) on a CUDA device and on the CPU: what runs where, what differs, what NVML counts.

Three runs: `cuda`, `cpu`, and `cross`, a copy of `cuda` whose texts are scored again on the CPU.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from harness import ROOT, Skipped, arguments, run, write

from xrec_repro.io import read_json

MODELS = ("bartscore", "bertscore", "bleurt", "llamascore")  # the metrics whose model runs on the GPU
ON_GPU = {"train_recommender", "train_method", "generate_explanations", *(f"score_{name}" for name in MODELS)}
# Largest difference of a score of one text, GPU against CPU, both in float32: 24 to 45 times what an H200 showed.
TOLERANCES = {"bartscore": 5e-6, "bertscore_p": 1e-5, "bertscore_r": 1e-5, "bertscore_f1": 1e-5, "bleurt": 5e-7}
TOLERANCES |= {"llamascore": 2e-5}  # a number from 0 to 100


def workflow(folder: Path, device: str, *words: str) -> None:
    """Run the tiny workflow in a folder.

    Raises:
        AssertionError: If a job fails; with the end of what Snakemake printed.
    """
    overlay = folder.with_suffix(".yaml")
    overlay.write_text(json.dumps({"compute": {"device": device}}), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--cores", str(min(4, os.cpu_count() or 1)), "--resources", "gpu=1"]
    command += ["--configfile", str(ROOT / "tests/tiny.yaml"), str(overlay), *words]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False)
    assert done.returncode == 0, f"the workflow on {device} failed:\n{(done.stdout + done.stderr)[-3000:]}"


def make_runs(folder: Path, device: str = "cuda") -> None:
    """Make the runs `cuda`, `cpu` and `cross` in a folder."""
    for name, where in (("cuda", device), ("cpu", "cpu")):
        (folder / name).mkdir(parents=True)
        workflow(folder / name, where, "--", "all")
    score_again(folder)


def score_again(folder: Path) -> None:
    """Make the run `cross` of the run `cuda`."""
    shutil.copytree(folder / "cuda", folder / "cross")
    scores = [str(path) for name in MODELS for path in relative(folder / "cross", f"metrics/{name}/scores.parquet")]
    assert scores, "the run on the GPU has no scores"
    # By times alone: the device is a parameter of every rule before, and the texts are to stay.
    rules = [f"score_{name}" for name in MODELS]
    workflow(folder / "cross", "cpu", "--rerun-triggers", "mtime", "--forcerun", *rules, "--", *scores)


def relative(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files of a run by pattern, relative to its folder, sorted."""
    return (path.relative_to(folder) for path in sorted((folder / "results/tiny").rglob(pattern)))


def differences(one: Path, other: Path, pattern: str) -> dict[str, float]:
    """Return by column of numbers the largest difference between the tables of two runs; NaN equals NaN."""
    most: dict[str, float] = {}
    for path in relative(one, pattern):
        a, b = (pq.read_table(folder / path).to_pandas() for folder in (one, other))
        assert len(a) == len(b), f"{path}: {len(a)} and {len(b)} rows"
        for column in a.select_dtypes("number").columns.drop("example_id", errors="ignore"):
            assert a[column].isna().equals(b[column].isna()), f"{path}: {column} is empty in other rows"
            most[column] = max(most.get(column, 0.0), float((a[column] - b[column]).abs().max()))
    return most


def short(value: float) -> float:
    """Round to three digits."""
    return float(f"{value:.2e}")


def texts(cuda: Path, cpu: Path) -> list[dict[str, Any]]:
    """Return by experiment how many texts of the two runs are equal."""
    rows = []
    for path in relative(cuda, "generation/explanations.parquet"):
        a, b = (pq.read_table(folder / path)["prediction"].to_pylist() for folder in (cuda, cpu))
        equal = sum(x == y for x, y in zip(a, b, strict=True))
        rows.append({"experiment": path.parts[3], "texts": len(a), "equal": equal})
    return rows


def claims(folder: Path) -> dict[str, tuple[str, str]]:
    """Return by claim the run's verdict, and the one by directions alone (empty where the verdict is inconclusive)."""
    found = read_json(folder / "results/tiny/paper/claims.json")["claims"]
    runs = {one["claim"]: one["verdicts"]["run"] for one in found}
    return {
        name: (one["verdict"], "" if one["verdict"] == "inconclusive" else one["by_direction"])
        for name, one in runs.items()
    }


def jobs(folder: Path) -> list[dict[str, Any]]:
    """Return by rule that ran on a GPU: jobs, device, seconds, Wh by counter, and the Wh that the run was charged."""
    with (folder / "results/tiny/paper/costs/rules.csv").open(encoding="utf-8", newline="") as stream:
        charged = {row["rule"]: row["energy_kwh"] for row in csv.DictReader(stream)}
    by_rule = defaultdict(list)
    for path in relative(folder, "*provenance.json"):
        record = read_json(folder / path)
        if record["machine"]["device"]["kind"] == "cuda":
            by_rule[record["rule"]].append(record)
    rows = []
    for rule, records in sorted(by_rule.items()):
        row = {"rule": rule, "jobs": len(records)}
        row["device"] = ", ".join(sorted({one["machine"]["device"]["name"] for one in records}))
        row["seconds"] = round(sum(one["times"]["seconds"] for one in records), 1)
        for counter in ("NVML", "RAPL"):
            known = [one["energy_kwh"]["parts"].get(counter) for one in records if "parts" in one["energy_kwh"]]
            row[f"Wh by {counter}"] = round(1e3 * sum(known), 3) if known and None not in known else None
        rows.append(row | {"Wh charged": round(1e3 * float(charged[rule]), 3) if charged.get(rule) else None})
    return rows


def compare(folder: Path) -> dict[str, Any]:
    """Compare the runs `cuda`, `cpu` and `cross` in a folder; see `wrong`."""
    cuda, cpu, cross = (folder / name for name in ("cuda", "cpu", "cross"))
    one, other = claims(cuda), claims(cpu)
    scores = {}
    for name in MODELS:
        scores |= differences(cuda, cross, f"metrics/{name}/scores.parquet")
    return {
        "jobs of the two runs": [sum(1 for _ in relative(made, "*provenance.json")) for made in (cuda, cpu)],
        "claims with another verdict": sorted(name for name in one if one[name] != other.get(name)),
        "largest difference of a loss in tuning": short(differences(cuda, cpu, "method/training.parquet")["loss"]),
        "scores of the same texts": [
            {"score": name, "largest difference": short(most), "tolerance": TOLERANCES.get(name)}
            for name, most in sorted(scores.items())
        ],
        "texts of the two runs": texts(cuda, cpu),
        "jobs that ran on the GPU": jobs(cuda),
    }


def wrong(found: dict[str, Any]) -> list[str]:
    """Return what in a comparison is not as promised, a line each; none if all is well."""
    lines = []
    if len(set(found["jobs of the two runs"])) > 1:
        lines.append("the two runs have other numbers of jobs")
    lines += [f"{name} has another verdict" for name in found["claims with another verdict"]]
    for row in found["scores of the same texts"]:
        if row["tolerance"] is not None and not row["largest difference"] <= row["tolerance"]:
            lines.append(f"{row['score']} differs by {row['largest difference']}, more than {row['tolerance']}")
    compared = {row["score"] for row in found["scores of the same texts"]}
    lines += [f"no {name} was compared" for name in TOLERANCES if name not in compared]
    # Nothing is tuned there, so that no difference of last bits grows.
    untuned = [row for row in found["texts of the two runs"] if row["experiment"] == "no_embeddings"]
    if not untuned or any(row["equal"] < row["texts"] for row in untuned):
        lines.append("texts without tuning differ")
    on_gpu = {row["rule"] for row in found["jobs that ran on the GPU"] if row["device"]}
    lines += [f"{rule} did not run where it should" for rule in sorted(on_gpu ^ ON_GPU)]
    return lines


def table(found: dict[str, Any]) -> str:
    """Return a comparison as lines to print."""
    lines = []
    for key, value in found.items():
        rows = value if isinstance(value, list) and value and isinstance(value[0], dict) else [{key: value}]
        lines += [key] if rows is value else []
        lines += ["   " * (rows is value) + ", ".join(f"{name} {one}" for name, one in row.items()) for row in rows]
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    """Make the runs, or take finished ones; compare them, write down what was found."""
    import torch

    if args.runs is None and not torch.cuda.is_available():
        raise Skipped("torch sees no CUDA device")
    with tempfile.TemporaryDirectory() as made:
        if args.runs is None:
            make_runs(Path(made))
        found = compare(args.runs or Path(made))
    print(table(found))
    if lines := wrong(found):
        raise AssertionError("; ".join(lines))
    write(args, "gpu_workflow", {"data": "tests/tiny.yaml in float32", "facts": found})


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--runs", type=Path, help="a folder with finished runs cuda, cpu and cross; they are not made")
    return parser


if __name__ == "__main__":
    run(main, options())
