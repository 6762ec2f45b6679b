"""The contract of a metric: per-example columns, and a signature that names all that can change them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from xrec_repro.errors import ConfigError, DataError
from xrec_repro.identity import significant, versions

Summary = dict[str, dict[str, Any]]
FAILED = "failed"  # key of the reason in the summary of a metric without scores; its name stands for its columns


class Scored(NamedTuple):
    """What a metric makes of some pairs of texts.

    Attributes:
        columns: Column name -> values of shape ``(pairs,)``.
        counts: As in `Scores`.
        found: What of the signature only the scoring told, such as the model that answered.
        replies: As in `Scores`.
    """

    columns: dict[str, np.ndarray]
    counts: dict[str, float]
    found: Mapping[str, Any] = MappingProxyType({})
    replies: Mapping[str, list[Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Scores:
    """The scores of one metric.

    Attributes:
        columns: Column name -> float64 array of shape ``(examples,)``; NaN where an example could not be scored.
        signature: What the numbers were computed with (`Metric.signature`, and what was found along the way).
        without_std: Columns whose standard deviation means nothing, such as that of USR.
        counts: What happened along the way, e.g. ``{"empty_predictions": 2}``, and values of the whole corpus that
            are no mean over examples, e.g. ``{"corpus_bleu_4": 1.7}``; also ``<column>_chance`` and
            ``<column>_reference``, the range in which tables and figures show a column.
        replies: Of a judge, the columns of `contracts.REPLIES` that tell what it replied, a value an example.
    """

    columns: dict[str, np.ndarray]
    signature: str
    without_std: frozenset[str] = frozenset()
    counts: Mapping[str, float] = field(default_factory=dict)
    replies: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """Base of all metrics; a subclass is a frozen dataclass whose fields are its configuration section.

    The signature is built from the fields by introspection: a new field is in it unless its name stands in
    `neutral`, or it is a setting that changes nothing (`xrec_repro.identity.NEUTRAL`; a batch size in float32 alone).
    Instances are frozen, so that a signature cannot go stale.

    Attributes:
        device: ``auto`` | ``cpu`` | ``cuda``; metrics without a model ignore it.

    A subclass that reads the true reasons of a glassbox sets `needs_truths`, and its `_columns` takes them as third
    argument; one that may fail on single examples sets `may_miss` and returns NaN for them.
    """

    name: ClassVar[str]
    needs_truths: ClassVar[bool] = False
    may_miss: ClassVar[bool] = False
    neutral: ClassVar[frozenset[str]] = frozenset({"device"})
    without_std: ClassVar[frozenset[str]] = frozenset()
    labels: ClassVar[Mapping[str, str]] = {"revision": "rev"}

    device: str = "auto"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], device: str = "auto") -> "Metric":
        """Build the metric from its section of the configuration (``metrics.<name>``).

        Raises:
            ConfigError: A key is unknown or missing.
        """
        known = [f.name for f in fields(cls) if f.name != "device"]
        required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        for key in settings:
            if key not in known:
                raise ConfigError(f"metrics.{cls.name}.{key}: unknown key; known are: {', '.join(known) or 'none'}")
        for key in required:
            if key not in settings:
                raise ConfigError(f"metrics.{cls.name}.{key}: missing; config/config.yaml gives its default")
        return cls(**settings, device=device)

    @property
    def signature(self) -> str:
        """The metric's name and everything that can change its values, as ``name|key:value|…``."""
        facts = self.facts()
        given = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        decisive = significant({"metrics": {self.name: given}})["metrics"][self.name]
        parts = {}
        for entry in fields(self):
            if entry.name in decisive and entry.name not in self.neutral:
                shown = facts.pop(entry.name, getattr(self, entry.name))
                parts[self.labels.get(entry.name, entry.name)] = shown
        parts |= facts
        if given.get("dtype", "float32") != "float32":  # rounding is no longer small, and differs between devices
            from xrec_repro.metrics._models import torch_device

            parts |= {"on": torch_device(self.device).type, "torch": versions("torch")["torch"]}
        return "|".join([self.name, *(f"{key}:{_shown(value)}" for key, value in parts.items())])

    def facts(self) -> dict[str, Any]:
        """Return what else belongs in the signature, e.g. library versions.

        A key that is also a field replaces how the field is shown: a folder by the digest of its content.
        """
        return {}

    def score(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        truths: Sequence[Collection[str]] | None = None,
    ) -> Scores:
        """Score every prediction against its reference.

        Args:
            predictions: The generated explanations.
            references: As many reference explanations, in the same order.
            truths: As many sets of true reasons, for the metrics that need them.

        Raises:
            DataError: There is nothing to score, the lengths differ, truths are needed and absent, or a score is not
                a finite number.
        """
        given = [predictions, references]
        if self.needs_truths:
            given.append(self._require_truths(truths))
        self._check_lengths(*given)
        columns, counts, found, replies = self.scored(*given)
        columns = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
        for name, values in columns.items():
            self._check_values(name, values)
        return Scores(columns, with_found(self.signature, found), self.without_std, counts, replies)

    def _require_truths(self, truths: Sequence[Collection[str]] | None) -> Sequence[Collection[str]]:
        if truths is None:
            raise DataError(
                f"{self.name}: needs the true reasons of every example, which only a glassbox data set has; "
                "leave this metric out of metrics.use for others"
            )
        return truths

    def _check_lengths(self, predictions: Sequence[str], references: Sequence[str], *truths: Sequence[Any]) -> None:
        for what, other in (("references", references), *(("sets of true reasons", each) for each in truths)):
            if len(predictions) != len(other):
                raise DataError(
                    f"{self.name}: {len(predictions)} predictions but {len(other)} {what}; give one for each prediction"
                )
        if not predictions:
            raise DataError(f"{self.name}: 0 predictions and 0 references; there is nothing to score")

    def _check_values(self, name: str, values: np.ndarray) -> None:
        bad = np.flatnonzero(np.isinf(values) if self.may_miss else ~np.isfinite(values))
        if bad.size:
            raise DataError(
                f"{self.name}: {name} of example {bad[0] + 1} of {len(values)} is not a finite number; "
                "look at its two texts"
            )
        if np.isnan(values).all():
            raise DataError(
                f"{self.name}: {name}: not one of {len(values)} examples could be scored; look at a few of the texts"
            )

    def scored(self, *given: Any) -> Scored:
        """Return `_columns` of texts that have been checked."""
        return Scored(*self._columns(*given))

    @abstractmethod
    def _columns(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]] | Scored:
        """Return the columns, each of shape ``(examples,)``, and counts worth reporting; a judge returns a `Scored`.

        With `needs_truths` there is a third argument, ``truths``: the true reasons of each example.
        """


def with_found(signature: str, found: Mapping[str, Any]) -> str:
    """Return a metric's signature with what only the scoring told, in the same form."""
    return "|".join([signature, *(f"{key}:{_shown(value)}" for key, value in found.items())])


def summary(scores: Scores) -> Summary:
    """Return column -> mean, population standard deviation (None where meaningless), n, signature, missing, counts.

    Examples that could not be scored (NaN) are counted in `missing` and excluded from the rest, `n` included.
    """
    cells: Summary = {}
    for name, values in scores.columns.items():
        scored = values[~np.isnan(values)]
        cells[name] = {
            "mean": float(scored.mean()),
            "std": None if name in scores.without_std else float(scored.std()),
            "n": len(scored),
            "signature": scores.signature,
            "missing": len(values) - len(scored),
            "counts": dict(scores.counts),
        }
    return cells


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    text = str(value).replace("%", "%25").replace("|", "%7C")  # a value must not look like a further key
    return "%2D" if text == "-" else text
