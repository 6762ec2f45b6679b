"""Table 3: published and measured times side by side, emissions by one equation, and totals that add up."""

import csv
from pathlib import Path

import pytest

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.paper.costs import make_table3

EMISSIONS = {"carbon_intensity": 0.22, "pue": 1.2, "sources": {"pue": "Groeneveld, 2017"}}
H100 = {"kind": "cuda", "name": "NVIDIA H100 80GB HBM3", "count": 1}
MIG = "A100 node, MIG slice"
UNKNOWN = "the power of CPU (x86_64) is not known; state it in emissions.node_power_kw.cpu"
CPU = {"kind": "cpu", "name": "x86_64", "count": 0}
ALL = {"amazon": "Amazon-books", "yelp": "Yelp", "google": "Google-reviews"}


def job(seconds: float, device: dict = H100, kw: float | None = 0.91, **changes) -> list[dict]:
    """The attempts at a job, one of which `accounting.jobs.account` makes a line."""
    name = {"cuda": "H100 node", "cpu": "CPU (x86_64)"}[device["kind"]] if "MIG" not in device["name"] else MIG
    line = {"outcome": "done", "device": name, "seconds": seconds, "charged_seconds": seconds, "power_kw": kw}
    line |= {"share": None if kw is None else 0.25, "slurm_seconds": None, "energy_kwh": None}
    line |= {"reason": None, "rule": "r", "provenance": "p"}
    line |= {"kg_co2": None if kw is None else 0.22 * 1.2 * kw * seconds / 3600} | changes
    return [line | {"reason": UNKNOWN if kw is None else None}]


def entry(dataset: str = "amazon", **changes) -> dict:
    base = {"dataset": dataset, "dataset_label": dataset.title(), "experiment": "xrec", "experiment_label": "XRec"}
    base |= {"seed": 1, "kind": "measured", "few": False, "n_test": 3000}
    return base | {"train": job(7200), "stopped_early": False, "generate": job(3600)} | changes


def make(tmp_path: Path, root: Path, entries: list[dict], names: dict | None = None, emissions=EMISSIONS) -> tuple:
    files = [tmp_path / f"table3.{ending}" for ending in ("csv", "md", "tex")]
    make_table3(entries, names or {}, root / "resources", emissions, *files, ["A note."])
    with files[0].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    markdown = files[1].read_text(encoding="utf-8")
    table = [[c.strip() for c in line.strip("|").split(" | ")] for line in markdown.split("\n") if line[:1] == "|"]
    return rows, markdown, table[2:], files[2].read_text(encoding="utf-8")


def test_times_and_emissions_of_a_measured_row(tmp_path, root):
    rows, markdown, table, tex = make(tmp_path, root, [entry()])
    assert table[1:] == [
        ["XRec", "this run", "H100 node", "2:00:00", "H100 node", "1:00:00", "0.72"],
        ["Total of these rows", "this run", "", "2:00:00", "", "1:00:00", "0.72"],
    ]
    assert float(rows[0]["kg_co2"]) == pytest.approx(0.22 * 1.2 * 0.91 * 3)
    assert float(rows[0]["train_kg_co2"]) == pytest.approx(2 * float(rows[0]["generate_kg_co2"]))
    assert "PUE 1.2 (Groeneveld, 2017)" in markdown
    assert "- Power of a node: H100 node 0.91 kW." in markdown
    assert "- A note." in markdown
    assert "\\midrule\nTotal of these rows & this run" in tex


def test_the_share_that_was_charged_is_said(tmp_path, root):
    two = [*job(3600, share=0.5), *job(1800, share=1.0)]
    rows, markdown, _, _ = make(tmp_path, root, [entry(generate=two)])
    assert "by the cores and GPUs that it had (25% to 67% of the node's power)" in markdown
    assert (float(rows[0]["train_share"]), float(rows[0]["generate_share"])) == (0.25, pytest.approx(2 / 3))
    _, markdown, _, _ = make(tmp_path, root, [entry()], emissions=EMISSIONS | {"charge": "node"})
    assert "- A job is charged the whole node, as in the study" in markdown
    assert "its share" not in markdown


