"""Explanations by XRec: exact batches through the frozen language model."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from xrec_repro.examples import Example
from xrec_repro.explainer.assemble import tuned_explainer, untuned_explainer
from xrec_repro.explainer.explainer import Explainer
from xrec_repro.explainer.generation import explain_batch, explain_in_slots
from xrec_repro.explainer.prompts import Encoded
from xrec_repro.lm.slots import in_slots
from xrec_repro.methods.base import Fitted, Run, Settings, Written
from xrec_repro.methods.xrec import XRec


class Writing(XRec):
    """XRec as it writes."""

    explainer: Explainer

    @classmethod
    def of(cls, explainer: Explainer, generation: dict[str, Any], seed: int) -> "Writing":
        """Return the method with an explainer at hand."""
        made = cls(Settings(), Run(seed=seed, sections={"generation": generation}))
        made._take(explainer)
        return made

    def load(self, fitted: Fitted | None) -> None:
        """Put the explainer together, with tuned adapters or none."""
        parts = self.parts
        if fitted is None:
            self._take(untuned_explainer(*(parts[key] for key in ("settings", "domain", "llm_folder", "device"))))
        else:
            self._take(tuned_explainer(fitted=fitted, **{k: v for k, v in parts.items() if k != "domain"}))

    def _take(self, explainer: Explainer) -> None:
        self.explainer = explainer
        self._encoded: dict[str, Encoded] = {}
        if explainer.adapters is not None:
            explainer.adapters.eval()

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Return the lengths of the prompts, in tokens."""
        new_tokens = self.run.sections["generation"]["max_new_tokens"]
        self._encoded = {e.example_id: self.explainer.encoder.test(e, new_tokens) for e in examples}
        self.explainer.encoder.warn_of_cuts("generation")
        return [len(row.ids) for row in self._encoded.values()]

    def write(self, batch: Sequence[Example]) -> list[Written]:
        """Explain a batch exactly: no text depends on the others."""
        encoded = [self._encoded[e.example_id] for e in batch] if self._encoded else None
        return explain_batch(self.explainer, batch, self.run.sections["generation"], self.run.seed, encoded)

    def stream(
        self, batches: Sequence[Sequence[Example]], done: Collection[str] = ()
    ) -> Iterator[list[tuple[Example, Written]]]:
        """Explain all batches, in slots where batches cannot keep their texts apart (`xrec_repro.lm.slots`)."""
        generation = self.run.sections["generation"]
        if not batches or not in_slots(self.explainer, generation, list(self._encoded.values())):
            yield from super().stream(batches)
            return
        waiting = [example for batch in batches for example in batch if example.example_id not in done]
        yield from explain_in_slots(self.explainer, waiting, generation, self.run.seed, self._encoded)

    def report(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return how many prompts were cut, if any."""
        cut = self.explainer.encoder.cut.keys() & {example.example_id for example in examples}
        return {"cut_prompts": len(cut)} if cut else {}


WRITE = Writing
