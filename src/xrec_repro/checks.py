"""Checks of values against JSON schemas, with errors that name the key and say what to write instead.

The Snakefile, which is parsed again in every job, imports this module: it must stay free of heavy imports.
"""

import difflib
import math
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from xrec_repro.setting_types import WHOLE


def hint(name: str, known: Any) -> str:
    """Return which of the known names was probably meant, in brackets; nothing where none is near."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _is_integer(_: Any, value: Any) -> bool:
    # JSON schema takes 5.0 for an integer, Python's loops and sizes do not.
    return isinstance(value, int) and not isinstance(value, bool)


_TYPES = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
_Validator = validators.extend(Draft202012Validator, type_checker=_TYPES)


def problems(value: Any, schema: dict[str, Any], within: str = "") -> Iterator[str]:
    """Yield what is wrong with a value under a schema, one line each, by place.

    Args:
        value: What YAML holds.
        schema: A JSON schema.
        within: Where the value stands in the configuration, if it is not the whole of it.
    """
    errors = sorted(_Validator(schema).iter_errors(value), key=lambda e: [str(p) for p in e.absolute_path])
    for error in errors:
        place = ".".join([*filter(None, [within]), *map(str, error.absolute_path)])
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            unknown = [key for key in error.instance if key not in known]
            where = f"{place}.{unknown[0]}" if place else unknown[0]
            yield f"{where}: unknown key{hint(unknown[0], known)}"
        elif error.validator == "enum":
            yield f"{place}: {error.instance!r} is not one of {', '.join(map(str, error.validator_value))}"
        elif error.validator == "required" and WHOLE in error.schema:
            missing = next(key for key in error.validator_value if key not in error.instance)
            where = f"{place}.{missing}" if place else missing
            yield f"{where}: missing; config/config.yaml gives its default"
        else:
            yield f"{place or 'top level'}: {error.message}{_number_hint(error)}"


def _number_hint(error: ValidationError) -> str:
    """Return how to write a number that YAML takes for a text (1e-4) or that is whole by its value alone (5.0)."""
    if error.validator != "type" or not {"number", "integer"} & set(listed(error.validator_value)):
        return ""
    try:
        number = float(error.instance)
    except (TypeError, ValueError):
        return ""
    if isinstance(error.instance, bool) or not math.isfinite(number):
        return ""
    if number.is_integer() and abs(number) < 2**53:
        return f"; write {int(number)}"
    return f"; write {number:.6e}" if isinstance(error.instance, str) else ""


def listed(names: str | list[str]) -> list[str]:
    """Return a list of what may stand alone."""
    return [names] if isinstance(names, str) else names


def impossible(value: Any, place: str = "") -> Iterator[str]:
    """Yield what no setting can be, which the schema's comparisons would let pass or choke on."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{place}: {value} is not a number to compute with; write a finite one"
    elif isinstance(value, int) and value.bit_length() > 63:
        yield f"{place}: an integer of {value.bit_length()} bits is more than any setting can be; write a smaller one"
    elif isinstance(value, list):
        for row, one in enumerate(value):
            yield from impossible(one, f"{place}.{row}")
    elif isinstance(value, dict):
        for key, one in value.items():
            below = f"{place}.{key}" if place else f"{key}"
            if not isinstance(key, str):
                yield f"{below}: a key is a text, not {type(key).__name__}; put it in quotes"
            yield from impossible(one, below)