def test_published_rows_stand_beside_and_add_up_to_both_totals(tmp_path, root):
    entries = [entry(name) for name in ALL]
    rows, markdown, table, _ = make(tmp_path, root, entries, ALL)
    assert [row["kind"] for row in rows].count("published") == 12
    assert table[1] == ["XRec", "study", "H100", "9:54:58", "H100", "8:19:41", "4.38", "6.74"]
    total = next(cells for cells in table if cells[:2] == ["Total of these rows", "study"])
    assert total[6:] == ["24.54", "35.82"]
    assert (
        "gives 24.54 kg for all rows of its table; the printed cells sum to 35.82 kg, and its text says 35.84 kg"
        in (markdown)
    )
    assert table[-1] == ["Total of these rows", "this run", "", "6:00:00", "", "3:00:00", "2.16", "–"]


def test_subsets_and_early_stops_are_marked(tmp_path, root):
    one = entry("yelp", few=True, train=job(60), stopped_early=True)
    rows, markdown, table, _ = make(tmp_path, root, [one], ALL)
    assert [cells[0] for cells in table[1:4]] == ["XRec†", "XRec w/o profile†", "XRec†"]
    assert [cells[3] for cells in table[1:4]] == ["1:50:45‡", "2:34:56‡", "0:01:00‡"]
    assert [row["train_stopped_early"] for row in rows] == ["1", "1", "1"]
    assert [row["few"] for row in rows] == ["1", "1", "1"]
    assert "† In this run, only a part of the test set was explained." in markdown
    assert "‡ Training was stopped early." in markdown
    _, markdown, _, _ = make(tmp_path, root, [entry()])
    assert "†" not in markdown
    assert "‡" not in markdown


def test_an_experiment_without_tuning_costs_its_generation(tmp_path, root):
    rows, _, table, _ = make(tmp_path, root, [entry(train=None)])
    assert table[1][2:] == ["none", "–", "H100 node", "1:00:00", "0.24"]
    assert rows[0]["train_seconds"] == rows[0]["train_kg_co2"] == ""
    assert float(rows[0]["kg_co2"]) == pytest.approx(0.264 * 0.91)


def test_unknown_power_gives_no_number_but_a_reason(tmp_path, root):
    on_cpu = entry(experiment="b", experiment_label="B", kind="demo")
    on_cpu |= {"train": job(30, CPU, None), "generate": job(9, CPU, None)}
    rows, markdown, table, _ = make(tmp_path, root, [on_cpu])
    assert (table[1][-1], table[-1][-1], rows[0]["kg_co2"]) == ("–", "–", "")
    assert rows[0]["reason"] == "the power of CPU (x86_64) is not known; state it in emissions.node_power_kw.cpu"
    assert "state it in emissions.node\\_power\\_kw.cpu" in markdown
    known = on_cpu | {"train": job(30, CPU, 0.1), "generate": job(9, CPU, 0.1)}
    rows, _, table, _ = make(tmp_path, root, [known])
    assert float(rows[0]["kg_co2"]) == pytest.approx(0.264 * 0.1 * 39 / 3600)
    assert table[1][-1] == "0.00029"


def test_a_total_of_partly_unknown_emissions_is_a_lower_bound(tmp_path, root):
    entries = [entry(), entry(experiment="b", experiment_label="B", generate=job(9, CPU, None))]
    _, _, table, tex = make(tmp_path, root, entries)
    assert [cells[-1] for cells in table[1:]] == ["0.72", "–", "≥ 0.72"]
    assert "$\\ge$ 0.72" in tex


def test_slices_are_named_as_an_upper_bound(tmp_path, root):
    mig = {"kind": "cuda", "name": "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "count": 1}
    _, markdown, table, _ = make(tmp_path, root, [entry(train=None, generate=job(3600, mig, 0.65))])
    assert table[1][4:] == ["A100 node, MIG slice", "1:00:00", "0.17"]
    assert "an upper bound" in markdown


def test_each_seed_has_its_row_and_the_demo_its_warning(tmp_path, root):
    entries = [entry(kind="demo"), entry(kind="demo", seed=2, generate=job(7200))]
    rows, markdown, table, _ = make(tmp_path, root, entries)
    assert [cells[1] for cells in table[1:]] == [
        "this run (demo), seed 1",
        "this run (demo), seed 2",
        "this run (demo)",
    ]
    assert table[-1][3::2] == ["4:00:00", "3:00:00"]
    assert [row["seed"] for row in rows] == ["1", "2"]
    assert "trained on the spot" in markdown


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "there is nothing to print"),
        ([entry(), entry()], "table 3: amazon/xrec/seed1 is given twice"),
        ([entry(train=[])], "table 3: amazon/xrec/seed1: training: no successful attempt is known"),
        ([entry(generate=[{"outcome": "failed"}])], "seed1: generation: no successful attempt is known"),
        ([entry(), entry("b", dataset_label="Amazon")], "'Amazon' names another data set too"),
    ],
)
def test_entries_that_cannot_be_printed_are_refused(tmp_path, root, entries, message):
    with pytest.raises(DataError, match=message):
        make(tmp_path, root, entries)
    assert not list(tmp_path.iterdir())


