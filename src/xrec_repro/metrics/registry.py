"""From the name of a metric to its class. A module of this package that is named after a metric is one."""

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xrec_repro.errors import ConfigError
from xrec_repro.metrics.base import Metric

_NOT_METRICS = frozenset({"base", "registry", "score", "shards"})


def metric_names() -> list[str]:
    """Return the names of all metrics, without importing them."""
    names = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in names if name not in _NOT_METRICS and not name.startswith("_"))


def metric_class(name: str) -> type[Metric]:
    """Import the module of a metric and return its class.

    Raises:
        ConfigError: There is no such metric.
    """
    known = metric_names()
    if name not in known:
        raise ConfigError(f"metrics: {name!r} is not a metric; known are: {', '.join(known)}")
    return importlib.import_module(f"xrec_repro.metrics.{name}").METRIC


def build_metric(name: str, settings: Mapping[str, Any], device: str = "auto") -> Metric:
    """Build a metric from its section of the configuration.

    Args:
        name: The metric, e.g. ``bertscore``.
        settings: The section ``metrics.<name>``.
        device: ``auto`` | ``cpu`` | ``cuda``.

    Raises:
        ConfigError: No such metric, or a key of `settings` is unknown or missing.
    """
    return metric_class(name).from_settings(settings, device)
