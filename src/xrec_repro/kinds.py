"""What the rows of a run are, and what must be said of those that are no attempt at the published models."""

from collections.abc import Iterable

# Kind -> what it is called beside "this run". `kind_of` says which is which.
LABELS = {"measured": None, "scratch": "scratch model", "demo": "demo"}
WARNING = (
    "Warning: what a generated world (demo) or a language model trained on the spot (scratch model) gives shows that "
    "the workflow works. It says nothing about the published models and is not to be compared with published numbers."
)


def kind_of(dataset_source: str, llm_source: str | None) -> str:
    """Return the kind of a run's rows: a property of what the run uses, and of nothing else.

    Args:
        dataset_source: ``datasets.*.source``: ``glassbox`` is the generated world.
        llm_source: ``llm.source``: ``scratch`` is a model that the run trains for itself; None where none is used.
    """
    if dataset_source == "glassbox":
        return "demo"
    return "scratch" if llm_source == "scratch" else "measured"


def run_source(kind: str) -> str:
    """Return how tables call the source of this run's rows."""
    return f"this run ({LABELS[kind]})" if LABELS[kind] else "this run"


def warnings(kinds: Iterable[str | None]) -> list[str]:
    """Return the `WARNING` where rows of any of these kinds need it, else nothing."""
    return [WARNING] if any(LABELS.get(kind or "") for kind in kinds) else []
