"""Write what the sections of the configuration say of their keys: beside them in config/config.yaml, and on the page.

``make docs`` runs it; a test fails where a file says something else than `xrec_repro.sections`.
"""

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xrec_repro import markdown
from xrec_repro.io import write_text
from xrec_repro.methods import METHODS
from xrec_repro.plugins import PACKAGE, Room, settings_schema
from xrec_repro.recommenders import RECOMMENDERS
from xrec_repro.sections import configuration_schema
from xrec_repro.setting_types import LARGEST, PART_OF, WHOLE

ROOT = Path(__file__).resolve().parents[1]
CONFIG, PAGE = ROOT / "config/config.yaml", ROOT / "docs/configuration.md"

WIDTH, COLUMN, LONGEST = 120, 28, 50  # of lines, of comments, and of code that has room for one behind it
_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: (?P<value>(?: *[^ #]\S*)+))?(?: +#.*)?")
_COMMENT = re.compile(r" {20,}#.*")
_ATTRIBUTE = re.compile(r"^    (\w+): (.+\n(?:     +.+\n)*)", re.MULTILINE)
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TYPES = {"object": "mapping", "array": "list", "string": "text", "boolean": "true or false", "null": "null"}


def commented(text: str) -> str:
    """Return config.yaml with the meaning of each key of a section beside it, where the line has room.

    Comments on lines of their own, of entries that are named freely, and of whole sections are left as they are.
    """
    lines: list[str] = []
    above: list[tuple[int, Any]] = [(-1, configuration_schema())]
    depth, told = 0, False
    for line in text.splitlines():
        if told and _COMMENT.fullmatch(line):
            continue
        found, told = (_KEY.fullmatch(line) if depth == 0 else None), False
        if found:
            above = [one for one in above if one[0] < len(found["indent"])]
            parent, value = above[-1][1], found["value"]
            node = parent.get("properties", {}).get(found["key"], {}) if WHOLE in parent else {}
            above.append((len(found["indent"]), node))
            code = f"{found['indent']}{found['key']}:{f' {value.strip()}' if value else ''}"
            told = _is_told(node, value) and len(code) <= LONGEST
            lines += _beside(code, node["description"]) if told else [line]
        else:
            lines.append(line)
        code = re.sub(r'"[^"]*"', "", line).split(" #")[0]
        if not code.lstrip().startswith("#"):
            depth += sum(map(code.count, "[{")) - sum(map(code.count, "]}"))
    return "\n".join(lines) + "\n"


def _is_told(node: Any, value: str | None) -> bool:
    return WHOLE not in node and "description" in node and (bool(value) or node.get("type") != "object")


def _beside(code: str, meaning: str) -> list[str]:
    column = COLUMN if len(code) < COLUMN else len(code) + 3
    first, *more = textwrap.wrap(meaning, WIDTH - column - 2, break_on_hyphens=False)
    return [f"{code:{column}}# {first}", *(f"{' ' * column}# {part}" for part in more)]


def page(schema: dict[str, Any]) -> str:
    """Return the tables of all keys, a section or kind each, as Markdown."""
    found = [*_sections(schema, ""), *_kinds(RECOMMENDERS), *_kinds(METHODS)]
    return "\n".join(line for place, node in found for line in _section(place, node))


def _kinds(room: Room) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what each kind of this package adds to its entries: types and meanings are its class of settings'."""
    for kind in sorted(kind for kind, module in room.kinds().items() if module.startswith(f"{PACKAGE.name}.")):
        found = room.chosen({"kind": kind}, room.name)
        node = settings_schema(found.Settings) | {"description": (found.__doc__ or "").splitlines()[0]}
        for name, meaning in _meanings(found.Settings).items():
            node["properties"][name] |= {"description": meaning}
        yield f"{room.name}.<name>, kind: {kind}", node


def _meanings(kind: type) -> dict[str, str]:
    """Return field -> meaning, from the part Attributes of the docstrings of a class and of its bases."""
    texts = [(inspect.cleandoc(one.__doc__ or "") + "\n").partition("Attributes:\n")[2] for one in kind.__mro__[::-1]]
    found = {name: meaning for text in texts for name, meaning in _ATTRIBUTE.findall(text)}
    return {name: " ".join(meaning.replace("``", "`").split()) for name, meaning in found.items()}


def _sections(node: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the sections below a section, and where each stands."""
    for name, below in node["properties"].items():
        forms = {name: below, f"{name}.<name>": below.get("additionalProperties"), f"{name}.<row>": below.get("items")}
        for step, found in forms.items():
            where = f"{place}.{step}" if place else step
            if isinstance(found, dict) and "properties" in found and PART_OF not in found:
                yield where, found
                yield from _sections(found, where)


def _section(place: str, node: dict[str, Any]) -> list[str]:
    rows = [(name, one) for name, one in node["properties"].items() if one and WHOLE not in one]
    if not rows:
        return []
    lines = [f"### `{place}`", "", node["description"], "", "| key | value | default | meaning |", "|---|---|---|---|"]
    for name, one in rows:
        cells = f"`{name}`", value(one), _default(name, one, node), one.get("description", "")
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return [*lines, ""]


def value(node: dict[str, Any]) -> str:
    """Return in words which values a schema allows."""
    if "enum" in node or "const" in node:
        return ", ".join(f"`{one}`" for one in node.get("enum", [node.get("const")]))
    if "anyOf" in node:
        return " or ".join(map(value, node["anyOf"]))
    bounds = [f"{sign} {node[name]:g}" for name, sign in _BOUNDS.items() if node.get(name, LARGEST) < LARGEST]
    kinds = [node["type"]] if isinstance(node.get("type"), str) else node.get("type", ["any"])
    words = [" ".join([_TYPES.get(kind, kind), *(bounds if kind in ("integer", "number") else ())]) for kind in kinds]
    return " or ".join(words)


def _default(name: str, node: dict[str, Any], section: dict[str, Any]) -> str:
    if "default" not in node:
        return "must be given" if name in section.get("required", ()) and WHOLE not in section else ""
    if node["default"] is None and "null" not in node.get("type", ()):
        return ""  # may be left out
    return f"`{json.dumps(node['default'], ensure_ascii=False)}`"


def filled(text: str) -> str:
    """Return the page of the configuration with its tables."""
    return markdown.filled(text, "keys", page(configuration_schema()), PAGE)


def main() -> int:
    """Write both files."""
    write_text(CONFIG, commented(CONFIG.read_text(encoding="utf-8")))
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
