"""A recording on the disk: written as it grows, so that it is there however the script ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from twinkle_tune.errors import in_a_line
from twinkle_tune.profile.files import write_file
from twinkle_tune.profile.folders import make_private, usable_folder
from twinkle_tune.script.recording import Recording
from twinkle_tune.version import TOOL
from twinkle_tune.workload import digest_of


class Written:
    """Where a script's recording is kept. A script that is run again in the same folder replaces its own.

    Attributes:
        path: the file; "" where none can be written, which a line said.
    """

    def __init__(self, path: Path | None, script: Sequence[str], tell: Callable[[str], None]) -> None:
        """Nothing is written yet.

        Args:
            path: the file; None for one in the cache folder.
            script: what is run: a file or a module, and its arguments. Those are told to nobody: they may be secret.
            tell: is given a line where it cannot be written.
        """
        self.path = "" if path is None else str(path.absolute())
        self._in_cache, self._script, self._tell = path is None, script, tell
        self._failed = False

    def write(self, recording: Recording, ended: str = "") -> None:
        """Write it; once that failed, nothing is tried any more.

        Args:
            recording: what was seen until now.
            ended: how the script ended; "" while it runs.
        """
        if self._failed:
            return
        data = {"tool": TOOL, "script": self._script[0], "ended": ended} | recording.data()
        try:
            if self._in_cache and not self.path:
                self.path = str(self._own_path())
            write_file(self.path, (json.dumps(data, indent=2) + "\n").encode())
        except Exception as error:  # a full disk, a folder that is none: the script goes on
            self._failed, self.path = True, ""
            self._tell(f"the recording is not kept: {in_a_line(error, 200)}")

    def _own_path(self) -> Path:
        folder = usable_folder(self._tell) / "recordings"
        make_private(folder)
        name = Path(self._script[0]).name.removesuffix(".py") or "script"
        return folder / f"{name[:60]}-{digest_of([os.getcwd(), *self._script])}.json"
