"""What is the same for all methods: their files, subset, batches, shards, order, and how they go on after a kill."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xrec_repro.contracts import EXPLANATIONS, TRAINING
from xrec_repro.errors import DataError, ModelError
from xrec_repro.examples import Example, draw_subset
from xrec_repro.interrupt import StoppedError, stoppable
from xrec_repro.io import atomic_path, read_json, read_table, require_file, write_json, write_table
from xrec_repro.methods import METHODS
from xrec_repro.methods.base import Fitted, Method, Run, Written
from xrec_repro.partial import Partial
from xrec_repro.progress import track
from xrec_repro.shards import WHOLE, Shard

log = logging.getLogger("xrec_repro")

WEIGHTS, FACTS, CURVE = "weights.safetensors", "method.json", "training.parquet"


def make_method(chosen: Mapping[str, Any], stage: str, run: Run) -> Method:
    """Make the method of an experiment.

    Args:
        chosen: Section ``method`` of the experiment's settings: name, kind or module, and the method's own settings.
        stage: ``fit`` or ``write``.
        run: What it is told.

    Raises:
        ConfigError: There is no such method, or a setting is unfit.
    """
    place = f"methods.{chosen['name']}"
    kind = METHODS.chosen(chosen, place)
    if stage in kind.modules:
        kind = METHODS.found_in(kind.modules[stage], place, stage.upper())
    return kind(METHODS.settings(chosen, place), run)


# --- Training -------------------------------------------------------------------------------------------------------
def fit(method: Method, examples: Sequence[Example], folder: Path) -> dict[str, Any]:
    """Train a method and save what it learnt.

    Args:
        method: As made for ``fit``.
        examples: Of all splits; it is given those of train and val, and those of test if it reads them.
        folder: Receives ``weights.safetensors``, ``method.json`` and ``training.parquet``.

    Returns:
        What the method reports.

    Raises:
        DataError: There are no train examples, or one lacks what the method needs.
        ModelError: A tensor is not finite.
    """
    seen = [example for example in examples if example.split != "test" or method.reads_test]
    if not any(example.split == "train" for example in seen):
        raise DataError("tuning: the train split has no examples with texts; check split.ratios and split.max_texts")
    _check_needs(method, seen)
    fitted = method.fit(seen)
    save_fitted(folder, fitted)
    if kept := method.run.checkpoint:
        for path in kept.parent.glob(f"{kept.name}*"):
            path.unlink()
    return dict(fitted.report)


def _check_needs(method: Method, examples: Sequence[Example]) -> None:
    for need, name in (("ratings", "rating"), ("features", "feature")):
        lacking = [e.example_id for e in examples if getattr(e, name) is None] if need in method.needs else []
        if lacking:
            raise DataError(
                f"examples: {len(lacking)} of {len(examples)} have no {name}, which the method needs (the first: "
                f"{lacking[0]}); use a data set that has them, or a method that does not"
            )


def save_fitted(folder: str | Path, fitted: Fitted) -> None:
    """Write what a training left.

    Raises:
        ModelError: A tensor is not finite.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in fitted.tensors.items()}
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{folder / WEIGHTS}: {name} is not finite after training; lower the learning rate")
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_json(folder / FACTS, dict(fitted.facts))
    write_table(folder / CURVE, [dict(row) for row in fitted.curve], TRAINING)


