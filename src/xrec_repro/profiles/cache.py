"""Answers of chat models on disk: a file each, so that any number of machines may share the folder."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from xrec_repro.errors import DataError, ModelError
from xrec_repro.identity import digest_json, model_digest, sha256_file
from xrec_repro.io import atomic_path
from xrec_repro.profiles.chat_models import Settings, check_url
from xrec_repro.profiles.replies import Completion, Messages

log = logging.getLogger("xrec_repro")

DTYPE = "auto"  # of a model that runs here: that of its file


class AnswerCache:
    """Answers by key, kept so that no prompt is paid for twice.

    An answer is the file ``<first two digits of the key>/<key>.json``, which takes its name when it is whole. That
    needs no lock, and so threads, processes and the nodes of a cluster may write at the same time, also the same
    answer: the last one stays. What a killed process left unfinished has no such name and is never read.

    Args:
        folder: Folder of the files; made with the first of them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._answers: dict[str, Completion] = {}
        _mention_older(self.folder)

    def get(self, key: str) -> Completion | None:
        """Return an answer, or None where there is none yet.

        Raises:
            DataError: Its file holds something else.
        """
        if key not in self._answers:
            path = self._path(key)
            try:
                self._answers[key] = Completion(**json.loads(path.read_bytes()))
            except FileNotFoundError:
                return None
            except (OSError, ValueError, TypeError, RecursionError) as error:
                raise DataError(f"{path}: not a cached answer ({type(error).__name__}); delete it") from None
        return self._answers[key]

    def add(self, key: str, answer: Completion) -> None:
        """Remember an answer and write its file."""
        with atomic_path(self._path(key)) as temporary:
            temporary.write_text(json.dumps(asdict(answer)), encoding="ascii")
        self._answers[key] = answer

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("??/*.json"))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


class OneModel:
    """The model that answers, by its own account: the same one for all texts or scores of a file.

    What a server serves under a name may change, and an answer of another model than the answers before it, kept ones
    included, is an error.

    Args:
        section: Name of the settings' section, for errors.

    Attributes:
        name: The model; "" as long as none has said its name.
        fingerprints: What the server gave as ``system_fingerprint``; it may differ between answers of one model.
        left_out: Settings that were not sent with the questions, since the server refuses them.
    """

    def __init__(self, section: str) -> None:
        self.name, self.fingerprints, self.left_out = "", set[str](), set[str]()
        self._section, self._lock = section, threading.Lock()

    def note(self, completion: Completion) -> None:
        """Note who gave an answer.

        Raises:
            ModelError: Another model than before.
        """
        with self._lock:
            if completion.model and self.name not in ("", completion.model):
                raise ModelError(
                    f"{self.name} answered before, now {completion.model}; one file must not mix models: set "
                    f"{self._section}.model to one of them, or {self._section}.revision to a new name to ask all again"
                )
            self.name = self.name or completion.model
            self.fingerprints |= {completion.fingerprint} - {""}
            self.left_out |= {completion.left_out} - {""}


@lru_cache
def _mention_older(folder: Path) -> None:
    older = folder / "answers.jsonl"
    if older.is_file():
        log.info("%s: answers of an older version, which are not read; delete it", older)


def answer_key(settings: Settings, messages: Messages, seed: int = 0, section: str = "profiles.chat") -> str:
    """Return the key of an answer: a digest of everything that decides it.

    Args:
        settings: With base_url, model, revision, temperature and max_new_tokens.
        messages: What is asked.
        seed: Of sampling; decides nothing at temperature 0.
        section: Name of the settings' section, for errors.

    Raises:
        ModelError: The model is a folder without weights.
        ConfigError: The server's address is none.
    """
    sampling = [settings[name] for name in ("temperature", "max_new_tokens")]
    named = settings["base_url"] or not Path(settings["model"]).expanduser().is_dir()
    model = [*((settings["model"], settings["revision"]) if named else ()), model_place(settings, section)]
    return digest_json([*model, *sampling, seed if settings["temperature"] else None, messages])


def model_place(settings: Settings, section: str = "profiles.chat") -> str:
    """Return where a model lives, for keys: what tells it from another one of the same name.

    Of a server, its address without credentials; or, where ``revision`` is given, that alone: a model that is served on
    a cluster has another address each day, and the revision says that it is still the same. Of a folder, the digest of
    its content and the number format that it is loaded in. The hub's repositories are told apart by name and revision.

    Raises:
        ModelError: The folder holds no weights.
        ConfigError: The address is none.
    """
    if settings["base_url"]:
        return "a server" if settings["revision"] else check_url(settings["base_url"], section)[0].rstrip("/")
    folder = Path(settings["model"]).expanduser()
    if not folder.exists():
        return f"hub {DTYPE}"
    try:
        return f"{_digest_once(folder)} {DTYPE}"
    except ModelError as error:
        raise ModelError(f"{section}.model: {folder} cannot be loaded ({error})") from None


@lru_cache
def _digest_once(folder: Path) -> str:
    """Return the digest of a model; within a process, whose every prompt asks for it, the folder is read once."""
    return sha256_file(folder) if folder.is_file() else model_digest(folder)
