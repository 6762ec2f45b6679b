"""Recommenders by name: from an entry of the configuration to its class.

A module of this package that has a ``RECOMMENDER`` is a kind of its file's name; an entry may also name a module
outside the package, or an entry point of the group `GROUP`. To know them costs no heavy import: the Snakefile, which is
parsed again in every job, checks all entries here.
"""

import importlib
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

from xrec_repro.checks import hint
from xrec_repro.errors import ConfigError
from xrec_repro.recommenders.base import Recommender, Settings, read_settings

GROUP = "xrec_repro.recommenders"
CHOICE = ("kind", "module")  # keys of an entry that say which recommender; all others are its settings


def kinds() -> dict[str, str]:
    """Return the kinds at hand and the module of each, without importing one; a kind of this package wins its name."""
    own = (path for path in sorted(Path(__file__).parent.glob("*.py")) if "\nRECOMMENDER = " in path.read_text("utf-8"))
    points = {point.name: point.module for point in metadata.entry_points(group=GROUP)}
    return points | {path.stem: f"{__name__}.{path.stem}" for path in own}


def module_of(entry: dict[str, Any], place: str) -> str:
    """Return the dotted name of the module behind an entry.

    Args:
        entry: Of the section ``recommenders``, whole.
        place: Where it stands, for messages: ``recommenders.<name>``.

    Raises:
        ConfigError: It names neither a kind nor a module, or both, or an unknown kind.
    """
    kind, module = (entry.get(key) for key in CHOICE)
    known = kinds()
    if (kind is None) == (module is None):
        raise ConfigError(f"{place}: give it a kind ({', '.join(known)}) or a module of your own, one of the two")
    if module is None and kind not in known:
        raise ConfigError(f"{place}.kind: {kind!r} is not one of {', '.join(known)}{hint(kind, known)}")
    return module or known[kind]


def recommender_class(entry: dict[str, Any], place: str) -> type[Recommender]:
    """Import the module behind an entry and return its class.

    Raises:
        ConfigError: As `module_of`; or the module cannot be imported, or has no ``RECOMMENDER``.
    """
    name = module_of(entry, place)
    key = next(key for key in CHOICE if key in entry)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a user's module raises is told in one line
        why = " ".join(str(error).split())
        remedy = "install it, put its folder on PYTHONPATH, or correct it"
        raise ConfigError(
            f"{place}.{key}: {name} cannot be imported ({type(error).__name__}: {why}); {remedy}"
        ) from error
    found = getattr(module, "RECOMMENDER", None)
    if not (isinstance(found, type) and issubclass(found, Recommender)):
        remedy = "set it to a class derived from xrec_repro.recommenders.base.Recommender"
        raise ConfigError(f"{place}.{key}: {name} has no RECOMMENDER; {remedy}")
    return found


def settings_of(entry: dict[str, Any], place: str) -> tuple[type[Recommender], Settings]:
    """Return the class of an entry and its settings, checked.

    Raises:
        ConfigError: As `recommender_class`, or names the first unknown, missing or unfit setting.
    """
    found = recommender_class(entry, place)
    return found, read_settings(found.Settings, {k: v for k, v in entry.items() if k not in CHOICE}, place)


def module_file(entry: dict[str, Any], place: str) -> str:
    """Return the Python file of the module behind an entry, whose code decides the embeddings."""
    recommender_class(entry, place)
    return importlib.util.find_spec(module_of(entry, place)).origin
