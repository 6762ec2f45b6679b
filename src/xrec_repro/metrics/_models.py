"""What every metric with a model needs: where it is, that it is pinned, how it loads, how a signature shows it."""

import pickle
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from xrec_repro.device import pick_device
from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.identity import model_digest, sha256_file
from xrec_repro.shards import SCRATCH_SCORERS

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What transformers raises for a path, a file or a download that is not what it should be; TypeError: no vocabulary.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    ImportError,
    RuntimeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)


def local_folder(model: str, key: str) -> Path | None:
    """Return the folder that `model` names, or None where it names a repository of the hub.

    Args:
        model: A folder, or ``owner/name``.
        key: The section of the configuration, e.g. ``metrics.bleurt``, for the message.

    Raises:
        ConfigError: `model` can only be a path, and is no folder.
    """
    path = Path(model).expanduser()
    if path.is_dir():
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
    if folder is not None:
        name = folder.name if Path(model).expanduser().is_dir() else model
        return f"{name}@sha256:{model_digest(folder)[:12]}"
    return f"{model}@{revision}" if revision else model


@contextmanager
def _one_line(model: str | Path, key: str) -> Iterator[None]:
    try:
        yield
    except _LOADING_ERRORS as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise ModelError(
            f"{key.rpartition('.')[2]}: {model} cannot be loaded ({reason}); download it first, "
            f"or set {key}.model to a folder that holds it"
        ) from error


def load_pretrained(loader: Any, model: str | Path, revision: str | None, key: str, **options: Any) -> Any:
    """Return ``loader.from_pretrained(model, revision=revision, **options)``.

    Args:
        loader: A class of transformers (or built on it): a configuration, a tokenizer or a model.
        model: The folder of `local_folder`, or a hub repository.
        revision: The commit of a repository, None for a folder.
        key: The section of the configuration, e.g. ``metrics.bleurt``.
        options: Go to `from_pretrained`.

    Raises:
        ModelError: It cannot be loaded: not there, not downloaded, or broken.
    """
    if revision is not None:
        options["revision"] = revision
    with _one_line(model, key):
        return loader.from_pretrained(str(model), **options)


def load_network(
    loader: Any, model: str | Path, revision: str | None, key: str, longest: int, **options: Any
) -> nn.Module:
    """Load a model as `load_pretrained` does, but only if it is what the metric needs.

    transformers only warns where a checkpoint is of another architecture or lacks weights, and draws them at random.

    Args:
        loader: The model's class, whose configuration class knows its architecture.
        model: As in `load_pretrained`, like `revision`, `key` and `options`.
        revision: See there.
        key: See there.
        longest: The tokens that it must be able to read, ``<key>.max_length``.
        options: See there.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelError: It cannot be loaded, is of another architecture, or lacks weights.
        ConfigError: It reads fewer tokens than `longest`.
    """
    from transformers import PretrainedConfig

    name = key.rpartition(".")[2]
    with _one_line(model, key):
        found = PretrainedConfig.get_config_dict(str(model), revision=revision)[0].get("model_type")
    if found != loader.config_class.model_type:
        raise ModelError(
            f"{name}: {model} is a {found} model; set {key}.model to a {loader.config_class.model_type} model"
        )
    network, report = load_pretrained(loader, model, revision, key, output_loading_info=True, **options)
    if report["missing_keys"]:
        raise ModelError(
            f"{name}: {model} has no weights for {min(report['missing_keys'])}; set {key}.model to a "
            f"checkpoint of {loader.__name__}"
        )
    if longest > network.config.max_position_embeddings:
        raise ConfigError(
            f"{key}.max_length: {longest}, but {model} reads at most {network.config.max_position_embeddings} tokens"
        )
    return network.eval()


def torch_device(name: str) -> torch.device:
    """Return the device for ``auto`` | ``cpu`` | ``cuda``, on a GPU that this process has reserved.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    return torch.device(pick_device(name))


def torch_dtype(name: str, key: str) -> torch.dtype:
    """Return the number format for ``float32`` | ``float16`` | ``bfloat16``.

    Raises:
        ConfigError: Another name; names ``<key>.dtype``.
    """
    if name not in _DTYPES:
        raise ConfigError(f"{key}.dtype: {name!r} is not known; use one of: {', '.join(_DTYPES)}")
    return _DTYPES[name]
