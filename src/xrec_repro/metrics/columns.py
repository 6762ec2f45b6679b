"""What a metric states of itself: what it needs, and how its columns are to be read and printed.

Its class states it in its own body, as literals, and here it is read from the source, as `identity.libraries_of` reads
the libraries: the plan, which is made again in every job, and the paper stage ask about metrics without importing one,
whatever those import, and the digest of a table's code has no metric's code in it. Who prints columns is given them by
its rule (`Plan.metric_columns`), so that an edit of a heading makes the tables due.
"""

import ast
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from xrec_repro.errors import ConfigError

NEEDS = ("reference", "truth", "rating", "feature")
_METRIC = "METRIC"


@dataclass(frozen=True)
class Column:
    """A column of scores.

    Attributes:
        label: Its name for people.
        heading: Its name in tables, where room is scarce; "" for the label.
        decimals: How many are printed.
        smaller_is_better: Whether it is; else larger is better.
        whole: Whether its mean is a score of the whole corpus, such as USR, and no mean over examples: its standard
            deviation means nothing, and it compares between sets of one size only.
    """

    label: str
    heading: str = ""
    decimals: int = 4
    smaller_is_better: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Stated:
    """What a metric's class states.

    Attributes:
        needs: Of `NEEDS`: what it reads beside the predictions.
        columns: Name -> column.
        files: Names of its settings that are paths of the user's files or models; one called ``model`` runs.
    """

    needs: tuple[str, ...] = ("reference",)
    columns: Mapping[str, Column] | None = None
    files: tuple[str, ...] = ()


@lru_cache
def read_stated(file: str | Path) -> Stated:
    """Read what the class behind ``METRIC`` of a module states, without importing the module.

    Raises:
        ConfigError: It has no such class, the class has no columns, or states something else than literals.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    named = {target.id: node.value for node in tree.body for target in _targets(node)}
    name = getattr(named.get(_METRIC), "id", None)
    body = next((node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if body is None:
        raise ConfigError(f"{file}: no {_METRIC} that names a class of this module; assign one")
    parts = {target.id: node.value for node in body for target in _targets(node)}
    found = {
        part: _value(parts[part], f"{file}: {name}.{part}") for part in ("needs", "columns", "files") if part in parts
    }
    stated = Stated(**found)
    if not stated.columns:
        raise ConfigError(f'{file}: {name} states no columns; write columns = {{"name": Column("Label")}} in its body')
    if unknown := set(stated.needs).difference(NEEDS):
        raise ConfigError(f"{file}: {name}.needs: {min(unknown)!r} is not one of {', '.join(NEEDS)}")
    return stated


def _targets(node: ast.stmt) -> list[ast.Name]:
    """Return the names that a statement assigns a value to."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target for target in targets if isinstance(target, ast.Name) and node.value is not None]


def _value(node: ast.expr, place: str) -> Any:
    try:
        if isinstance(node, ast.Dict):
            return {ast.literal_eval(key): _column(one) for key, one in zip(node.keys, node.values, strict=True)}
        return tuple(ast.literal_eval(node))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: not of literals; it is read without running the module") from error


def _column(node: ast.expr) -> Column:
    if not (isinstance(node, ast.Call) and getattr(node.func, "id", None) == Column.__name__):
        raise ValueError
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    return Column(*map(ast.literal_eval, node.args), **named)


# --- Asked by those who print columns -----------------------------------------------------------------------------
Told = Mapping[str, Mapping[str, Mapping[str, Any]]]
_known: dict[str, dict[str, Column]] = {}


def as_told(stated: Mapping[str, Stated]) -> Told:
    """Return metric -> column -> what is stated of it, in types of JSON."""
    return {name: {key: asdict(one) for key, one in each.columns.items()} for name, each in stated.items()}


def declare(told: Told) -> None:
    """Make known which metrics there are, with their columns, in place of those of this package."""
    _known.clear()
    _known.update({name: {key: Column(**one) for key, one in each.items()} for name, each in told.items()})


def own_modules() -> dict[str, Path]:
    """Return the metrics of this package and the file of each."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {file.stem: file for file in files if f"\n{_METRIC} = " in file.read_text(encoding="utf-8")}


def known_metrics() -> dict[str, dict[str, Column]]:
    """Return metric -> column -> what is stated of it: of those that were declared, else of those of this package."""
    if not _known:
        declare(as_told({name: read_stated(file) for name, file in own_modules().items()}))
    return _known


def known_columns() -> dict[str, Column]:
    """Return all columns of `known_metrics`."""
    return {name: column for columns in known_metrics().values() for name, column in columns.items()}


def stated_column(name: str) -> Column:
    """Return what is stated of a column; of one that is not known, its name is its label."""
    return known_columns().get(name, Column(name))
