"""What settings are made of: types with bounds, sections of keys, and the JSON schema of both.

Imported by the Snakefile, which is parsed again in every job: it must stay free of heavy imports.
"""

from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

LARGEST = 2**31 - 1
UNIQUE = {"uniqueItems": True}

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy's and scikit-learn's generators take
Number = Annotated[float, Field(ge=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, json_schema_extra=UNIQUE)]
Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
Pair = Annotated[str, Field(pattern="^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$")]
Module = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*$")]
Variable = Annotated[str, Field(pattern="^[A-Z_][A-Z0-9_]*$")]
Files = Text | Texts
Dtype = Literal["float32", "bfloat16", "float16"]

_REF = "#/$defs/"
WHOLE, PART_OF = "x-whole", "x-part-of"  # marks in a schema: of sections, and of what has some of their keys alone


class Section(BaseModel):
    """Keys of the configuration: config/config.yaml has all of them, with the defaults that stand here."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, json_schema_extra={WHOLE: True})


PART = ConfigDict(json_schema_extra={PART_OF: True})  # of a section, or one of sections, that may leave out any key


class Entry(BaseModel):
    """Keys of what is named freely; it may leave out those that have a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


def key(meaning: str, default: Any = ..., **more: Any) -> Any:
    """Declare a key: its meaning in one line and its default; without one, it must be given."""
    return Field(default, description=meaning, **more)


@lru_cache
def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a type, without references; that of a section requires all of its keys."""
    found = TypeAdapter(kind).json_schema()
    return _plain(found, found.pop("$defs", {}), part=False)


def _plain(node: Any, known: dict[str, Any], part: bool) -> Any:
    """Return a schema with what its references name in their place, and choices of types as one list of them."""
    if isinstance(node, list):
        return [_plain(one, known, part) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = known[node["$ref"].removeprefix(_REF)] | {name: one for name, one in node.items() if name != "$ref"}
    part, section = part or PART_OF in node, WHOLE in node or PART_OF in node
    dropped = (WHOLE, "required") if part and section else ()
    plain = {name: _plain(one, known, part) for name, one in node.items() if name not in dropped}
    if section and not part:
        plain["required"] = list(node.get("properties", ()))
    if "patternProperties" in plain:  # pydantic's form would let keys of another pattern pass
        ((pattern, value),) = plain.pop("patternProperties").items()
        plain |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
    plain = one_of_types(plain)
    # In the order in which problems are told: of what kind a value must be, then which; a choice says both at once.
    kind = {"type": plain.pop("type")} if "type" in plain else {}
    return plain if {"enum", "const"} & plain.keys() else kind | plain


def one_of_types(schema: dict[str, Any]) -> dict[str, Any]:
    """Return ``anyOf`` some types as one schema with a list of types, whose errors say what is wrong with a value."""
    options = schema.get("anyOf", [])
    if not options or any("enum" in one or "const" in one or "type" not in one for one in options):
        return schema
    merged = {name: value for one in options for name, value in one.items()}
    types = [one["type"] for one in options]
    return merged | {"type": types} | {name: value for name, value in schema.items() if name != "anyOf"}
