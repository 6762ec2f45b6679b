"""Print what each switch of config/deviations.yaml changes, measured in a finished run of it, as a Markdown table.

``python docs/deviations.py results/deviations --write docs/deviations.md`` also puts it between the page's markers.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from xrec_repro.config import experiment_pairs, load_config
from xrec_repro.errors import DataError, XRecError
from xrec_repro.estimates import estimates
from xrec_repro.io import read_json
from xrec_repro.markdown import fill
from xrec_repro.paper.render import number, p_value, span, text_table
from xrec_repro.scores import Run, load_runs
from xrec_repro.statistic_settings import Settings
from xrec_repro.statistics import Comparison, compare_runs, corrected

ROOT = Path(__file__).resolve().parents[1]
COMPARED = "faithfulness_f1"
SHOWN = (COMPARED, "bertscore_f1", "usr")
HEADS = ("N", "validation loss", "faithfulness F1", "interval", "difference", "p (Holm)", "BERTScore F1", "USR")


def table(config: Mapping[str, Any], folder: Path) -> str:
    """Return the table of a run: one line an experiment, named by its overrides and compared with the reference.

    Args:
        config: Of the run; `statistics.reference` is the experiment that flips no switch.
        folder: Of the run.

    Raises:
        DataError: The reference is not in the run, or a file is missing or unusable.
    """
    settings = replace(Settings.from_settings(config["statistics"]), primary=[COMPARED])  # one metric, one family
    runs = load_runs(_rows(config, folder))
    bases = {run.dataset: run for run in runs if run.experiment == settings.reference}
    others = [run for run in runs if run.experiment != settings.reference]
    for run in others:
        if run.dataset not in bases:
            raise DataError(f"{folder}: {run.dataset} has no {settings.reference}; name it in run.experiments")
    tested = corrected([_compare(run, bases[run.dataset], settings) for run in others], settings)
    compared = {(run.dataset, run.experiment): one for run, one in zip(others, tested, strict=True)}
    lines = [_line(config, folder, run, compared.get((run.dataset, run.experiment)), settings) for run in runs]
    seeds = ", ".join(map(str, config["run"]["seeds"]))
    note = (
        f"Seeds: {seeds}. Difference: of faithfulness F1 to the first line's. Interval: {settings.confidence:.0%}, "
        f"{settings.interval} bootstrap over the test examples. p: two-sided, paired {settings.test} test, corrected "
        f"by Holm for all {len(tested)} lines. Both speak of the choice of test examples, not of another training."
    )
    return text_table("Measured in the demo", ["switch"], HEADS, lines, [note])


def _rows(config: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    for dataset, experiment in experiment_pairs(config):
        for seed in config["run"]["seeds"]:
            files = folder / dataset / experiment / f"seed{seed}" / "metrics"
            yield {
                "dataset": dataset,
                "dataset_label": config["datasets"][dataset]["label"],
                "published_as": None,
                "experiment": experiment,
                "experiment_label": config["experiments"][experiment]["label"],
                "seed": seed,
                "kind": "demo",
                "summary": files / "summary.json",
                "scores": files / "scores.parquet",
            }


def _compare(run: Run, base: Run, settings: Settings) -> Comparison:
    found = [one for one in compare_runs(run, base, settings, [COMPARED]) if one.aspect == "mean"]
    if not found:
        raise DataError(f"{run.files[0]}: {COMPARED} is missing; add faithfulness to metrics.use")
    return found[0]


def _line(
    config: Mapping[str, Any], folder: Path, run: Run, compared: Comparison | None, settings: Settings
) -> tuple[str, list[str]]:
    scores = estimates(run.files, [name for name in SHOWN if name in run.signatures], settings, run.corpus)
    found = {one.metric: one for one in scores}
    first = found[COMPARED]
    means = [number(found[name].mean if name in found else None) for name in SHOWN[1:]]
    difference = ["–", "–"] if compared is None else [f"{compared.difference:+.4f}", p_value(compared.p_holm)]
    loss = number(_validation_loss(folder, run))
    switch = ", ".join(switches(config["experiments"][run.experiment]["overrides"]))
    cells = [switch or f"none ({run.label})", str(first.n), loss, number(first.mean)]
    return "", [*cells, span(first.mean_low, first.mean_high), *difference, *means]


def switches(overrides: Mapping[str, Any]) -> list[str]:
    """Return overrides as ``section.key: value``, as a configuration has them."""
    found = []
    for section, chosen in overrides.items():
        parts = {f"{section}.{key}": value for key, value in chosen.items()} if isinstance(chosen, Mapping) else None
        found += [f"{place}: {value}".replace("'", "") for place, value in (parts or {section: chosen}).items()]
    return found


def _validation_loss(folder: Path, run: Run) -> float | None:
    """Return the mean over the seeds, or None for an experiment that tunes nothing."""
    paths = [folder / run.dataset / run.experiment / f"seed{seed}/method/provenance.json" for seed in run.seeds]
    if not any(path.exists() for path in paths):
        return None
    losses = [read_json(path)["result"]["validation_loss"] for path in paths]
    return None if None in losses else fmean(losses)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the finished run, e.g. results/deviations")
    parser.add_argument("--config", type=Path, default=ROOT / "config/deviations.yaml", help="its overlay")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between this page's markers")
    options = parser.parse_args(arguments)
    try:
        text = table(load_config(ROOT / "config/config.yaml", options.config), options.run)
        if options.write:
            fill(options.write, "measured", text)
    except XRecError as error:
        print(f"docs/deviations.py: {error}", file=sys.stderr)
        return error.exit_code
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
