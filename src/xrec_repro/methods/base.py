"""The contract of a method: given examples, what it learns; given examples, texts.

A module with a ``METHOD`` (a class derived from `Method`) is all that a method takes: `driver` owns the files, the
subset, the batches, the shards, their order, and what happens after a kill. The Snakefile reads the class whenever it
is parsed, so heavy imports stand inside the functions that need them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from xrec_repro.errors import ModelError

if TYPE_CHECKING:
    from xrec_repro.examples import Example

# What a method may be given beside its examples (whose ratings and features it may need: then every one has them).
NEEDS = frozenset({"graph", "embeddings", "llm", "profiles", "ratings", "features"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A method's own settings: fields of int, float, bool, str, Literal or Annotated (see `xrec_repro.plugins`)."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a method is told beside its settings.

    Attributes:
        seed: Of the run; draw by `xrec_repro.seeding`, a named stream each, and a text's by its example_id alone: then
            no text depends on the texts beside it.
        device: ``cpu`` or ``cuda``.
        domain: ``book`` or ``business``.
        sections: Section of the configuration -> settings, of those in `Method.sections`.
        inputs: Files and folders by name: what `Method.needs` and `Method.files` asked for, as far as there is one.
        checkpoint: Where `Method.fit` may keep an unfinished training (of several in a row, the others in files whose
            names begin so); it goes when all is done.
        identity: Digest of all that the result depends on: a checkpoint of another one must not be resumed.
    """

    seed: int
    device: str = "cpu"
    domain: str = "book"
    sections: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    checkpoint: Path | None = None
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a training leaves.

    Attributes:
        tensors: Name -> torch tensor or numpy array.
        facts: Of JSON types: all else that is needed to write.
        curve: Rows of contract `TRAINING`: the step, the examples seen so far, and the mean loss of the step's own.
        report: What provenance says of the training, of JSON types.
    """

    tensors: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[Mapping[str, Any]] = ()
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """One text.

    Attributes:
        text: The explanation.
        prompt_tokens: What was read, where tokens are read.
        new_tokens: What was written, likewise.
        finish_reason: Why it ends: bracket | eos | length, or None.
        rating: The rating that the method predicts, if it does.
    """

    text: str
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    finish_reason: str | None = None
    rating: float | None = None


class Method:
    """A way to explain why a user would like an item; the base of all.

    Attributes:
        Settings: The class of its own settings.
        needs: What it is given, of `NEEDS`.
        sections: Sections of the configuration that it reads and that an experiment may change for it.
        files: Names of those of its settings that are paths of the user's files. A name without a folder is one of the
            release, where the data set is one: then `Run.inputs` has its ``folder``.
        predicts: What it gives beside texts: ``ratings`` (`Written.rating`), which the metrics of ratings then score.
        gpu: Whether it gains from a GPU.
        any_pair: Whether it explains any pair that it is given, not only those of the test split.
        trained: Whether it has something to learn, …
        trained_on: … and what of its needs the configuration must leave it for that ("w/o embeddings" trains nothing).
        reads_test: Whether `fit` is given the examples of split test, too: for what an author did that should not be.
        modules: ``fit`` and ``write`` -> the module whose ``FIT`` or ``WRITE`` does it, where that is not this class:
            an edit of how texts are written then trains nothing again.
    """

    Settings: ClassVar[type[Settings]] = Settings
    needs: ClassVar[frozenset[str]] = frozenset()
    sections: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[frozenset[str]] = frozenset()
    gpu: ClassVar[bool] = False
    any_pair: ClassVar[bool] = True
    trained: ClassVar[bool] = False
    trained_on: ClassVar[frozenset[str]] = frozenset()
    reads_test: bool = False
    modules: ClassVar[Mapping[str, str]] = {}

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.run = settings, run

    def fit(self, examples: "Sequence[Example]") -> Fitted:
        """Learn from the examples of split train; those of val may decide when to stop.

        What learns step by step is best a `xrec_repro.training.Trainee`: its loop goes on after a kill, and stops.
        """
        raise NotImplementedError

    def load(self, fitted: Fitted | None) -> None:
        """Take up what a training left, tensors as of torch; None where there was none to do. Called before `write`."""

    def explained(self, examples: "Sequence[Example]") -> "list[Example]":
        """Return which examples it explains, of those of the test split: all, if it does not say otherwise."""
        return list(examples)

    def lengths(self, examples: "Sequence[Example]") -> list[int]:
        """Return how much there is to read for each example: batches are made of like ones."""
        return [0] * len(examples)

    def write(self, batch: "Sequence[Example]") -> list[Written]:
        """Explain a batch, one text an example."""
        raise NotImplementedError

    def stream(
        self, batches: "Sequence[Sequence[Example]]", done: Collection[str] = ()
    ) -> "Iterator[list[tuple[Example, Written]]]":
        """Explain batches one after the other; a method that does better with all of them at hand overrides this.

        Args:
            batches: Those in which something is left to do, whole.
            done: Ids of the examples that were explained before a kill; a method whose texts depend on no batch may
                leave them out.
        """
        for batch in batches:
            written = list(self.write(batch))
            if len(written) != len(batch):
                raise ModelError(f"generation: the method wrote {len(written)} texts for a batch of {len(batch)}")
            yield list(zip(batch, written, strict=True))

    def report(self, examples: "Sequence[Example]") -> dict[str, Any]:
        """Return what provenance says of the writing of these examples, of JSON types."""
        return {}
