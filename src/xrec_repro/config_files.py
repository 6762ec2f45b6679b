"""Reading of configuration files, stricter than YAML: a key that is given twice is an error, not the last one's value.

Imported by the Snakefile through `xrec_repro.config`, so free of heavy imports.
"""

import json
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from xrec_repro.errors import ConfigError

# What a value that is written wrongly makes YAML's constructors raise, beside its own errors: a date of month 13, an
# integer of too many digits, a tag that does not fit.
_ODD_VALUES = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Read a configuration file: YAML in UTF-8, or JSON.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be read, is not one YAML mapping, or gives a key twice; names file, key and lines.
    """
    try:  # ten times as fast, where PyYAML has it, and files are read in every job; its errors say less
        return _read(path, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except ConfigError:
        return _read(path, yaml.SafeLoader)


def with_added(config: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return an overlay whose ``run.experiments`` may be ``{add: [names]}``: the list of `config` and these behind it.

    Args:
        config: What it is laid over.
        over: The overlay; of another form it is returned as it is.

    Raises:
        ConfigError: ``add`` has no list of names, stands beside other keys, or there is no list to add to.
    """
    value, known = _experiments(over), _experiments(config)
    if not isinstance(value, dict):
        return over
    names = value.get("add")
    if set(value) != {"add"} or not isinstance(names, list) or not names or not isinstance(known, list):
        raise ConfigError("run.experiments: neither a list nor {add: [names]}, which adds to a list; write one of them")
    more = [name for name in names if name not in known]
    return {**over, "run": {**over["run"], "experiments": [*known, *more]}}


def added_experiments(paths: Iterable[str | Path], config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration that Snakemake has merged with the list of ``run.experiments``, where it names additions.

    Snakemake lets a mapping replace a list, so that the lists are read from the files again.

    Args:
        paths: The files, the base first.
        config: All of them, and what the command line gives.

    Raises:
        ConfigError: As `with_added`.
    """
    listed: dict[str, Any] = {}
    if not isinstance(_experiments(config), dict):
        return config
    for path in paths:
        over = with_added(listed, read_config_file(path))
        if (experiments := _experiments(over)) is not None:
            listed = {"run": {"experiments": experiments}}
    return with_added(listed, config)


def _experiments(config: dict[str, Any]) -> Any:
    return config["run"].get("experiments") if isinstance(config.get("run"), dict) else None


def _read(path: str | Path, loader_class: type) -> dict[str, Any]:
    text = _read_text(path)
    try:
        # Snakemake, too, takes for JSON what is JSON. JSON has tabs between values alone, where YAML wants blanks.
        value, is_json = json.loads(text), True
        text = text.replace("\t", " ")
    except (ValueError, RecursionError):
        value, is_json = None, False
    try:
        loader = loader_class(text)
        node = loader.get_single_node()
        if node is not None:
            _refuse_repeated(loader, node, path, [], set())
        value = value if is_json or node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}" if mark else ""
        why = ": ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{path}: not valid YAML{place}: {' '.join(why.split())}; correct it{_hint(why)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}; correct it") from error
    except _ODD_VALUES as error:
        why = " ".join(str(error).split())[:160]
        raise ConfigError(f"{path}: a value cannot be read ({why}); correct it, or put it in quotes") from error
    if value is None:
        raise ConfigError(f"{path}: there is nothing in it; write a setting, or leave the file out")
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys to values, not {type(value).__name__}")
    return value


def check_files(paths: Iterable[str | Path]) -> None:
    """Check the files that Snakemake has read by itself, where the last of two equal keys wins.

    Args:
        paths: ``workflow.configfiles``.

    Raises:
        ConfigError: As for `read_config_file`.
    """
    for path in paths:
        read_config_file(path)


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: a folder, not a configuration file; name a file in it") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8 at byte {error.start}; save it as UTF-8 (iconv)") from error


def _hint(why: str) -> str:
    if "'\\t'" in why:
        return ", with blanks in place of tabs"
    return " to one document" if "another document" in why else ""


def _refuse_repeated(
    loader: yaml.SafeLoader, node: yaml.Node, path: str | Path, above: list[tuple[str, int]], done: set[int]
) -> None:
    """Refuse a mapping, at whatever depth, with two equal keys, and one that holds itself.

    Args:
        loader: Which makes values of keys.
        node: Where to look.
        path: The file, for the message.
        above: Key and identity of each node that leads here.
        done: Identities of nodes that were found right: an anchor is looked at once.
    """
    if id(node) in (place for _, place in above):
        raise ConfigError(f"{path}: line {node.start_mark.line + 1}: an anchor that holds itself; write it out")
    if id(node) in done or isinstance(node, yaml.ScalarNode):
        return
    if isinstance(node, yaml.MappingNode):
        below = [(str(key.value), child) for key, child in node.value]
        _refuse_equal(loader, [key for key, _ in node.value], path, [part for part, _ in above])
    else:
        below = [(str(row), child) for row, child in enumerate(node.value)]
    for key, child in below:
        _refuse_repeated(loader, child, path, [*above, (key, id(node))], done)
    done.add(id(node))


def _refuse_equal(loader: yaml.SafeLoader, keys: list[yaml.Node], path: str | Path, above: list[str]) -> None:
    seen: dict[tuple[bool, Hashable], int] = {}
    for key in keys:
        merges = key.tag == "tag:yaml.org,2002:merge"
        value = key.value if merges else loader.construct_object(key, deep=True)
        if not isinstance(value, Hashable):  # which YAML's constructor refuses in its own words
            continue
        line = key.start_mark.line + 1
        if (merges, value) in seen:
            first = seen[merges, value]
            lines = f"lines {first} and {line}" if first != line else f"line {line}"
            remedy = "write one <<: [*one, *other]" if merges else "put what both say below one of them"
            raise ConfigError(
                f"{path}: {'.'.join([*above, str(value)])}: given twice, in {lines}, and the first would be lost; "
                f"{remedy}"
            )
        seen[merges, value] = line
