"""The settings of intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from xrec_repro.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The section ``statistics`` of the configuration.

    Attributes:
        seed: Of all draws.
        bootstrap_samples: How many samples an interval is made from.
        permutations: How many random swaps a permutation test is made from.
        interval: ``bca`` | ``percentile``.
        confidence: Of the intervals, e.g. 0.95.
        clusters: ``user`` | ``none``: whether the examples of a user are drawn and swapped together.
        runs: ``larger`` | ``both`` | ``fixed``: whether a difference must also exceed what trainings differ by.
        test: ``permutation`` | ``bootstrap``: whose p-value decides.
        correction: ``holm`` | ``none``: whether it is corrected for the number of comparisons before it decides.
        alpha: A difference is significant if its p-value is at most this.
        reference: The experiment with which the others of its data set are compared.
        primary: The metrics whose comparisons are tested as one family and may decide; what is found of any other is
            exploratory. None: all are primary.
    """

    seed: int
    bootstrap_samples: int
    permutations: int
    interval: str
    confidence: float
    clusters: str
    runs: str
    test: str
    correction: str
    alpha: float
    reference: str
    primary: Sequence[str] | None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Settings":
        """Build from the section of the configuration.

        Raises:
            ConfigError: A key is unknown or missing, or a value impossible.
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise ConfigError(f"statistics.{key}: unknown key; known are: {', '.join(known)}")
        for key in known:
            if key not in settings:
                raise ConfigError(f"statistics.{key}: missing; config/config.yaml gives its default")
        choices = {"interval": ("bca", "percentile"), "test": ("permutation", "bootstrap")}
        choices |= {"correction": ("holm", "none"), "clusters": ("user", "none"), "runs": ("larger", "both", "fixed")}
        for key, allowed in choices.items():
            if settings[key] not in allowed:
                raise ConfigError(f"statistics.{key}: {settings[key]!r} is not one of {', '.join(allowed)}")
        for key in ("bootstrap_samples", "permutations"):
            if settings[key] < 1:
                raise ConfigError(f"statistics.{key}: {settings[key]} is too few; draw at least one")
        for key in ("confidence", "alpha"):
            if not 0 < settings[key] < 1:
                raise ConfigError(f"statistics.{key}: {settings[key]} is not between 0 and 1")
        return cls(**settings)

    def is_primary(self, metric: str) -> bool:
        """Tell whether a metric's comparisons are tests; else they are exploratory."""
        return self.primary is None or metric in self.primary
