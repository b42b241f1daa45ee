"""Modules of packages on disk, always made of their source.

Python keeps bytecode by the time and the size of a source. An edit within a second that leaves the size alone would run
the code of before, under the digest of what is there now.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

PREFIX = "_twinkle_tune_"
"""Begins the names of such packages."""


class FromSource(SourceFileLoader):
    """Reads no bytecode, and writes none."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the source as it is."""
        path = self.get_filename(fullname)
        made: CodeType = self.source_to_code(self.get_data(path), path)
        return made


class _Finder(MetaPathFinder):
    """Finds the modules inside of such packages; no others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = FromSource(spec.loader.name, spec.loader.path)
        return spec


_finder = _Finder()


def find_inside() -> None:
    """From now on modules inside of such packages are made of their source, too."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
