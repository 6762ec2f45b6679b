"""Faults for the test on the cluster. Python imports this module when it starts, if it lies on PYTHONPATH.

Tuning of `xrec` is slow until it has a checkpoint to resume, so that it runs into its time limit. Scoring
`no_profile` takes more memory than the rule asks for at its first attempt, and less than at its second.
"""

import sys
import time
from pathlib import Path

STEP_SECONDS = 2
BALLAST_MB = 1500  # score_explanations asks for 1000, then for 2000


def slow_down() -> None:
    """Make each step of Adam take its time."""
    import torch

    step = torch.optim.Adam.step

    def slow_step(*arguments, **options):
        time.sleep(STEP_SECONDS)
        return step(*arguments, **options)

    torch.optim.Adam.step = slow_step


def take_memory() -> None:
    """Hold memory for as long as Slurm needs to see it; bytes other than zero make it real."""
    ballast = b"\1" * (BALLAST_MB << 20)
    time.sleep(5)
    del ballast


script = Path(sys.orig_argv[-1])  # Snakemake writes the job, wildcards included, at the head of a copy of the script
if script.name.endswith((".train_method.py", ".score_explanations.py")) and script.is_file():
    if b"/no_profile/" in script.read_bytes():
        if script.name.endswith(".score_explanations.py"):
            take_memory()
    elif script.name.endswith(".train_method.py") and not list(Path.cwd().rglob("xrec/*/method/checkpoint.*")):
        slow_down()
