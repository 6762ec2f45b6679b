"""GGUF files: their weights written once as safetensors, with a configuration and a tokenizer that say what they say.

transformers (4.57) reads GGUF too, but anew in every job, with the package accelerate, and with a tokenizer of Llama's
kind whose end is its beginning. Here its conversions of weights and vocabulary are used, and the rest is read from the
file's own fields.
"""

import json
import logging
from pathlib import Path
from typing import Any

from xrec_repro.errors import ModelError
from xrec_repro.identity import digest_cache, model_digest, sha256_file
from xrec_repro.io import atomic_folder

log = logging.getLogger("xrec_repro")

_VERSION = 1  # of what is written; raised by hand when it changes
_NOTE = "unpacked.json"
_SPECIAL = 3  # type of a token that marks something: GGUF's CONTROL
_LLAMA_3 = (  # its tokenizer.json
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def is_gguf(path: str | Path) -> bool:
    """Tell whether a path is a GGUF file's, by its name."""
    return Path(path).suffix == ".gguf"


def unpacked(file: Path, key: str) -> Path:
    """Return the folder of a GGUF file's model, in float32; it is made once a machine, in the user's cache folder.

    Args:
        file: The GGUF file.
        key: Of the configuration, for errors.

    Raises:
        ModelError: The package gguf is missing, or transformers cannot read such a file.
    """
    digest = sha256_file(file)
    folder = digest_cache().parent / "models" / f"{digest[:16]}-{_VERSION}"
    if not _is_whole(folder):
        log.info("%s: unpacking %s to %s", key, file.name, folder)
        _unpack(file, folder, digest, key)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        return note["model"] == model_digest(folder)
    except (OSError, ValueError, KeyError, TypeError, ModelError):
        return False


def _unpack(file: Path, folder: Path, digest: str, key: str) -> None:
    try:
        with atomic_folder(folder) as scrap:
            _write(file, scrap, key)
            (scrap / _NOTE).write_text(json.dumps({"of": digest, "model": model_digest(scrap)}), encoding="utf-8")
    except OSError as error:
        if not _is_whole(folder):  # another job may have been first
            raise ModelError(
                f"{key}: {folder} cannot be written ({error.strerror or error}); set XDG_CACHE_HOME to a folder with "
                f"some gigabytes of room"
            ) from error


def _write(file: Path, folder: Path, key: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        from gguf import GGUFReader

        read = load_gguf_checkpoint(str(file))
        kind = read["config"].pop("model_type")
        config = AutoConfig.for_model(kind, **read["config"])
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        tensors = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
        missing, _ = model.load_state_dict(tensors, strict=False, assign=True)
        model.tie_weights()
        if lacking := sorted(set(missing) - set(model._tied_weights_keys or ())):
            raise ValueError(f"no weights for {lacking[0]}")
        pre = GGUFReader(file).fields.get("tokenizer.ggml.pre")
        tokenizer = _tokenizer(kind, read["tokenizer"], read["tokenizer_config"], pre.contents() if pre else "default")
    except ImportError as error:
        raise ModelError(
            f"{key}: {file.name} needs the package gguf, which is not installed; pip install gguf"
        ) from error
    except (ValueError, KeyError, NotImplementedError, AttributeError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"{key}: transformers cannot read {file} ({' '.join(str(error).split())[:200] or type(error).__name__}); "
            f"copy it again if it is broken, else take one of another "
            f"architecture or quantisation, or a folder with safetensors"
        ) from error
    model.float().save_pretrained(folder)
    ends = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    GenerationConfig(**{f"{name}_token_id": index for name, index in ends.items()}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(kind: str, fields: dict[str, Any], more: dict[str, Any], pre: str) -> Any:
    """Make the tokenizer of a GGUF file; its named special tokens are those of the file."""
    from tokenizers import decoders, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.ggml import convert_gguf_tokenizer

    backend, _ = convert_gguf_tokenizer(kind, fields)
    tokens, names = fields["tokens"], {}
    for name in ("bos", "eos", "unk", "pad"):
        index = fields.get(f"{name}_token_id")
        names |= {f"{name}_token": tokens[index]} if index is not None else {}
    marks = [token for token, kind in zip(tokens, fields.get("token_type", ()), strict=False) if kind == _SPECIAL]
    if fields.get("tokenizer_type") == "gpt2" and kind in ("llama", "mistral"):
        backend.pre_tokenizer = _bytewise(pre)
        backend.decoder, backend.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=more.get("chat_template"),
        additional_special_tokens=[mark for mark in marks if mark not in names.values()],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def _bytewise(pre: str) -> Any:
    """Return what cuts a text before its pieces are merged, by GGUF's name of it (tokenizer.ggml.pre)."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if pre == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    if pre == "llama-bpe":
        return Sequence([Split(Regex(_LLAMA_3), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
    if pre in ("default", "gpt-2"):
        return ByteLevel(add_prefix_space=False)
    raise ValueError(f"its tokenizer cuts texts as {pre!r} does, which is not known here")
