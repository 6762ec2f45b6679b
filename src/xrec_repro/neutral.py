"""Which settings change nothing, and where: no rule runs again, and checkpoints go on, when one of them is edited."""

from collections.abc import Callable
from typing import Any

Settings = dict[str, Any]


def _always(settings: Settings, section: Settings) -> bool:
    return True


def _float32_llm(settings: Settings, section: Settings) -> bool:
    llm = settings.get("llm", {})
    return llm.get("dtype", "float32") == "float32" and llm.get("quantisation", "none") == "none"


def _apart(settings: Settings, section: Settings) -> bool:
    return section.get("invariance") == "exact" or _float32_llm(settings, section)


def _float32(settings: Settings, section: Settings) -> bool:
    return section.get("dtype", "float32") == "float32"


def _served(settings: Settings, section: Settings) -> bool:
    return section.get("base_url") is not None


def _named_server(settings: Settings, section: Settings) -> bool:
    return None not in (section.get("revision"), section.get("base_url"))


# The settings that change nothing, and where. A rule does not rerun and a checkpoint goes on when one of them is
# edited. `*` stands for any name. tests/unit/test_neutral.py proves each: byte for byte, or (those of `ROUNDING`) up to
# the rounding of float32 sums, which in 16-bit formats is no longer small. Of texts that leaves near ties: two tokens
# whose chances agree to six digits.
NEUTRAL: dict[str, Callable[[Settings, Settings], bool]] = {
    "generation.batch_size": _apart,
    "generation.invariance": _float32_llm,
    "tuning.checkpoint_every": _always,
    "tuning.micro_batch_size": _float32_llm,
    "tuning.activation_checkpointing": _float32_llm,
    "metrics.*.batch_size": _float32,
    "metrics.gptscore.base_url": _named_server,
    "metrics.gptscore.api_key_env": _always,
    "metrics.gptscore.timeout_s": _always,
    "metrics.gptscore.request_attempts": _always,
    "metrics.gptscore.concurrency": _always,
    "metrics.gptscore.cache": _always,
    "profiles.chat.base_url": _named_server,
    "profiles.chat.api_key_env": _always,
    "profiles.chat.timeout_s": _always,
    "profiles.chat.concurrency": _served,
}
ROUNDING = frozenset(
    {
        *("generation.batch_size", "generation.invariance", "metrics.*.batch_size"),
        *("tuning.micro_batch_size", "tuning.activation_checkpointing"),
    }
)
# What each source of a language model reads of the section `llm`.
_LLM_READS = {
    "hub": ("source", "repo", "revision", "dtype", "attention", "quantisation"),
    "local": ("source", "dtype", "attention", "quantisation"),  # and the digest of the folder, wherever it is
    "package": ("source", "package", "dtype", "attention", "quantisation"),
    "scratch": ("source", "dtype", "attention", "quantisation"),  # and the folder that pretraining makes of the rest
}


def significant(settings: Settings) -> Settings:
    """Return settings less those that change nothing.

    Args:
        settings: By section, e.g. ``{"generation": {…}, "llm": {…}}`` or ``{"metrics": {"bleurt": {…}}}``.
    """
    return _sift(settings, keep=lambda neutral: not neutral)


def neutral(settings: Settings) -> Settings:
    """Return of settings those that change nothing: what `significant` leaves out."""
    return _sift(settings, keep=lambda neutral: neutral)


def _sift(settings: Settings, keep: Callable[[bool], bool]) -> Settings:
    def sift(section: Settings, place: tuple[str, ...]) -> Settings:
        kept = {}
        for key, value in section.items():
            path = (*place, key)
            if isinstance(value, dict) and not _is_neutral(settings, section, path):
                inner = sift(value, path)
                if inner or (not value and keep(False)):
                    kept[key] = inner
            elif keep(_is_neutral(settings, section, path)):
                kept[key] = value
        return kept

    return sift(settings, ())


def _is_neutral(settings: Settings, section: Settings, path: tuple[str, ...]) -> bool:
    if path[0] == "llm" and len(path) == 2 and "source" in section:
        return path[1] not in _LLM_READS[section["source"]]
    for key, holds in NEUTRAL.items():
        parts = key.split(".")
        if len(parts) == len(path) and all(part in ("*", own) for part, own in zip(parts, path, strict=True)):
            return holds(settings, section)
    return False
