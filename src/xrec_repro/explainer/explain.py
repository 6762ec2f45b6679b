"""One explanation and what it rests on: from a finished run, or generated now for a pair the run did not cover."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from pyarrow import ChunkedArray, Table, binary

from xrec_repro.contracts import CORE_INTERACTIONS, CORE_ITEMS, EXPLANATIONS, ITEM_PROFILES, TRUTH, USER_PROFILES
from xrec_repro.errors import DataError
from xrec_repro.examples import Example
from xrec_repro.io import read_json, read_table


@dataclass
class Explained:
    """What a run knows of one user and one item.

    Attributes:
        title: The item's title.
        user_profile: As given to the model, or None where the run has none.
        item_profile: Likewise.
        reference: The reference explanation, where the pair is one of the test split.
        texts: Experiment and seed -> (explanation, where it came from).
        reasons: The true reasons of the interaction, where the data set knows them.
        named: Those of them that the reference names.
    """

    title: str
    user_profile: str | None
    item_profile: str | None
    reference: str | None = None
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    reasons: list[str] | None = None
    named: list[str] | None = None


def explain(run: Path, dataset: str, user_id: str, item_id: str, device: str) -> Explained:
    """Collect everything that a run says of a pair.

    Args:
        run: Folder of the run, e.g. ``results/demo``.
        dataset: Name of the data set.
        user_id: The user's id in the raw data.
        item_id: The item's id in the raw data.
        device: Where to generate if the pair is not in the run's test split.

    Raises:
        DataError: There is no such run or data set, or the user or item is not in its k-core.
    """
    folder = run / dataset
    if not folder.is_dir():
        known = sorted(path.parent.name for path in run.glob("*/shared"))
        raise DataError(f"{folder}: no such data set in this run (found: {', '.join(known) or 'none'})")
    shared = folder / "shared"
    users = read_table(shared / "kcore/interactions.parquet", CORE_INTERACTIONS, ["user", "user_id"])
    items = read_table(shared / "kcore/items.parquet", CORE_ITEMS, ["item", "item_id", "title"])
    user = _row(users, "user_id", user_id, "user", shared)
    item = _row(items, "item_id", item_id, "item", shared)
    found = Explained(
        title=item["title"] or "",
        user_profile=_profile(shared / "profiles/users.parquet", USER_PROFILES, "user", user["user"]),
        item_profile=_profile(shared / "profiles/items.parquet", ITEM_PROFILES, "item", item["item"]),
    )
    _add_truth(found, shared / "world/truth.parquet", user_id, item_id)
    finished = sorted(folder.glob("*/seed*/generation/explanations.parquet"))
    if not finished:
        raise DataError(f"{folder}: no experiment has explanations yet; run the workflow first")
    pair = Example("asked", user["user"], item["item"], user_id, item_id, found.title, None, None, "", "test")
    for path in finished:
        experiment = path.parents[1]
        name = f"{experiment.parent.name}, {experiment.name}"
        row = _pair(read_table(path, EXPLANATIONS), user_id, item_id)
        if row:
            found.reference = row["reference"]
            found.texts[name] = (row["prediction"], "from the run's test split")
        elif (text := _generate(experiment, pair, found, device)) is not None:
            found.texts[name] = (text, "generated now")
    return found


def _row(table: Table, key: str, value: str, kind: str, shared: Path) -> dict[str, Any]:
    rows = table.filter(_is(table, key, value))
    if not rows.num_rows:
        raise DataError(
            f"{shared}/kcore: {kind} {value!r} is not in the k-core of {len(pc.unique(table[key]))} {kind}s; "
            f"one that is: {table[key][0].as_py()!r}"
        )
    return rows.slice(0, 1).to_pylist()[0]


def _is(table: Table, key: str, value: str) -> ChunkedArray:
    """Compare as bytes: an argument of the command line may be no UTF-8, and is then no id."""
    return pc.equal(table[key].cast(binary()), value.encode("utf-8", "surrogatepass"))


def _profile(path: Path, schema: Any, key: str, index: int) -> str | None:
    if not path.is_file():
        return None
    table = read_table(path, schema)
    found = table.filter(pc.equal(table[key], index))["profile"].to_pylist()
    if not found:
        raise DataError(f"{path}: it has no profile of {key} {index}; run the workflow again")
    return found[0]


def _pair(table: Table, user_id: str, item_id: str) -> dict[str, Any] | None:
    mask = pc.and_(_is(table, "user_id", user_id), _is(table, "item_id", item_id))
    return next(iter(table.filter(mask).to_pylist()), None)


def _add_truth(found: Explained, path: Path, user_id: str, item_id: str) -> None:
    if path.is_file():
        row = _pair(read_table(path, TRUTH), user_id, item_id)
        if row:
            found.reasons, found.named = row["reasons"], row["named"]


def _generate(experiment: Path, pair: Example, found: Explained, device: str) -> str | None:
    """Return the text of a pair that the run did not cover; None of a method that has texts of the test split alone."""
    # Only a pair that the run did not cover needs the models.
    from xrec_repro.methods.base import Run
    from xrec_repro.methods.driver import load_fitted, make_method

    file = experiment / "generation/provenance.json"
    record = read_json(file)
    try:
        settings, inputs, seed = record["settings"], record["inputs"], record["seed"]
        made = Path(record["outputs"]["explanations"]["path"])
        paths = {name: locate(entry["path"], made, experiment) for name, entry in inputs.items() if name != "examples"}
        chosen, domain, shown = settings["method"], settings["domain"], settings["profiles_shown"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: lacks {error}; generate the explanations again") from error
    for path in paths.values():
        if not path.exists():
            raise DataError(f"{path}: the run's explanations were made with it and it is gone; run the workflow again")
    run = Run(seed=seed, device=device, domain=domain, sections=settings, inputs=paths)
    method = make_method(chosen, "write", run)
    if not method.any_pair:
        return None
    method.load(load_fitted(paths["weights"].parent) if "weights" in paths else None)
    if shown:
        pair = replace(pair, user_profile=found.user_profile, item_profile=found.item_profile)
    return method.write([pair])[0].text


def locate(recorded: str, made: Path, experiment: Path) -> Path:
    """Return where a file of a provenance lies now, wherever it is asked from and the run may have been moved to.

    A provenance has paths as the workflow saw them, relative to the folder that it ran in.

    Args:
        recorded: The path as recorded.
        made: The recorded path of the experiment's explanations, RUN/DATASET/EXPERIMENT/SEED/generation/FILE.
        experiment: Where RUN/DATASET/EXPERIMENT/SEED is now.
    """
    path, old_run, run = Path(recorded), made.parents[4], experiment.absolute().parents[2]
    if path.is_relative_to(old_run):
        return run / path.relative_to(old_run)
    if old_run.parts != run.parts[-len(old_run.parts) :]:  # moved, or an absolute path
        return path
    return Path(*run.parts[: -len(old_run.parts)]) / path
