"""Energy that the machine itself measures while a job runs: NVML and RAPL, through codecarbon, offline.

codecarbon is optional (``pip install 'xrec-repro[energy]'``) and imported only where energy is metered. Whatever goes
wrong in it ends in a reason, never in a failed job.
"""

import importlib
import logging
from importlib import metadata
from typing import Any

log = logging.getLogger("xrec_repro")
_SAMPLE_S = 15


class Meter:
    """Meters this machine from construction until `stop`; it costs nothing if it is not `on`.

    RAPL counts all that runs on the node, NVML the GPUs that the process sees when metering starts, whoever uses them;
    `accounting.shares` takes the job's share.

    Args:
        reason: Why nothing is to be metered; None to meter.
    """

    def __init__(self, reason: str | None) -> None:
        self._reason, self._tracker = reason, None
        if reason is not None:
            return
        try:
            self._tracker = _start_tracker()
        except ImportError as error:
            self._reason = f"codecarbon cannot be imported ({error}); pip install 'xrec-repro[energy]'"
        except Exception as error:  # a meter must not fail a job
            self._reason = f"codecarbon failed to start ({type(error).__name__}: {error})"

    def stop(self) -> dict[str, Any]:
        """Stop metering.

        Returns:
            ``value``: kWh measured, or None with a ``reason``; ``source``: which counters; ``detected_power``: what
            codecarbon knows of the hardware, ``cpu`` and ``gpu``, each kw and source, or None. Estimates are never
            part of the value.
        """
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return {"value": None, "reason": self._reason or "the meter was stopped before", "detected_power": None}
        try:
            tracker.stop()
            return _reading(tracker)
        except Exception as error:  # likewise
            reason = f"codecarbon failed to read the energy ({type(error).__name__}: {error})"
            return {"value": None, "reason": reason, "detected_power": None}


def _start_tracker() -> Any:
    codecarbon = importlib.import_module("codecarbon")
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it greets before it reads its own log_level
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code="NLD",  # it asks for one; only its energies are used
        measure_power_secs=_SAMPLE_S,
        save_to_file=False,
        allow_multiple_runs=True,
        log_level="critical",
    )
    tracker.start()
    return tracker


def _reading(tracker: Any) -> dict[str, Any]:
    version = f"codecarbon {metadata.version('codecarbon')}"
    data = tracker.final_emissions_data
    parts = {type(part).__name__: part for part in tracker._hardware}
    measured: dict[str, float] = {}
    if "GPU" in parts and list(parts["GPU"]._get_gpu_ids()):  # it finds no slices of a GPU
        measured["NVML"] = data.gpu_energy
    if "CPU" in parts and parts["CPU"]._mode == "intel_rapl":
        measured["RAPL"] = data.cpu_energy
    found: dict[str, Any] = {"value": sum(measured.values()) if measured else None}
    if measured:
        found |= {"source": f"{' + '.join(measured)}, {version}", "parts": measured}
    else:
        found["reason"] = "this machine offers neither NVML nor readable RAPL counters"
    return found | {"detected_power": _detected_power(parts, version)}


def _detected_power(parts: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the rated power of the CPU by codecarbon's table (its default is no knowledge), and one GPU's limit."""
    found: dict[str, Any] = {"cpu": None, "gpu": None}
    tdp = importlib.import_module("codecarbon.core.cpu").TDP()
    watts = tdp._get_cpu_power_from_registry(tdp.model)
    if watts:
        found["cpu"] = {"kw": watts / 1000, "source": f"{version}, table: {tdp.model} {watts:g} W"}
    if "GPU" in parts:
        chosen = set(parts["GPU"]._get_gpu_ids())
        cards = parts["GPU"].devices.get_gpu_static_info()
        card = next((card for index, card in enumerate(cards) if index in chosen), None)
        if card and card["power_limit"]:
            limit = card["power_limit"]
            found["gpu"] = {"kw": limit / 1000, "source": f"{version}, power limit: {card['name']} {limit:g} W"}
    return found
