"""Energy is metered where it can be, estimates are never taken for measurements, and a meter never fails a job."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from xrec_repro.accounting import energy
from xrec_repro.accounting.energy import Meter


class CPU:
    def __init__(self, mode):
        self._mode = mode


class GPU:
    def __init__(self):
        cards = [{"name": "H100", "power_limit": 700.0}, {"name": "H100", "power_limit": 600.0}]
        self.devices = SimpleNamespace(get_gpu_static_info=lambda: cards)

    chosen = (1,)

    def _get_gpu_ids(self):
        return self.chosen


class RAM:
    pass


@pytest.fixture
def codecarbon(monkeypatch):
    """A stand-in for the package, with the hardware that a test gives it."""
    package, cpu = ModuleType("codecarbon"), ModuleType("codecarbon.core.cpu")
    package.hardware, package.asked = [], None

    class OfflineEmissionsTracker:
        def __init__(self, **asked):
            package.asked = asked
            self._hardware = package.hardware
            self.final_emissions_data = SimpleNamespace(cpu_energy=0.25, gpu_energy=1.5, ram_energy=9.0)

        def start(self):
            pass

        def stop(self):
            if package.hardware == ["broken"]:
                raise RuntimeError("lost")

    package.OfflineEmissionsTracker = OfflineEmissionsTracker
    package.table = {"EPYC 9334": 210.0}
    registry = lambda model: package.table.get(model)  # noqa: E731
    cpu.TDP = lambda: SimpleNamespace(model="EPYC 9334", tdp=8, _get_cpu_power_from_registry=registry)
    for module in (package, cpu):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(energy.metadata, "version", lambda name: "3.3.2")
    return package


def test_a_meter_that_is_off_imports_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    assert Meter("emissions.energy is none").stop() == {
        "value": None, "reason": "emissions.energy is none", "detected_power": None,
    }  # fmt: skip


def test_without_codecarbon_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    read = Meter(None).stop()
    assert read["value"] is None
    assert "pip install 'xrec-repro[energy]'" in read["reason"]


def test_only_counters_count(codecarbon):
    codecarbon.hardware = [RAM(), CPU("intel_rapl"), GPU()]
    read = Meter(None).stop()
    assert read["value"] == 1.75
    assert read["parts"] == {"NVML": 1.5, "RAPL": 0.25}
    assert read["source"] == "NVML + RAPL, codecarbon 3.3.2"
    assert read["detected_power"] == {
        "cpu": {"kw": 0.21, "source": "codecarbon 3.3.2, table: EPYC 9334 210 W"},
        "gpu": {"kw": 0.6, "source": "codecarbon 3.3.2, power limit: H100 600 W"},
    }
    assert codecarbon.asked["save_to_file"] is False


def test_nvml_that_finds_none_of_the_jobs_gpus_measured_nothing(codecarbon, monkeypatch):
    """As with a slice (MIG): its sum is then 0, which is no measurement."""
    monkeypatch.setattr(GPU, "chosen", ())
    codecarbon.hardware = [CPU("cpu_load"), GPU()]
    assert Meter(None).stop()["value"] is None


def test_an_estimate_is_no_measurement_but_tells_the_power(codecarbon):
    codecarbon.hardware = [RAM(), CPU("cpu_load")]
    read = Meter(None).stop()
    assert read["value"] is None
    assert "neither NVML nor readable RAPL" in read["reason"]
    assert (read["detected_power"]["cpu"]["kw"], read["detected_power"]["gpu"]) == (0.21, None)
    codecarbon.table = {}
    assert Meter(None).stop()["detected_power"] == {"cpu": None, "gpu": None}


def test_what_fails_in_codecarbon_is_a_reason(codecarbon, monkeypatch):
    codecarbon.hardware = ["broken"]
    assert "failed to read the energy (RuntimeError: lost)" in Meter(None).stop()["reason"]
    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", lambda **asked: 1 / 0)
    assert "failed to start (ZeroDivisionError" in Meter(None).stop()["reason"]
