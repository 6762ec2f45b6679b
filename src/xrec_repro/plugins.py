"""What is chosen by name, and may come from outside: the class behind an entry of the configuration, and its settings.

A module of a room that assigns the room's attribute (``METHOD = …``) is a kind of its file's name; an entry may also
name a module outside the package, or an entry point of the room's group. To know them costs no heavy import: the
Snakefile, which is parsed again in every job, checks all entries here, so that such modules import torch and its like
within functions.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from xrec_repro.checks import hint, problems
from xrec_repro.errors import ConfigError

CHOICE = ("name", "kind", "module", "label")  # keys of an entry that are no settings
PACKAGE = Path(__file__).parent

# Types of settings: what JSON schema adds to a Python type.
Positive = Annotated[int, {"minimum": 1, "maximum": 2**31 - 1}]
Natural = Annotated[int, {"minimum": 0, "maximum": 2**31 - 1}]
PositiveNumber = Annotated[float, {"exclusiveMinimum": 0}]
Number = Annotated[float, {"minimum": 0}]

_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", NoneType: "null"}


@dataclass(frozen=True)
class Room:
    """A folder of this package whose modules are chosen by name.

    Attributes:
        name: Of the folder, of the section of the configuration, and of the group of entry points behind "xrec_repro.".
        attribute: What a module assigns its class to.
        base: The class that it must be derived from.
    """

    name: str
    attribute: str
    base: type

    @property
    def own(self) -> dict[str, str]:
        """The kinds of this package and the module of each."""
        return _kinds(self.name, self.attribute)

    def kinds(self) -> dict[str, str]:
        """Return the kinds at hand and the module of each, without importing one; this package wins a name."""
        points = {point.name: point.module for point in metadata.entry_points(group=f"{PACKAGE.name}.{self.name}")}
        return points | self.own

    def module_of(self, entry: Mapping[str, Any], place: str) -> str:
        """Return the dotted name of the module behind an entry.

        Args:
            entry: Of the room's section.
            place: Where it stands, for messages: ``methods.<name>``.

        Raises:
            ConfigError: It names neither a kind nor a module, or both, or an unknown kind.
        """
        kind, module = entry.get("kind"), entry.get("module")
        if module is None and kind in self.own:  # most often: to look for entry points takes longer
            return self.own[kind]
        known = self.kinds()
        if (kind is None) == (module is None):
            raise ConfigError(f"{place}: give it a kind ({', '.join(known)}) or a module of your own, one of the two")
        if module is None and kind not in known:
            raise ConfigError(f"{place}.kind: {kind!r} is not one of {', '.join(known)}{hint(kind, known)}")
        return module or known[kind]

    def chosen(self, entry: Mapping[str, Any], place: str) -> type:
        """Import the module behind an entry and return its class.

        Raises:
            ConfigError: As `module_of`; or the module cannot be imported, or does not assign the attribute.
        """
        key = "module" if entry.get("module") else "kind"
        return self.found_in(self.module_of(entry, place), f"{place}.{key}", self.attribute)

    def found_in(self, module: str, place: str, attribute: str) -> type:
        """Import a module and return the class that it assigns to the attribute.

        Raises:
            ConfigError: The module cannot be imported, or does not assign the attribute.
        """
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except Exception as error:  # whatever a user's module raises is told in one line
            why = " ".join(str(error).split())
            remedy = "install it, put its folder on PYTHONPATH, or correct it"
            raise ConfigError(
                f"{place}: {module} cannot be imported ({type(error).__name__}: {why}); {remedy}"
            ) from error
        if not (isinstance(found, type) and issubclass(found, self.base)):
            remedy = f"set it to a class derived from {self.base.__module__}.{self.base.__name__}"
            raise ConfigError(f"{place}: {module} has no {attribute}; {remedy}")
        return found

    def settings(self, entry: Mapping[str, Any], place: str, **more: Any) -> Any:
        """Return an entry's settings, typed and checked.

        Args:
            entry: Of the room's section.
            place: Where it stands, for messages.
            more: Settings that win over the entry's.

        Raises:
            ConfigError: As `chosen`, or names the first unknown, missing or unfit setting.
        """
        values = {key: value for key, value in entry.items() if key not in CHOICE} | more
        return read_settings(self.chosen(entry, place).Settings, values, place)


@lru_cache
def _kinds(room: str, attribute: str) -> dict[str, str]:
    found = (file for file in sorted((PACKAGE / room).glob("*.py")) if f"\n{attribute} = " in file.read_text("utf-8"))
    return {path.stem: f"{PACKAGE.name}.{room}.{path.stem}" for path in found}


def module_file(module: str) -> str:
    """Return the Python file of a module that can be imported."""
    return importlib.util.find_spec(module).origin


def read_settings(kind: type, values: Mapping[str, Any], place: str) -> Any:
    """Check settings and return them typed.

    Args:
        kind: A dataclass with fields of int, float, bool, str, Literal or Annotated (with what JSON schema adds).
        values: Setting -> value, as the configuration has them.
        place: Where they stand, for messages.

    Raises:
        ConfigError: A setting is unknown, missing, or not of its type; the line names it.
    """
    types = get_type_hints(kind, include_extras=True)
    required = {one.name: one.default is dataclasses.MISSING for one in dataclasses.fields(kind)}
    schema = {"properties": {name: _schema(types[name]) for name in required}, "additionalProperties": False}
    for problem in problems(dict(values), schema, place):
        raise ConfigError(problem)
    for name in required:
        if required[name] and name not in values:
            raise ConfigError(f"{place}.{name}: missing; give it")
    return kind(**values)


def _schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a Python type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _schema(parts[0]) | parts[1]
    if origin is Literal:
        return {"enum": list(parts)}
    if origin in (UnionType, Union):
        return {"anyOf": [_schema(part) for part in parts]}
    return {"type": _TYPES[kind]}