def load_fitted(folder: str | Path) -> Fitted:
    """Read what `save_fitted` wrote, less the curve.

    Raises:
        DataError: A file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts = read_json(Path(folder) / FACTS)
    path = require_file(Path(folder) / WEIGHTS, "train the method first")
    try:
        return Fitted(tensors=load_file(path), facts=facts)
    except SafetensorError as error:
        raise DataError(f"{path}: not a whole safetensors file; delete it and train again") from error


# --- Writing --------------------------------------------------------------------------------------------------------
def write_explanations(
    method: Method,
    examples: Sequence[Example],
    settings: Mapping[str, Any],
    partial: Path,
    out: Path,
    fingerprint: str = "",
    after_batch: Callable[[int], None] = lambda done: None,
    shard: Shard = WHOLE,
) -> dict[str, Any]:
    """Have the test split explained and write the texts to Parquet in the order of the examples.

    Batches are cut from the examples sorted by length, the same cut whatever was already done and whatever other shards
    do: a resumed run therefore repeats no text, and neither it nor a shard changes a bit.

    Args:
        method: As made for ``write``, and loaded.
        examples: What to explain.
        settings: Section ``generation``.
        partial: JSON lines beside the output, one a finished example; removed at the end.
        out: Parquet, contract EXPLANATIONS.
        fingerprint: Of everything the texts depend on: a partial file of another one is dropped.
        after_batch: Called with the number of finished examples.
        shard: Which batches to write; `gather` joins the files of all shards.

    Returns:
        How many there are, of how many test examples, how often each finish reason occurs, and what the method reports.

    Raises:
        DataError: There is nothing to explain.
        ModelError: The method gives too few texts, or what is none.
        StoppedError: A stop was asked for; what was done is in the partial file.
    """
    examples = method.explained(examples)
    test_examples = len(examples)
    examples = draw_subset(examples, settings["subset"], settings["subset_seed"])
    if not examples:
        raise DataError("generation: the test split has no examples with texts; check split.ratios and split.max_texts")
    _check_needs(method, examples)
    # The lengths of all of them first: that also finds a prompt that is too long before hours of work.
    batches = shard.deal(_batches(examples, method.lengths(examples), settings["batch_size"]))
    kept = Partial(partial, fingerprint)
    done = {row["example_id"]: row for row in kept.rows}
    if done:
        log.info("resumed generation after %d examples", len(done))
    waiting = [batch for batch in batches if any(example.example_id not in done for example in batch)]
    with stoppable() as stop_requested, kept:
        for found in track(method.stream(waiting, frozenset(done)), "generation", len(waiting)):
            rows = [_row(example, written) for example, written in found]
            kept.add(rows)
            done |= {row["example_id"]: row for row in rows}
            after_batch(len(done))
            if stop_requested():
                raise StoppedError(f"{len(done)} explanations are", partial)
    mine = [example for batch in batches for example in batch]
    report = _write(out, mine, examples, done)
    kept.remove()
    return report | {"test_examples": test_examples} | method.report(mine)


def _batches(examples: Sequence[Example], lengths: Sequence[int], size: int) -> list[list[Example]]:
    """Cut the examples into batches of like length; ids settle ties."""
    ranked = sorted(zip(lengths, examples, strict=True), key=lambda pair: (pair[0], pair[1].example_id))
    return [[example for _, example in ranked[start : start + size]] for start in range(0, len(ranked), size)]


def _row(example: Example, written: Written) -> dict[str, Any]:
    if not isinstance(written.text, str):
        raise ModelError(f"example {example.example_id}: the method wrote {written.text!r}, which is no text")
    if written.rating is not None and not math.isfinite(written.rating):
        raise ModelError(f"example {example.example_id}: the method predicts a rating of {written.rating}")
    return {
        "example_id": example.example_id,
        "user_id": example.user_id,
        "item_id": example.item_id,
        "reference": example.reference,
        "prediction": written.text,
        "rating": written.rating,
        "prompt_tokens": written.prompt_tokens,
        "new_tokens": written.new_tokens,
        "finish_reason": written.finish_reason,
    }


def gather(
    parts: Sequence[Path], examples: Sequence[Example], settings: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Join the files of all shards into the one that a single job would have written; needs no model, and no torch.

    Args:
        parts: Parquet, contract EXPLANATIONS, one a shard.
        examples: The test split, as the shards read it.
        settings: Section ``generation``.
        out: Parquet, contract EXPLANATIONS, in the order of the examples.

    Returns:
        What `write_explanations` returns, less what the method reports, which each shard's record has.

    Raises:
        DataError: An example is in no part, or in two, or a part has one that was not to be explained.
    """
    wanted = draw_subset(examples, settings["subset"], settings["subset_seed"])
    unknown = {example.example_id for example in wanted}
    rows: dict[str, dict[str, Any]] = {}
    for part in parts:
        for row in read_table(part, EXPLANATIONS).to_pylist():
            if row["example_id"] not in unknown:
                problem = "is in another shard too" if row["example_id"] in rows else "was not to be explained"
                raise DataError(f"{part}: example {row['example_id']} {problem}; generate all shards again")
            unknown.remove(row["example_id"])
            rows[row["example_id"]] = row
    if unknown:
        raise DataError(f"{out}: no shard has example {min(unknown)}; generate all shards again")
    return _write(out, wanted, wanted, rows) | {"test_examples": len(examples)}


def _write(
    out: Path, mine: Sequence[Example], order: Sequence[Example], rows: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Write the rows of some examples in the order of all; return how many there are and how they end."""
    ids = {example.example_id for example in mine}
    lacking = sorted(ids - rows.keys())
    if lacking:
        raise ModelError(
            f"generation: the method wrote no text of {len(lacking)} of {len(ids)} examples: {lacking[:3]}"
        )
    found = [rows[example.example_id] for example in order if example.example_id in ids]
    write_table(out, found, EXPLANATIONS)
    reasons = Counter(row["finish_reason"] for row in found if row["finish_reason"])
    return {"explanations": len(found), "finish_reasons": dict(sorted(reasons.items()))}
