"""A cache folder of each test's own, and Python's way of showing an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder in which profiles and recordings of this test are kept."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def plain_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which torch.distributed was once begun shows errors with a rank before each line, for good."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
