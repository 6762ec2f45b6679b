"""Equation 1 by hand, the published totals to the printed digits, and no guess for unknown hardware."""

import math
import re
import shutil

import pytest

from xrec_repro.accounting.emissions import (
    emissions_kg,
    find_hardware,
    job_emissions,
    load_hardware,
    power_of,
    published_totals,
    recompute_published_emissions,
)
from xrec_repro.errors import ConfigError, DataError

SETTINGS = {"carbon_intensity": 0.22, "pue": 1.2}  # the study's


def gpu(name: str) -> dict:
    return {"kind": "cuda", "name": name, "count": 1}


def test_equation_1_by_hand():
    # Ten hours at 0.91 kW are 9.1 kWh, 10.92 kWh with the centre's overhead.
    assert emissions_kg(36000, 0.91, 0.22, 1.2) == pytest.approx(10.92 * 0.22)
    assert emissions_kg(0, 0.91, 0.22, 1.2) == 0


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["seconds", "power_kw", "carbon_intensity", "pue"])
def test_impossible_factors_are_refused(name, value):
    factors = {"seconds": 1.0, "power_kw": 1.0, "carbon_intensity": 1.0, "pue": 1.0, name: value}
    with pytest.raises(DataError, match=f"emissions: {name} is"):
        emissions_kg(**factors)


def test_published_emissions_recomputed_from_published_times(root):
    rows = recompute_published_emissions(root / "resources", SETTINGS)
    assert len(rows) == 12
    xrec = next(row for row in rows if (row["dataset"], row["experiment"]) == ("Amazon-books", "XRec"))
    assert xrec["kg_equation1"] == pytest.approx(0.22 * 1.2 * 0.91 * (35698 + 29981) / 3600)
    assert (f"{xrec['kg_equation1']:.2f}", xrec["kg_printed"]) == ("4.38", 6.74)
    assert xrec["factor"] == pytest.approx(6.74 / xrec["kg_equation1"])
    yelp = next(row for row in rows if (row["dataset"], row["experiment"]) == ("Yelp", "XRec"))
    assert yelp["kg_equation1"] == pytest.approx(0.264 * (0.91 * 6645 + 0.65 * 6284) / 3600)
    totals = published_totals(root / "resources", rows)
    assert f"{totals['kg_equation1']:.2f}" == "24.54"
    assert f"{totals['kg_printed_cells']:.2f}" == "35.82"
    assert f"{totals['kg_printed']:.2f}" == "35.84"


def test_most_printed_cells_are_twice_the_power_of_the_gpu_alone(root):
    rows = recompute_published_emissions(root / "resources", SETTINGS)
    twice = {(r["dataset"], r["experiment"]) for r in rows if abs(r["kg_gpu_only_double"] - r["kg_printed"]) < 0.02}
    others = {(r["dataset"], r["experiment"]): r["factor_gpu_only"] for r in rows}
    others = {key: factor for key, factor in others.items() if key not in twice}
    assert set(others) == {
        ("Amazon-books", "XRec w/o embeddings"),
        ("Yelp", "XRec w/o profile"),
        ("Google-reviews", "XRec w/o profile"),
    }
    assert others["Amazon-books", "XRec w/o embeddings"] == pytest.approx(1, abs=0.02)
    for row in rows:
        assert row["kg_gpu_only"] < row["kg_equation1"]


def test_the_share_of_a_slice_leaves_the_published_recomputation_alone(root, tmp_path):
    shutil.copytree(root / "resources", tmp_path / "resources")
    file = tmp_path / "resources" / "hardware.tsv"
    file.write_text(file.read_text().replace("0.65\t0.40\t1.0\tstudy, section 4.4", "0.65\t0.40\t0.5\tmeasured"))
    hardware = load_hardware(tmp_path / "resources")
    assert power_of(gpu("NVIDIA A100-SXM4-40GB MIG 3g.20gb"), hardware, {}).kw == pytest.approx(0.325)
    rows = recompute_published_emissions(tmp_path / "resources", SETTINGS)
    assert rows == recompute_published_emissions(root / "resources", SETTINGS)


@pytest.mark.parametrize(
    ("name", "device", "kw"),
    [
        ("NVIDIA H100", "H100 node", 0.91),
        ("NVIDIA H100 80GB HBM3", "H100 node", 0.91),
        ("NVIDIA A100-SXM4-40GB", "A100 node", 0.65),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "A100 node, MIG slice", 0.65),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100 node, MIG slice", 0.91),
        ("NVIDIA H200", "H200 node", 0.91),
        ("NVIDIA L40S", "L40S node", 0.56),
        ("NVIDIA A10", "A10 node", 0.36),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 node", 0.66),
        ("NVIDIA GH200 480GB", "GH200 module", 1.0),
        ("NVIDIA GH200 144G HBM3e", "GH200 module", 1.0),
        ("AMD Instinct MI300X", "MI300X node", 0.96),
        ("AMD Instinct MI300X OAM", "MI300X node", 0.96),
    ],
)
def test_known_devices(root, name, device, kw):
    power = power_of(gpu(name), load_hardware(root / "resources"), {})
    assert (power.device, power.kw, power.reason) == (device, kw, None)


