"""The jobs that score all seeds of an experiment by several metrics; one that fails leaves its reason, and no more."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xrec_repro.io import read_json
from xrec_repro.metrics._failures import failing
from xrec_repro.metrics.registry import build_metric
from xrec_repro.metrics.score import merge_scores, score_explanations, write_failure
from xrec_repro.partial import Partial
from xrec_repro.shards import JUDGES

Files = Mapping[str, Any]


def score_by_models(
    metrics: Mapping[str, Mapping[str, Any]], files: Files, folders: Sequence[Path], device: str, fingerprint: str
) -> dict[str, Any]:
    """Score the explanations of all seeds by metrics that run models; each model is loaded once.

    Args:
        metrics: Name -> its section of the configuration.
        files: ``explanations``: of each seed; ``truth`` and ``examples`` where a metric needs them (see
            `score_explanations`); and the files and models that a metric reads, as ``<metric>.<setting>``.
        folders: Of each seed's metrics: ``<metric>/scores.parquet``, ``summary.json`` and, of a judge,
            ``replies.parquet`` are written there, and ``failures.txt`` gets a line for each failure.
        device: ``auto`` | ``cpu`` | ``cuda``.
        fingerprint: What a judge's unfinished scores must match to be gone on with.

    Returns:
        Summary file -> its content.
    """
    found, unfinished = {}, []
    for name, section in metrics.items():
        settings, built = section | _own(files, name), None
        for explanations, folder in zip(files["explanations"], folders, strict=True):
            made = folder / name
            outputs = made / "scores.parquet", made / "summary.json"
            kept = Partial(made / "scores.partial.jsonl", fingerprint) if name in JUDGES else None
            replies = made / "replies.parquet" if kept else None
            with failing(name, made / "failures.txt") as failure:
                built = built or build_metric(name, settings, device)
                known = device, files.get("truth"), kept, replies, files.get("examples")
                score_explanations(explanations, name, settings, *outputs, *known, built)
            if failure.reason:
                write_failure(explanations, name, failure.reason, *outputs, replies)
            elif kept:
                unfinished.append(kept)
            found[str(outputs[1])] = read_json(outputs[1])
    for kept in unfinished:  # not before: a job that is killed has lost what is scored but for these
        kept.remove()
    return found


def score_and_merge(
    metrics: Mapping[str, Mapping[str, Any]], order: Sequence[str], files: Files, folders: Sequence[Path]
) -> dict[str, Any]:
    """Score the explanations of all seeds by metrics that run no model, and join all scores of each seed.

    Args:
        metrics: See `score_by_models`.
        order: The metrics of the experiment; those that are not among `metrics` have been scored.
        files: See `score_by_models`.
        folders: Of each seed's metrics, in which `merge_scores` writes ``scores.parquet`` and ``summary.json``.

    Returns:
        Summary file -> its content.
    """
    found = {}
    for explanations, folder in zip(files["explanations"], folders, strict=True):
        with TemporaryDirectory() as scratch:
            parts = []
            for name in order:
                made = Path(scratch if name in metrics else folder) / name
                parts.append((made / "scores.parquet", made / "summary.json"))
                if name in metrics:
                    made.mkdir()
                    _score(name, metrics[name] | _own(files, name), explanations, files, parts[-1], folder)
            outputs = folder / "scores.parquet", folder / "summary.json"
            merge_scores(parts, *outputs)
        found[str(outputs[1])] = read_json(outputs[1])
    return found


def _score(
    name: str, settings: Mapping[str, Any], explanations: Path, files: Files, outputs: tuple[Path, Path], folder: Path
) -> None:
    with failing(name, folder / "failures.txt") as failure:
        known = {"truth_parquet": files.get("truth"), "examples_parquet": files.get("examples")}
        score_explanations(explanations, name, settings, *outputs, "cpu", **known)
    if failure.reason:
        write_failure(explanations, name, failure.reason, *outputs)


def _own(files: Files, metric: str) -> dict[str, str]:
    """Return the settings of a metric that are files or models."""
    named = [(*key.rpartition("."), path) for key, path in files.items()]
    return {setting: str(path) for owner, _, setting, path in named if owner == metric}
