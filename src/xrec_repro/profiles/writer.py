"""Makes the chat backend for a stage that is set to use it."""

from pathlib import Path
from typing import Any

from xrec_repro.profiles.chat import ChatBackend

STYLES = ("amazon", "yelp", "google")  # the releases whose prompts differ


def chat_writer(
    settings: dict[str, Any], key: str, domain: str, source: str, cache: str | Path, device: str
) -> ChatBackend | None:
    """Return the chat backend, or None where another one is set.

    Args:
        settings: Section ``profiles``.
        key: ``backend`` for profiles, ``references`` for reference explanations.
        domain: ``book`` or ``business``.
        source: Where the data set came from; selects the wording of the prompts where a release has its own.
        cache: Folder of the answers.
        device: Where a local model runs.
    """
    if settings[key] != "chat":
        return None
    return ChatBackend(
        settings["chat"],
        domain,
        cache,
        settings["max_words"],
        style=source if source in STYLES else None,
        seed=settings["seed"],
        device=device,
    )
