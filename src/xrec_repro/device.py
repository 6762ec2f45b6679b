"""The device of a job: the CPU, or GPUs of this machine that no other job has.

Where a machine has several GPUs, all jobs would take the first. A job therefore reserves its own by a lock on a file,
which ends with the process, however that ends, and hides the others from CUDA. Torch is imported where it is needed.
"""

import fcntl
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from xrec_repro.errors import ConfigError

log = logging.getLogger("xrec_repro")
# Of this machine alone and of all its users, where the system has such a folder.
LOCKS = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
_PATIENCE_S = 30
_held: list[int] = []  # locked files, open for as long as this process lives
_said: list[str] = []  # what is to be logged of them, once


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a slice of one (MIG).

    Attributes:
        name: What CUDA_VISIBLE_DEVICES calls it: its index, or for a slice its UUID.
        uuid: The same on every machine and under every scheduler; locks go by it.
        slices: Those that it is cut into; it cannot be used as a whole then.
    """

    name: str
    uuid: str
    slices: tuple["Gpu", ...] = ()

    @property
    def units(self) -> tuple["Gpu", ...]:
        """What a job can have of it: its slices, or itself."""
        return self.slices or (self,)


def pick_device(setting: str, gpus: int = 1) -> str:
    """Resolve ``auto`` to ``cuda`` where there is one, else ``cpu``, and reserve the GPUs of this process.

    Args:
        setting: ``auto``, ``cpu`` or ``cuda``.
        gpus: How many GPUs the job asked for.

    Raises:
        ConfigError: ``cuda`` was asked for and is not there.
    """
    if setting == "cpu":
        return "cpu"
    reserve_gpus(gpus)
    while _said:
        log.info(_said.pop(0))
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if setting != "auto":
        raise ConfigError(f"compute.device: {setting!r} is asked for but torch sees no GPU; set it to 'auto' or 'cpu'")
    return "cpu"


@lru_cache(maxsize=1)
def list_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine, those hidden from CUDA included; none where NVIDIA's tool does not answer.

    CUDA itself must not be asked: it reads CUDA_VISIBLE_DEVICES at the first question, and then never again.
    """
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(done.stdout)


def parse_gpus(printed: str) -> tuple[Gpu, ...]:
    """Read what ``nvidia-smi -L`` prints: a line a GPU, and below it, indented, a line a slice."""
    found: list[tuple[str, str, list[Gpu]]] = []
    for line in printed.splitlines():
        if match := re.match(r"GPU (\d+): .*\(UUID: (\S+)\)", line):
            found.append((match[1], match[2], []))
        elif found and (match := re.match(r"\s+MIG .*\(UUID: (\S+)\)", line)):
            found[-1][2].append(Gpu(match[1], match[1]))
    return tuple(Gpu(index, uuid, tuple(slices)) for index, uuid, slices in found)


def visible_gpus(gpus: Sequence[Gpu], names: str | None) -> list[Gpu]:
    """Return what a process can use.

    Args:
        gpus: Those of the machine.
        names: CUDA_VISIBLE_DEVICES: indices, or UUIDs or their beginnings, of GPUs or slices; None if it is not set.
            As CUDA does, what follows an unknown name is passed over.
    """
    if names is None:
        return [unit for gpu in gpus for unit in gpu.units]
    found: list[Gpu] = []
    for name in map(str.strip, names.split(",")):
        units = [unit for gpu in gpus if _named(gpu, name) for unit in gpu.units]
        units += [part for gpu in gpus for part in gpu.slices if _named(part, name)]
        if not units:
            break
        found += units
    return list(dict.fromkeys(found))


def _named(gpu: Gpu, name: str) -> bool:
    return name == gpu.name or (name.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(name))


def reserve_gpus(count: int = 1) -> None:
    """Reserve GPUs for this process, once, and hide the others from CUDA, which must not have been started.

    Where all are taken, those with the fewest jobs are shared, and `pick_device` logs it. Where a scheduler gave this
    job its GPU there is nothing to choose, and nothing is done.

    Args:
        count: How many.
    """
    torch = sys.modules.get("torch")
    if _held or (torch is not None and torch.cuda.is_initialized()):
        return
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible_gpus(list_gpus(), names)
    if not gpus or ("SLURM_JOB_ID" in os.environ and len(gpus) <= count):
        return
    try:
        taken = take_gpus(gpus, count, LOCKS)
    except OSError as error:
        _said.append(f"no GPU is reserved, so jobs may meet on one: {error}")
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.name for gpu, _ in taken)
    if names is None:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of the indices that were listed
    for gpu, others in taken:
        how = f"shared with {others} other job{'s' * (others > 1)}, as all are taken" if others else "reserved"
        _said.append(f"GPU {gpu.name} ({gpu.uuid}) is {how}")


def take_gpus(gpus: Sequence[Gpu], count: int, folder: Path) -> list[tuple[Gpu, int]]:
    """Lock the GPUs with the fewest jobs until this process ends.

    Args:
        gpus: Those to choose from.
        count: How many; all, if there are fewer.
        folder: Of the locks: a file for each job that a GPU has, the first free one is taken.

    Returns:
        The GPUs, each with the number of other jobs that have it.

    Raises:
        OSError: A lock cannot be opened.
    """
    door = _open(folder / "xrec-repro-gpus.lock")
    try:
        fcntl.flock(door, fcntl.LOCK_EX)  # one chooses at a time
        offers = [(gpu, *_offer(folder, gpu)) for gpu in gpus]
        offers.sort(key=lambda offer: offer[1])
        for _, _, lock in offers[count:]:
            os.close(lock)
        _held.extend(lock for _, _, lock in offers[:count])
        return [(gpu, others) for gpu, others, _ in offers[:count]]
    finally:
        os.close(door)


def _offer(folder: Path, gpu: Gpu) -> tuple[int, int]:
    """Return how many jobs have a GPU, and the first free one of its files, locked."""
    others, own, place = 0, None, 0
    while own is None or (folder / f"xrec-repro-gpu-{gpu.uuid}.{place}").exists():
        lock = _open(folder / f"xrec-repro-gpu-{gpu.uuid}.{place}")
        place += 1
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            others += 1
            continue
        if own is None:
            own = lock
        else:
            os.close(lock)
    return others, own


def _open(path: Path) -> int:
    try:  # Linux refuses O_CREAT on the file of another user where all may write
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        made = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        os.fchmod(made, 0o644)  # whatever the user's mask: others lock it too
        return made
