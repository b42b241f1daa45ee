"""The option --artifacts: what is compiled for a profile, kept in a folder of its own."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinkle_tune.cli.say import tell
from twinkle_tune.errors import in_a_line

if TYPE_CHECKING:
    from twinkle_tune.profile.schema import Profile

Keep = Callable[[Any, "Profile"], None]
"""Has the code of a loaded model's profile made."""


@contextmanager
def code_kept_in(folder: Path | None) -> Iterator[Keep]:
    """While this is open what is compiled lies in the folder; gives what fills it. Nothing happens without one."""
    if folder is None:
        yield lambda loaded, made: None
        return

    from twinkle_tune.report.text import bytes_text
    from twinkle_tune.tune.artifacts import PLACE, compile_all, compiled_into, size_of

    def keep(loaded: Any, made: Profile) -> None:
        try:
            compile_all(loaded.model, loaded.inputs, made)
        except Exception as error:  # of the compiler, the disk: the profile is there, and is saved
            tell(f"--artifacts: not all could be compiled ({in_a_line(error, 200)})")
        place = shlex.quote(str(folder.absolute()))
        tell(
            f"{folder}: {bytes_text(size_of(folder))} of compiled code; set {PLACE}={place} where it is to be run from"
        )

    with compiled_into(folder):
        yield keep
