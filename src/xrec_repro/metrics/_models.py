"""What metrics with a model need beside its loading: that it is of the right kind, and its device and number format."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from xrec_repro.device import pick_device
from xrec_repro.errors import ConfigError, ModelError
from xrec_repro.lm.load import load_pretrained, one_line

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
    with one_line(model, f"{key}.model"):
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
