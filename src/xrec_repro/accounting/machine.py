"""What a job had of its machine, for its provenance: cores and GPUs, and how many of them there are."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xrec_repro.device import list_gpus

_PATIENCE_S = 10
Pair = dict[str, float]


def part_of_machine(threads: int | None, device: Mapping[str, Any]) -> dict[str, Pair]:
    """Return what a job had of its machine.

    Under Slurm that is what Slurm allocated, of what the node has by Slurm's count. Elsewhere it is the threads of the
    rule, as far as affinity and control groups let it use them, of all cores as the system counts them.

    Args:
        threads: Of the rule; None if it is not known.
        device: As in a provenance: kind and count.

    Returns:
        cores, and for a job on a GPU gpus (slices, where there are slices), each had and there.
    """
    node = _slurm_node()
    allocated = os.environ.get("SLURM_JOB_CPUS_PER_NODE") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    there = int(node.get("CPUTot") or os.cpu_count() or 1)
    if match := re.match(r"\d+", allocated):
        had: float = int(match[0])
    else:
        had = min(threads or there, _usable_cores())
    found = {"cores": {"had": had, "there": max(there, had)}}
    if device["kind"] == "cuda":
        named = re.findall(r"\bgpu:(?:[^:,()\s]+:)?(\d+)", node.get("Gres", ""))
        gpus = sum(map(int, named)) or sum(len(gpu.units) for gpu in list_gpus())
        found["gpus"] = {"had": device["count"], "there": max(gpus, device["count"])}
    return found


def processor_name(listed: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model of this machine's processor, or its architecture where the system does not say."""
    text = listed.read_text(encoding="utf-8", errors="replace") if listed.is_file() else ""
    named = re.search(r"^model name\s*:\s*(\S.*?)\s*$", text, flags=re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def gpu_uuids() -> list[str]:
    """Return the UUIDs of the GPUs that CUDA, once started, gave this process."""
    cuda = sys.modules["torch"].cuda
    found = [getattr(cuda.get_device_properties(i), "uuid", None) for i in range(cuda.device_count())]
    return [str(uuid) for uuid in found if uuid is not None]


def gpu_memory() -> list[tuple[str, float]]:
    """Return name and gigabytes of each GPU of this machine; none where NVIDIA's tool does not answer."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE_S).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    pairs = [line.rpartition(",") for line in shown.splitlines()]
    return [(name, int(size) * 2**20 / 1e9) for name, _, size in pairs if size.strip().isdecimal()]


def _slurm_node() -> dict[str, str]:
    """Return what Slurm's controller says of this node; nothing outside of a job, or if it does not answer."""
    name = os.environ.get("SLURMD_NODENAME")
    if not name:
        return {}
    command = ["scontrol", "--oneliner", "show", "node", name]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE_S).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(re.findall(r"(\S+?)=(\S*)", shown))


def _usable_cores(groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the cores that affinity and control groups leave to this process."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((groups / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and int(period) > 0:  # "max" or -1: no limit
            cores = min(cores, int(quota) / int(period))
    return cores
