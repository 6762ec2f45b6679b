"""Files of a small run as the page of explanations reads them: a world with known reasons, and one without."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from xrec_repro.contracts import EXAMPLES, EXPLANATIONS, TRUTH
from xrec_repro.io import write_json, write_table

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"></script><script>document.title='hacked'</script>"
VARIANTS = (
    ("xrec", "XRec", 1), ("xrec", "XRec", 2), ("no_profile", "XRec w/o profile", 1),
    ("no_injection", "XRec w/o injection", 1), ("bare", "XRec w/o prof. & inj.", 1), ("fixed", "XRec fixed MoE", 1),
)  # fmt: skip
TITLES = ("The Quiet Harbour", HOSTILE, "Maps of Rain", "A Velvet Lantern", "The Last Ferry")
REASONS = ["dry humour", "family sagas", "epic battles"]
NAMED = REASONS[:2]
TEMPLATE = "The user would buy the book because it offers {}, which is just what they look for in a story."
PREDICTIONS = {
    ("xrec", 1): TEMPLATE.format("deadpan wit and multigenerational stories"),
    ("xrec", 2): TEMPLATE.format("dry humour and tender romance"),
    ("no_profile", 1): TEMPLATE.format("epic battles, dry humour and tangled family histories"),
    ("no_injection", 1): "The user would buy the book because 4 1 9 2 8 4 4 1 and",
    ("bare", 1): "",
    ("fixed", 1): "The user 😀 would buy it for lyrical prose & <b>poetic</b> language",
}
SIGNATURES = {"bertscore_f1": "bertscore|model:minilm|v:1", "bleu_1": "bleu|v:2", "usr": "usr|v:1"}


def score_of(variant: int, example: int, metric: int) -> float:
    """Return a score that differs for every variant, example and metric."""
    return round(0.3 + 0.07 * variant + 0.011 * example - 0.2 * metric, 6)


def write_sample(folder: Path, count: int = len(TITLES)) -> list[dict[str, Any]]:
    """Write a data set with reasons and six variants, and one without and one variant; return the rows."""
    shared = _shared(folder / "glass", count)
    glass = {"dataset": "glass", "dataset_label": "Glass & box", "kind": "demo", **shared}
    rows = [glass | _variant(folder / "glass", v, count) for v in range(len(VARIANTS))]
    plain = {"examples": None, "truth": None}
    books = {"dataset": "books", "dataset_label": "Books", "kind": "measured", **plain}
    return [*rows, books | _variant(folder / "books", 0, 2)]


def ids(count: int) -> list[str]:
    """Return the ids of the examples."""
    return [f"{3 * number:06d}" for number in range(count)]


def _variant(folder: Path, v: int, count: int) -> dict[str, Any]:
    experiment, label, seed = VARIANTS[v]
    place = folder / experiment / f"seed{seed}"
    prediction, examples = PREDICTIONS[experiment, seed], ids(count)
    rows = [
        {
            "example_id": example,
            "user_id": f"user-{number}",
            "item_id": f"item-{number}",
            "reference": TEMPLATE.format("wry asides and family sagas"),
            "prediction": prediction,
            "prompt_tokens": 100 + number,
            "new_tokens": 20 + v,
            "finish_reason": "length" if experiment == "no_injection" else "eos",
        }
        for number, example in enumerate(examples)
    ]
    write_table(place / "explanations.parquet", rows, EXPLANATIONS)
    metrics = list(SIGNATURES)[: 3 if experiment == "xrec" else 2]
    columns = {metric: [score_of(v, e, m) for e in range(count)] for m, metric in enumerate(metrics)}
    if experiment == "bare":
        columns["bleu_1"][0] = float("nan")
    schema = pa.schema([("example_id", pa.string()), *((metric, pa.float64()) for metric in columns)])
    arrays = [pa.array(examples), *(pa.array(values, pa.float64()) for values in columns.values())]
    write_table(place / "scores.parquet", pa.table(arrays, schema=schema), schema)
    write_json(place / "summary.json", {metric: _cell(metric, values) for metric, values in columns.items()})
    names = {"experiment": experiment, "experiment_label": label, "seed": seed}
    return (
        names
        | {name: place / f"{name}.parquet" for name in ("explanations", "scores")}
        | {"summary": place / "summary.json"}
    )


def _cell(metric: str, values: list[float]) -> dict[str, Any]:
    scored = [value for value in values if value == value]
    mean = sum(scored) / len(scored)
    return {"mean": mean, "std": None if metric == "usr" else 0.1, "n": len(scored), "signature": SIGNATURES[metric]}


def _shared(folder: Path, count: int) -> dict[str, Path]:
    """Write examples and truth."""
    files = {name: folder / f"{name}.parquet" for name in ("examples", "truth")}
    numbers = list(enumerate(ids(count)))
    examples = [
        {
            "example_id": example, "user": n, "item": n, "user_id": f"user-{n}", "item_id": f"item-{n}",
            "split": "test", "zero_shot": False, "title": TITLES[n % len(TITLES)],
            "user_profile": f"Reader {n} enjoys dry humour and lyrical prose.",
            "item_profile": f"Book {n} is full of sweeping war scenes.",
            "reference": "not read: explanations carry their own",
        }
        for n, example in reversed(numbers)
    ]  # fmt: skip
    write_table(files["examples"], examples, EXAMPLES)
    pair = {"reasons": REASONS, "named": NAMED, "in_profiles": REASONS[2:]}
    write_table(files["truth"], [{"user_id": f"user-{n}", "item_id": f"item-{n}", **pair} for n, _ in numbers], TRUTH)
    return files