OTHERS = ["H100 PCIe", "H100 NVL", "A100 80GB PCIe", "H200 NVL", "L40", "A10G", "A10M", "B200", "GeForce RTX 4090 D"]


@pytest.mark.parametrize(
    "name",
    [*(f"NVIDIA {board}" for board in OTHERS), "NVIDIA GeForce RTX 4090 Laptop GPU", "AMD Instinct MI300A", ""],
)
def test_other_boards_are_not_taken_for_those(root, name):
    hardware = load_hardware(root / "resources")
    assert find_hardware(name, hardware) is None
    kg, reason = job_emissions(3600, gpu(name), hardware, SETTINGS)
    assert kg is None
    assert reason == f"the power of {name or 'unnamed'} is not known; state it in emissions.node_power_kw.cuda"


def test_the_power_of_a_node_is_that_of_the_card_and_the_host_of_its_source(root):
    rows = [row for row in load_hardware(root / "resources") if "MIG" not in row.device]
    for row in rows:
        host = re.search(r"(?:EPYC 9334|Xeon Platinum 8360Y) (\d+) W", row.source)
        assert row.node_power_kw - row.gpu_power_kw == pytest.approx(int(host[1]) / 1000 if host else 0), row.device
    assert len(rows) == 8


def test_power_can_be_stated_by_kind_or_name_and_name_comes_first(root):
    hardware = load_hardware(root / "resources")
    cpu = {"kind": "cpu", "name": "x86_64", "count": 0}
    assert job_emissions(3600, cpu, hardware, SETTINGS)[0] is None
    stated = SETTINGS | {"node_power_kw": {"cpu": 0.1, "NVIDIA H100": 0.5, "cuda": 2.0}}
    assert job_emissions(3600, cpu, hardware, stated) == (pytest.approx(0.0264), None)
    assert power_of(gpu("NVIDIA H100"), hardware, stated).kw == 0.5
    assert power_of(gpu("NVIDIA B200"), hardware, stated).kw == 2.0
    assert power_of(cpu, hardware, {"node_power_kw": None}).kw is None


def test_a_cpu_of_which_nothing_is_known_is_charged_an_assumption_that_is_named(root):
    hardware = load_hardware(root / "resources")
    cpu = {"kind": "cpu", "name": "x86_64", "count": 0}
    settings = SETTINGS | {"unknown_cpu_kw": 0.085, "sources": {"unknown_cpu_kw": "somebody's table"}}
    power = power_of(cpu, hardware, settings)
    assert (power.device, power.kw) == ("CPU (x86_64), power assumed", 0.085)
    assert power.source == "emissions.unknown_cpu_kw: somebody's table"
    assert job_emissions(3600, cpu, hardware, settings)[0] == pytest.approx(0.22 * 1.2 * 0.085)
    detected = {"cpu": {"kw": 0.2, "source": "a table"}, "gpu": None}
    assert power_of(cpu, hardware, settings, detected).source == "a table"
    assert power_of(cpu, hardware, settings | {"node_power_kw": {"cpu": 0.1}}).kw == 0.1
    assert power_of(gpu("NVIDIA B200"), hardware, settings).kw is None


@pytest.mark.parametrize("key", ["carbon_intensity", "pue"])
def test_missing_factors_are_named(root, key):
    settings = {name: value for name, value in SETTINGS.items() if name != key}
    for call in (
        lambda: job_emissions(1, gpu("NVIDIA H100"), load_hardware(root / "resources"), settings),
        lambda: recompute_published_emissions(root / "resources", settings),
    ):
        with pytest.raises(ConfigError, match=rf"emissions\.{key}: missing"):
            call()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pattern\t", "regex\t", "column 'pattern' is missing"),
        ("0.91\t0.70", "much\t0.70", "line 2: .*'much'"),
        ("0.91\t0.70", "0\t0.70", "line 2: needs a pattern, positive powers"),
        ("0.91\t0.70\t1.0", "0.91\t0.70\t1.5", "line 2: needs .* a share of at most 1"),
        ("^(NVIDIA )?H100", "^(NVIDIA ?H100", "line 2: "),
        ("^(NVIDIA )?H100( 80GB HBM3)?$", "", "line 2: needs a pattern"),
        ("^MIG$|", "", "no pattern matches 'MIG'"),
    ],
)
def test_a_wrong_hardware_file_is_named(root, tmp_path, old, new, message):
    shutil.copytree(root / "resources", tmp_path / "resources")
    file = tmp_path / "resources" / "hardware.tsv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=rf"hardware\.tsv.*{message}"):
        recompute_published_emissions(tmp_path / "resources", SETTINGS)
