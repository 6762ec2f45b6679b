"""From the name of a metric to its class, and to what that states: see `xrec_repro.plugins`.

A metric is of this package, of an entry point, or of the module that its section names. The Snakefile, which is parsed
again in every job, imports this module: it must stay free of heavy imports.
"""

from collections.abc import Mapping
from typing import Any

from xrec_repro.checks import hint
from xrec_repro.errors import ConfigError
from xrec_repro.metrics import METRICS
from xrec_repro.metrics.base import Metric
from xrec_repro.metrics.columns import Stated, read_stated
from xrec_repro.plugins import module_file

Section = Mapping[str, Any]


def metric_names() -> list[str]:
    """Return the names of the metrics of this package, without importing them."""
    return sorted(METRICS.own)


def metric_module(name: str, settings: Section) -> str:
    """Return the dotted name of a metric's module.

    Args:
        name: The metric.
        settings: Its section of the configuration; in it, ``module`` names one outside the package.

    Raises:
        ConfigError: There is no such metric.
    """
    if "module" in settings:
        return METRICS.module_of({"module": settings["module"]}, f"metrics.{name}")
    if name not in METRICS.own and name not in (known := METRICS.kinds()):
        raise ConfigError(
            f"metrics: {name!r} is not a metric; known are: {', '.join(sorted(known))}{hint(name, known)}; "
            f"of one of your own, metrics.{name}.module names the module"
        )
    return METRICS.module_of({"kind": name}, f"metrics.{name}")


def metric_file(name: str, settings: Section) -> str:
    """Return the Python file of a metric's module.

    Raises:
        ConfigError: There is no such metric, or no such module.
    """
    module = metric_module(name, settings)
    try:
        return module_file(module)
    except (ImportError, AttributeError, ValueError):
        METRICS.found_in(module, f"metrics.{name}.module", METRICS.attribute)  # says in one line what is wrong
        raise


def stated(name: str, settings: Section) -> Stated:
    """Return what a metric states, without importing it.

    Raises:
        ConfigError: There is no such metric, or it does not state what it must.
    """
    return read_stated(metric_file(name, settings))


def metric_class(name: str, settings: Section | None = None) -> type[Metric]:
    """Import the module of a metric and return its class.

    Raises:
        ConfigError: There is no such metric, its module cannot be imported, or its class is not what the source says.
    """
    settings = settings or {}
    found = METRICS.found_in(metric_module(name, settings), f"metrics.{name}.module", METRICS.attribute)
    told = stated(name, settings)
    if (tuple(found.needs), dict(found.columns), tuple(found.files)) != (told.needs, told.columns, told.files):
        raise ConfigError(
            f"metrics.{name}: needs, columns and files of {found.__name__} are read from its source; write them as "
            "literals in the body of the class itself, and nowhere else"
        )
    if not isinstance(getattr(found, "name", None), str):
        raise ConfigError(f"metrics.{name}: {found.__name__} has no name; its signature begins with it")
    return found


def build_metric(name: str, settings: Section, device: str = "auto") -> Metric:
    """Build a metric from its section of the configuration.

    Args:
        name: The metric, e.g. ``bertscore``.
        settings: The section ``metrics.<name>``.
        device: ``auto`` | ``cpu`` | ``cuda``.

    Raises:
        ConfigError: No such metric, or a key of `settings` is unknown or missing.
    """
    return metric_class(name, settings).from_settings(settings, device)
