"""Runs the scripts of a tutorial in Triton's interpreter, and holds what they print against the page.

``TRITON_INTERPRET=1 python -m tests.docs.tutorials PAGE`` runs them here; tests do so by
:func:`tests.ops.interpreter.run_interpreted`.
"""

from __future__ import annotations

import io
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.ops.interpreter import Case, main
from tests.test_docs import _FILE, DOCS, blocks

PAGES = ("a-tiled-product", "an-online-softmax")
_RUN = re.compile(r"\$ TRITON_INTERPRET=1 python (\w+\.py)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tutorial:
    """A page: the files that it shows, and what each that it runs prints, by the page."""

    files: dict[str, str]
    printed: dict[str, str]

    @classmethod
    def read(cls, name: str) -> Tutorial:
        """Of docs/how-to."""
        found = blocks(DOCS / "how-to" / f"{name}.md")
        files = {named[1]: text for _, text in found if (named := _FILE.match(text))}
        printed = {run[1]: after for (_, text), (_, after) in pairwise(found) if (run := _RUN.match(text))}
        return cls(files=files, printed=printed)

    def write(self, folder: Path) -> None:
        """Its files into a folder."""
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")


def cases(name: str) -> Iterator[Case]:
    """A case for each script that the page runs, in a folder with all of its files."""
    tutorial = Tutorial.read(name)
    with tempfile.TemporaryDirectory() as folder:
        tutorial.write(Path(folder))
        os.chdir(folder)
        sys.path.insert(0, folder)
        for script, printed in tutorial.printed.items():
            yield f"{script} of {name} prints what the page says", lambda s=script, p=printed: _hold(s, p)  # type: ignore[misc]


def _hold(script: str, printed: str) -> None:
    with redirect_stdout(io.StringIO()) as out:
        runpy.run_path(script, run_name="__main__")
    assert out.getvalue() == printed, f"got\n{out.getvalue()}expected\n{printed}"


if __name__ == "__main__":
    sys.exit(main(cases(sys.argv[1])))
