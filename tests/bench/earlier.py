"""An earlier commit of this repository in a folder of its own, to be measured beside this tree."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

BEFORE = "5966034"
ROOT = Path(__file__).parents[2]


@contextmanager
def tree_of(commit: str) -> Iterator[Path | None]:
    """The files of a commit in a temporary folder; None where that commit is not here, as in a shallow clone."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", commit], capture_output=True, check=False
    )
    if archive.returncode:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder)
