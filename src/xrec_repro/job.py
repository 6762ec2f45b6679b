"""One workflow job around one library call: log, threads, one-line errors, signals, provenance.

The only module that knows what the object handed to workflow scripts looks like (its input, output, params,
wildcards, log and rule attributes); it imports nothing of Snakemake.
"""

import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

from xrec_repro.device import pick_device, reserve_gpus
from xrec_repro.errors import XRecError
from xrec_repro.identity import Told
from xrec_repro.interrupt import ends_cleanly, stoppable
from xrec_repro.io import remove_scraps
from xrec_repro.provenance import JobRecord

log = logging.getLogger("xrec_repro")


class _Sparing:
    """Spares the jobs that load a model of transformers a second or two each, on the path of what Python imports.

    It imports scikit-learn, pandas and scipy for assisted generation and for losses of object detection, where it finds
    them. Nothing here uses either.
    """

    WANTED_BY = ("transformers.generation.candidate_generator", "transformers.loss.loss_for_object_detection")

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> None:
        """Find nothing, but before one of `WANTED_BY` is imported let transformers know of neither package."""
        if name in cls.WANTED_BY:
            known = sys.modules["transformers.utils.import_utils"]
            known._sklearn_available = known._scipy_available = False


class Job:
    """Context of a job: ``with Job(snakemake) as job: job.result = stage(job.input.x, job.settings, job.output.y)``.

    It first checks that the inputs are what their makers' provenance says. On success it writes
    ``job.output.provenance``. An `XRecError` becomes one line in the log and on standard error. SIGTERM and SIGINT end
    it with a code other than 0: at once, or where the library has saved what it had (`xrec_repro.interrupt`).

    Attributes:
        input: Paths by name.
        output: Paths by name.
        params: The rule's parameters by name, also those that it is only told (`identity.Told`).
        settings: ``params.settings``, with the settings that change nothing of ``params.neutral``.
        seed: The run's seed as an integer, or None for rules that are run once a data set.
        result: What the stage reports of itself; goes into the provenance.
    """

    def __init__(self, snakemake: Any) -> None:
        if _Sparing not in sys.meta_path:
            sys.meta_path.insert(0, _Sparing)
        self.rule = snakemake.rule
        self.input, self.output = _paths(snakemake.input), _paths(snakemake.output)
        told = {name: p.value if isinstance(p, Told) else p for name, p in snakemake.params.items()}
        self.params = SimpleNamespace(**told)
        if hasattr(self.params, "metric_columns"):
            from xrec_repro.metrics.columns import declare  # what a rule of the paper stage knows of scores

            declare(self.params.metric_columns)
        self._compute = getattr(self.params, "compute", None) or {}
        self.settings = self.params.settings
        if neutral := getattr(self.params, "neutral", None):
            from xrec_repro.config import merge  # most jobs need no checker of schemas

            self.settings = merge(self.settings, neutral)
        self.wildcards = snakemake.wildcards
        self.seed = int(self.wildcards.seed) if "seed" in dict(self.wildcards.items()) else None
        self.result: dict[str, Any] = {}
        self._device: str | None = None
        self._signals = ExitStack()
        self._log_file = Path(str(snakemake.log[0]))
        self._gpus = max(1, int(getattr(getattr(snakemake, "resources", None), "gpu", 0)))
        if self._compute.get("device", "cpu") != "cpu":
            reserve_gpus(self._gpus)  # before metering starts: it counts the GPUs that it sees then
        self._record = JobRecord(
            self.rule,
            self.settings,
            _flat(self.input),
            self.seed,
            self.params.code,
            self._log_file.with_suffix(".attempts.json"),
            _unmetered(snakemake, self._compute),
            getattr(snakemake, "threads", None),
        )

    @property
    def fingerprint(self) -> str:
        """Digest of all that the outputs depend on; checkpoints carry it. The device must have been chosen before."""
        return self._record.fingerprint(self._device, getattr(self.params, "compute", None))

    def reads(self, path: str | Path) -> Path:
        """Record a file or folder that a rule does not declare, because only the job can tell whether it is there."""
        return self._record.reads(Path(path))

    def device(self) -> str:
        """Set torch's threads and return the device to use, which the provenance then names."""
        self.set_threads()
        self._device = pick_device(self._compute["device"], self._gpus)
        return self._device

    def set_threads(self) -> None:
        """Set the threads of torch, which is all that a job needs that runs its model on the CPU alone.

        They come from the configuration, not from the machine, because they can change the last bits of sums.
        """
        import torch

        torch.set_num_threads(self._compute["threads"])

    def __enter__(self) -> "Job":
        # Data are tokenised before anything forks; the library's warning about it would only fill the log.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self._log_file, mode="w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.info("%s starts", self.rule)
        self._signals.enter_context(ends_cleanly())
        for path in _flat(self.output).values():
            remove_scraps(path)
        try:
            self._record.check_inputs()
        except XRecError as error:
            self.__exit__(type(error), error, None)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._signals.close()
        if error is None:
            with stoppable():  # a moment more, and nothing that was done is lost
                self._succeed()
            return
        self._record.abandon()
        if isinstance(error, XRecError):
            log.error("%s", error)
            print(f"{self.rule}: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        if isinstance(error, SystemExit):
            log.error("%s: ended by a signal; run the rule again", self.rule)
        else:
            log.exception("%s failed", self.rule)

    def _succeed(self) -> None:
        outputs = {name: path for name, path in _flat(self.output).items() if name != "provenance"}
        self._record.write(self.output.provenance, outputs, self.result, self._device)
        log.info("%s done: %s", self.rule, self.result)


def _unmetered(snakemake: Any, compute: dict[str, Any]) -> str | None:
    """Return why the job's energy is not metered, or None to meter it."""
    if getattr(snakemake, "config", {}).get("emissions", {}).get("energy", "none") == "none":
        return "emissions.energy is none"
    return None if compute else "a rule that runs no model is not metered"


def _paths(named: Any) -> SimpleNamespace:
    """Turn named files into paths; a name that stands for several files becomes a list of them."""
    return SimpleNamespace(
        **{name: Path(value) if isinstance(value, str) else [Path(v) for v in value] for name, value in named.items()}
    )


def _flat(files: SimpleNamespace) -> dict[str, Path]:
    flat = {}
    for name, value in vars(files).items():
        parts = {name: value} if isinstance(value, Path) else {f"{name}.{i}": v for i, v in enumerate(value)}
        flat.update(parts)
    return flat
