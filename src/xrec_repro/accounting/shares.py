"""The share of its machine that a job is charged, so that jobs side by side add up to the machine and no more.

A job had some of the cores and GPUs that there are; its provenance says how many (`accounting.machine`). Where jobs of
the run were given more at one time than there is (a GPU that several shared, more cores than the machine has), each
moment is divided among those that ran in it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec_repro.accounting.emissions import Power, slice_of

Hold = tuple[float, float, float]  # start and end in seconds since 1970, and the part of the whole that was given


@dataclass(frozen=True)
class Share:
    """What of its machine an attempt is charged.

    Attributes:
        cores: Part of the cores, in [0, 1].
        gpus: GPUs, or slices of one; less than it saw, where others shared them.
        of_gpus: The same as a part of all that there are.
        each: Part of each of them that was its own, in (0, 1].
        source: Why, for people.
        whole: Whether the machine is charged as a whole, whatever it had.
    """

    cores: float = 1.0
    gpus: float = 1.0
    of_gpus: float = 1.0
    each: float = 1.0
    source: str = ""
    whole: bool = False

    def of_power(self, power: Power) -> float | None:
        """Return the part of a node's power (`Power.kw`) that is charged; None if the power is not known."""
        if power.kw is None:
            return None
        if self.whole:
            return 1.0
        if power.host_kw is None:  # stated for a node with GPUs, and what the host draws of it is not known
            return self.of_gpus
        return (power.gpu_kw * self.gpus + power.host_kw * self.cores) / power.kw

    def of_energy(self, energy: Mapping[str, Any], device: Mapping[str, Any]) -> float | None:
        """Return the job's part of what was metered, in kWh: of the node's processors, and of the GPUs it saw.

        Args:
            energy: ``energy_kwh`` of a provenance.
            device: As in a provenance: kind and name.
        """
        parts = energy.get("parts")
        if self.whole or not parts:
            return energy.get("value")
        own = self.each * slice_of(device["name"]) if device["kind"] == "cuda" else 0.0
        return parts.get("RAPL", 0.0) * self.cores + parts.get("NVML", 0.0) * own


def shares_of(lines: Sequence[Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]], charge: str) -> list[Share]:
    """Return the share of each attempt.

    Args:
        lines: Attempts, as `accounting.jobs` makes them: provenance, node, start, end and slurm_job. What Slurm
            allocated belongs to one job alone, so only the others are compared with each other.
        records: Path -> provenance.
        charge: ``share``, or ``node``: all of the machine.
    """
    machines = [records[line["provenance"]]["machine"] for line in lines]
    if charge == "node":
        return [Share(whole=True, source="whole machine: emissions.charge is node")] * len(lines)
    pools: dict[tuple[str, ...], dict[int, Hold]] = defaultdict(dict)
    for i, (line, machine) in enumerate(zip(lines, machines, strict=True)):
        if line["slurm_job"] is None and _knows(machine):
            cores = machine["cores"]["had"] / machine["cores"]["there"]
            pools[line["node"],][i] = (line["start"], line["end"], cores)
            for uuid in machine["device"].get("uuids") or []:
                pools[line["node"], uuid][i] = (line["start"], line["end"], 1.0)
    own: dict[tuple[int, bool], list[float]] = defaultdict(list)
    for key, members in pools.items():
        for i, part in zip(members, own_parts(members.values()), strict=True):
            own[i, len(key) > 1].append(part)
    return [_share(machine, own[i, False], own[i, True]) for i, machine in enumerate(machines)]


def _knows(machine: Mapping[str, Any]) -> bool:
    return isinstance(machine.get("cores"), Mapping)


def _share(machine: Mapping[str, Any], own_cores: Sequence[float], own_gpus: Sequence[float]) -> Share:
    """Return what one attempt had, of which others had a part at the same time."""
    if not _knows(machine):
        return Share(whole=True, source="whole machine: its provenance does not say what the job had of it")
    cores, gpus = machine["cores"], machine.get("gpus") or {"had": 0, "there": 1}
    each = sum(own_gpus) / len(own_gpus) if own_gpus else 1.0
    of_cores = own_cores[0] if own_cores else 1.0
    source = f"{cores['had']:g} of {cores['there']:g} cores"
    source += f", {gpus['had']:g} of {gpus['there']:g} GPUs" if gpus["had"] else ""
    source += " (shared with other jobs)" if min(each, of_cores) < 1 else ""
    return Share(
        cores=cores["had"] / cores["there"] * of_cores,
        gpus=gpus["had"] * each,
        of_gpus=gpus["had"] / gpus["there"] * each,
        each=each,
        source=source,
    )


def own_parts(holds: Iterable[Hold]) -> list[float]:
    """Return which part of what each was given was its own, on average over its time.

    At a moment when more than the whole is given, each has what it was given divided by all that is given.
    """
    holds = list(holds)
    changes: dict[float, float] = defaultdict(float)
    for start, end, given in holds:
        changes[start] += given
        changes[end] -= given
    until: dict[float, float] = {}  # moment -> seconds before it, each weighted by the part that was one's own
    weighted, load, before = 0.0, 0.0, 0.0
    for moment in sorted(changes):
        weighted += (moment - before) / max(1.0, load) if until else 0.0
        load, before = round(load + changes[moment], 9), moment
        until[moment] = weighted
    # Times since 1970 have some 1e-7 s, so that what is nearly all is all.
    return [round((until[end] - until[start]) / (end - start), 6) if end > start else 1.0 for start, end, _ in holds]
