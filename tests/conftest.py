"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def need(path: Path) -> Path:
    if path.exists():
        return path
    message = f"{path.name} is not beside the checkout ({path})"
    if os.environ.get("XREC_REQUIRE_SHARED") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of released data and golden numbers that lies beside the checkout."""
    return need(ROOT.parent / "shared")
