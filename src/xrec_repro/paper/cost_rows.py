"""The rows of table 3: what training and generation took, by the clocks of the jobs and of Slurm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec_repro.accounting.emissions import Hardware, find_hardware
from xrec_repro.accounting.jobs import total
from xrec_repro.errors import DataError
from xrec_repro.paper.rows import Entry
from xrec_repro.published import PublishedRun
from xrec_repro.scores import place_of


@dataclass(frozen=True)
class Phase:
    """Training or generation.

    Attributes:
        device: What it ran on, for people.
        seconds: How long it took, by the clock of the job itself; summed over parts.
        kw: Power of its node as a whole, in kW; None if it is not known.
        stopped_early: Whether training was stopped before its last example.
        kg: Its emissions by equation 1, in kg of CO2 equivalent; None if they are not known.
        reason: Why they are not known.
        slurm_seconds: What Slurm counts for it, attempts that failed included; None if Slurm did not count.
        failed: Attempts that failed before.
        energy_kwh: Metered, of the successful attempts; None if it was not.
        share: Part of the node's power that was charged, on average over the time; None of published rows.
    """

    device: str
    seconds: float
    kw: float | None
    stopped_early: bool = False
    kg: float | None = None
    reason: str | None = None
    slurm_seconds: float | None = None
    failed: int = 0
    energy_kwh: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class Cost:
    """A row of table 3.

    Attributes:
        block: Label of the data set.
        experiment: Its name.
        kind: ``published``, or one of `kinds.LABELS`.
        seed: Of the run; None for published rows, which do not say.
        few: Whether only a part of the test set was explained.
        train: None where nothing is trained.
        generate: Generation of the explanations.
        kg: Emissions of both by equation 1; None if they are not known.
        kg_printed: As published.
        n_test: Examples explained; None for published rows.
    """

    block: str
    experiment: str
    kind: str
    seed: int | None
    few: bool
    train: Phase | None
    generate: Phase
    kg: float | None
    kg_printed: float | None = None
    n_test: int | None = None

    @property
    def phases(self) -> list[Phase]:
        """Those it has."""
        return [phase for phase in (self.train, self.generate) if phase]


def published_cost(label: str, run: PublishedRun, recomputed: Mapping[str, Any], hardware: Sequence[Hardware]) -> Cost:
    """Return a row of the study's table 3.

    Args:
        label: Of its data set.
        run: The row.
        recomputed: The same of `recompute_published_emissions`.
        hardware: The known devices.
    """
    phases = [(run.train_gpu, run.train_seconds, run.train_early_stopped), (run.generate_gpu, run.generate_seconds)]
    train, generate = (
        Phase(gpu, seconds, find_hardware(gpu, hardware).node_power_kw, *rest) if gpu else None
        for gpu, seconds, *rest in phases
    )
    return Cost(
        block=label,
        experiment=run.experiment,
        kind="published",
        seed=None,
        few=run.generate_gpu == "MIG",  # so says the caption of the study's table 3
        train=train,
        generate=generate,
        kg=recomputed["kg_equation1"],
        kg_printed=run.co2_kg,
    )


def measured_cost(label: str, entry: Entry) -> Cost:
    """Return the row of an experiment of this run.

    Args:
        label: Of its data set.
        entry: As in `xrec_repro.paper.costs.make_table3`.

    Raises:
        DataError: An attempt that succeeded is missing.
    """
    place = f"table 3: {place_of(entry)}"
    train = None
    if entry["train"] is not None:
        train = _phase(f"{place}: training", entry["train"], entry["stopped_early"])
    generate = _phase(f"{place}: generation", entry["generate"])
    parts = [phase.kg for phase in (train, generate) if phase]
    return Cost(
        block=label,
        experiment=entry["experiment_label"],
        kind=entry["kind"],
        seed=entry["seed"],
        few=entry["few"],
        train=train,
        generate=generate,
        kg=None if None in parts else math.fsum(parts),
        n_test=entry["n_test"],
    )


def _phase(place: str, attempts: Sequence[Mapping[str, Any]], stopped_early: bool = False) -> Phase:
    done = [attempt for attempt in attempts if attempt["outcome"] == "done"]
    if not done:
        raise DataError(f"{place}: no successful attempt is known; run the rule collect_jobs again")
    seconds = math.fsum(attempt["seconds"] for attempt in done)
    shares = [attempt["share"] for attempt in done]
    reasons = dict.fromkeys(attempt["reason"] for attempt in done if attempt["reason"])
    return Phase(
        device=", ".join(dict.fromkeys(attempt["device"] for attempt in done)),
        seconds=seconds,
        kw=done[0]["power_kw"] if len({attempt["power_kw"] for attempt in done}) == 1 else None,
        stopped_early=stopped_early,
        kg=total(attempts, "kg_co2"),
        reason="; ".join(reasons) or None,
        slurm_seconds=total(attempts, "slurm_seconds"),
        failed=len(attempts) - len(done),
        energy_kwh=total(done, "energy_kwh"),
        share=None if None in shares else math.fsum(x["seconds"] * x["share"] for x in done) / (seconds or 1.0),
    )
