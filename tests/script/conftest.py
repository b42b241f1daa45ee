"""A cache folder of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder in which profiles and recordings of this test are kept."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(folder))
    return folder
