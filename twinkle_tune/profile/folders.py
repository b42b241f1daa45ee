"""The user's own folder for what may be lost: past outcomes and locks."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "TWINKLE_TUNE_CACHE"
"""Environment variable: the folder itself. Default: ``twinkle_tune`` in XDG_CACHE_HOME or ``~/.cache``."""


def cache_folder() -> Path:
    """Where the store and the locks are; not made."""
    named = os.environ.get(CACHE_VARIABLE, "").strip()
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "twinkle_tune"


def make_private(folder: Path) -> None:
    """Make a folder, and those above it, for its owner alone (mode 0700); one that is there stays as it is.

    Raises:
        OSError: it cannot be made, or is no folder.
    """
    if not folder.parent.exists():
        make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