def test_settings_and_names_are_checked(tmp_path, root):
    with pytest.raises(ConfigError, match=r"emissions\.pue: missing"):
        make(tmp_path, root, [entry()], emissions={"carbon_intensity": 0.22})
    with pytest.raises(DataError, match=r"datasets\.amazon\.published_as: .*'Amazon'; known"):
        make(tmp_path, root, [entry()], {"amazon": "Amazon"})


def test_slurms_time_stands_beside_and_failed_attempts_are_charged(tmp_path, root):
    failed = job(50, slurm_seconds=58.0, kg_co2=0.264 * 0.91 * 58 / 3600)[0] | {"outcome": "failed"}
    train = [failed, *job(7200, slurm_seconds=7207.0, kg_co2=0.264 * 0.91 * 7207 / 3600)]
    generate = job(3600, slurm_seconds=3606.0, kg_co2=0.264 * 0.91 * 3606 / 3600)
    one = entry(train=train, generate=generate)
    two = entry(experiment="b", experiment_label="B", train=None)
    rows, markdown, table, _ = make(tmp_path, root, [one, two])
    assert (rows[0]["train_seconds"], rows[0]["train_slurm_seconds"]) == ("7200.0", "7265.0")
    assert (rows[0]["train_failed_attempts"], rows[0]["generate_failed_attempts"]) == ("1", "0")
    assert (rows[0]["generate_slurm_seconds"], rows[1]["generate_slurm_seconds"]) == ("3606.0", "")
    assert float(rows[0]["train_kg_co2"]) == pytest.approx(0.22 * 1.2 * 0.91 * (7207 + 58) / 3600)
    assert float(rows[0]["kg_co2"]) == pytest.approx(0.22 * 1.2 * 0.91 * (7207 + 58 + 3606) / 3600)
    assert table[1][2:] == ["H100 node", "2:00:00", "2:01:05", "H100 node", "1:00:00", "1:00:06", "1", "0.73"]
    assert table[2][2:] == ["none", "–", "–", "H100 node", "1:00:00", "–", "0", "0.24"]
    assert table[3][2:] == ["", "2:00:00", "2:01:05", "", "2:00:00", "–", "1", "0.97"]
    assert "charged (2 of the 3 here; the others are charged their own times)" in markdown
    assert "at these jobs that failed or were killed: 1." in markdown


def test_without_slurm_the_note_says_so(tmp_path, root):
    _, markdown, table, _ = make(tmp_path, root, [entry()])
    assert "Slurm has no record of the jobs of these rows, so their own times are charged." in markdown
    assert len(table[1]) == 7


def test_generation_in_parts_is_summed(tmp_path, root):
    rows, _, table, _ = make(tmp_path, root, [entry(generate=job(1000) + job(2600))])
    assert rows[0]["generate_seconds"] == "3600.0"
    assert table[1][4:] == ["H100 node", "1:00:00", "0.72"]


def test_metered_energy_and_equivalents(tmp_path, root):
    car = {"label": "car km", "kg": 0.1067, "source": "study, section 4.4"}
    one = entry(train=job(7200, energy_kwh=1.25), generate=job(3600, energy_kwh=0.5))
    rows, markdown, table, _ = make(tmp_path, root, [one], emissions=EMISSIONS | {"equivalents": [car]})
    assert table[1][-2:] == ["1.75", "0.72"]
    assert float(rows[0]["car km"]) == pytest.approx(0.22 * 1.2 * 0.91 * 3 / 0.1067)
    assert "The 0.72 kg of this run's rows are 6.75 car km (study, section 4.4)." in markdown


def test_the_whole_run_is_summed_in_a_note(tmp_path, root):
    files = [tmp_path / f"table3.{ending}" for ending in ("csv", "md", "tex")]
    jobs = [*job(3600), *job(60), job(40)[0] | {"outcome": "failed"}]
    make_table3([entry()], {}, root / "resources", EMISSIONS, *files, jobs=jobs)
    assert "2 jobs, 1 failed attempts, 1:01:40 of jobs' time, 0.25 kg;" in files[1].read_text(encoding="utf-8")
