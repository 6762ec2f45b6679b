"""Run the demo under other kernels of torch and MKL, and print what each run concludes, as a Markdown table.

``python docs/kernels.py --write docs/glassbox.md`` also puts it between the page's markers. A run that is stopped goes
on, and one that is finished is read. Kernels differ in the order of their sums and so in the last bits of all that is
trained, as those of another processor would.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from xrec_repro.accounting.machine import processor_name
from xrec_repro.errors import DataError, XRecError
from xrec_repro.io import read_json, require_file
from xrec_repro.markdown import fill, filled, markdown_table

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results/kernels"
NATIVE = "as installed"
# Environment and threads. MKL heeds the second variable on processors of Intel alone.
KERNELS: dict[str, tuple[Mapping[str, str], int]] = {
    NATIVE: ({}, 1),
    "two threads": ({}, 2),
    "scalar": ({"ATEN_CPU_CAPABILITY": "default"}, 1),
    "AVX2": ({"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}, 1),
}
SCORED = ("xrec", "no_profile", "no_injection", "no_embeddings", "fixed_moe")
CLAIMS = ("claim3", "claim4")
HEADS = {
    "kernels": "kernels",
    "pretraining": "pretraining, last loss",
    "loss": "XRec, validation loss",
    "xrec": "F1: XRec",
    "no_profile": "w/o profile",
    "no_injection": "w/o injection",
    "no_embeddings": "w/o embed.",
    "fixed_moe": "fixed MoE",
    "claim3": "claim 3",
    "claim4": "claim 4",
}


def place(kernels: str, folder: Path = FOLDER) -> Path:
    """Return where the run under some kernels lies."""
    return folder / kernels.replace(" ", "-") / "results/demo"


def run(kernels: str, folder: Path = FOLDER, cores: int = 2) -> Path:
    """Run the demo's chain under some kernels as far as the claims, or go on with it.

    Args:
        kernels: A key of `KERNELS`.
        folder: Has a folder of each.
        cores: Of this machine, for Snakemake.

    Returns:
        The folder of the run.

    Raises:
        subprocess.CalledProcessError: Snakemake failed, and has said why.
    """
    environment, threads = KERNELS[kernels]
    found = place(kernels, folder)
    work = found.parents[1]
    work.mkdir(parents=True, exist_ok=True)
    overlay = work / "threads.yaml"
    overlay.write_text(yaml.safe_dump({"compute": {"threads": threads}}), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(work), "--cores", str(cores)]
    command += ["--configfile", str(ROOT / "config/kernels.yaml"), str(overlay), "--"]
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [*command, str(found.relative_to(work) / "paper/claims.json")],
        env=os.environ | {"PATH": search, "CUDA_VISIBLE_DEVICES": ""} | environment,  # kernels of the CPU
        check=True,
    )
    return found


def row(kernels: str, found: Path) -> dict[str, Any]:
    """Return what a run measured and concluded, seed by seed, and where it comes from.

    Args:
        kernels: A key of `KERNELS`.
        found: The folder of the run.
    """
    world = found / "glassbox"
    claims = {
        one["claim"]: one["verdicts"]["run"]["verdict"] for one in read_json(found / "paper/claims.json")["claims"]
    }
    records = [read_json(path) for path in sorted((world / "xrec").glob("seed*/method/provenance.json"))]
    pretraining = read_json(world / "shared/llm/provenance.json")
    return {
        "kernels": kernels,
        "pretraining": [pretraining["result"]["epoch_losses"][-1]],
        "loss": [record["result"]["validation_loss"] for record in records],
        **{name: _means(world / name) for name in SCORED},
        **{name: claims[name] for name in CLAIMS},
        "commits": sorted({str(record["code"]["commit"])[:7] for record in (pretraining, *records)}),
        "weights": pretraining["outputs"]["model"]["sha256"],
    }


def _means(experiment: Path) -> list[float]:
    files = sorted(experiment.glob("seed*/metrics/summary.json"))
    return [read_json(path)["faithfulness_f1"]["mean"] for path in files]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all runs, with the machine and the commits below it."""
    lines = markdown_table(list(HEADS.values()), [[_cell(one[key]) for key in HEADS] for one in rows])
    commits = ", ".join(sorted({commit for one in rows for commit in one["commits"]}))
    ratios = [fmean(one["xrec"]) / fmean(one[other]) for one in rows for other in ("no_embeddings", "fixed_moe")]
    note = (
        f"Machine: {processor_name()}, {os.cpu_count()} cores. Commit: {commits}. F1: faithfulness, seed by seed. "
        f"XRec's mean is {min(ratios):.1f} to {max(ratios):.1f} times that without embeddings and of the fixed MoE."
    )
    return "\n".join([*lines, "", note, ""])


def _cell(value: str | Sequence[float]) -> str:
    return value if isinstance(value, str) else " ".join(f"{number:.3f}" for number in value)


def runs(folder: Path = FOLDER, cores: int = 2) -> list[dict[str, Any]]:
    """Run the demo under all kernels that this processor has, and return the rows of the table.

    AVX2 is left out where torch uses it anyway.
    """
    import torch

    chosen = [name for name in KERNELS if name != "AVX2" or torch.backends.cpu.get_cpu_capability() != "AVX2"]
    return [row(name, run(name, folder, cores)) for name in chosen]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the runs")
    parser.add_argument("--cores", type=int, default=2, help="that Snakemake may use")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between this page's markers")
    options = parser.parse_args(arguments)
    try:
        if options.write:  # found out before an hour of training
            page = require_file(options.write, "name the page to write to").read_text(encoding="utf-8")
            filled(page, "kernels", "", options.write)
        if options.folder.is_file():
            raise DataError(f"{options.folder}: is a file; name a folder for the runs")
        print(text := table(runs(options.folder.resolve(), options.cores)))
        if options.write:
            fill(options.write, "kernels", text)
    except subprocess.CalledProcessError as error:
        return error.returncode
    except XRecError as error:
        print(f"docs/kernels.py: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
