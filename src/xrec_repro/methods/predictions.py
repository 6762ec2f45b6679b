"""The texts of a file as a method: any system, wherever it ran, becomes a row of the tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xrec_repro.errors import DataError
from xrec_repro.methods.base import Method, Settings, Written
from xrec_repro.own_texts import own_id

if TYPE_CHECKING:
    from xrec_repro.examples import Example


@dataclass(frozen=True, kw_only=True)
class Files(Settings):
    """Where the texts are.

    Attributes:
        file: Texts (`xrec_repro.text_files`) with an ``example_id`` each, or one an example in the order of the test
            split.
        references: A second file, with what each text of the first is to be compared with. They are then scored as
            they stand, also those that are of no example of this run's test split.
    """

    file: str
    references: str | None = None


class Predictions(Method):
    """Nothing is trained, and nothing is written anew."""

    Settings = Files
    files = ("file", "references")
    any_pair = False

    def explained(self, examples: "Sequence[Example]") -> "list[Example]":
        """Return the examples that the file has texts of.

        With references of its own a text stands for the test example whose reference is the same text, if there is
        just one, and otherwise for an example of its own, of no user and no item.

        Raises:
            DataError: The file lacks examples, has some twice, or has others.
        """
        from xrec_repro.text_files import read_ids, read_texts

        file = self._path("file")
        texts, ids, found = read_texts(file, "prediction"), None, list(examples)
        if self.settings.references is not None:
            found = self._with_references(examples, len(texts))
        else:
            ids = read_ids(file)
            self._check(found, ids, len(texts))
        self._texts = dict(zip(ids or [example.example_id for example in found], texts, strict=True))
        return found

    def _path(self, name: str) -> Path:
        """Return a file of the user's own, or of the release."""
        return self.run.inputs.get(name) or Path(self.run.inputs["folder"]) / getattr(self.settings, name)

    def _with_references(self, examples: "Sequence[Example]", count: int) -> "list[Example]":
        from xrec_repro.examples import Example
        from xrec_repro.text_files import read_texts

        path = self._path("references")
        references = read_texts(path, "reference")
        if len(references) != count:
            raise DataError(
                f"{path} has {len(references)} texts, {self._path('file')} has {count}; give one reference a text"
            )
        once = {text for text, times in Counter(references).items() if times == 1}
        shared = Counter(example.reference for example in examples)
        known = {e.reference: e for e in examples if shared[e.reference] == 1 and e.reference in once}
        return [
            known.get(text) or Example(own_id(row, count), -1, -1, "", "", "", None, None, text, "test")
            for row, text in enumerate(references)
        ]

    def _check(self, examples: "Sequence[Example]", ids: Sequence[str] | None, count: int) -> None:
        file, wanted = self._path("file"), [example.example_id for example in examples]
        if ids is None:
            if count != len(wanted):
                raise DataError(
                    f"{file}: {count} texts without example_id for {len(wanted)} examples of the test split; give each "
                    f"text the example_id that explanations.parquet and examples.parquet have"
                )
            return
        times = Counter(ids)
        for what, wrong in (
            ("lacks", [one for one in wanted if one not in times]),
            ("has twice", [one for one, often in times.items() if often > 1]),
            ("has, of no example of the test split,", sorted(times.keys() - set(wanted))),
        ):
            if wrong:
                named = ", ".join(wrong[:3]) + (", …" if len(wrong) > 3 else "")
                raise DataError(f"{file}: it {what} {len(wrong)} of {len(wanted)} examples: {named}; mend the file")

    def write(self, batch: "Sequence[Example]") -> list[Written]:
        """Return the texts of a batch."""
        return [Written(self._texts[example.example_id]) for example in batch]


METHOD = Predictions
