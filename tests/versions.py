"""What older versions of other packages do not do: tests of it are skipped with them, and say why (``make oldest``)."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

NEEDS_MARKED_CLASSES = pytest.mark.skipif(
    Version(version("transformers")) < Version("5.20.2"),
    reason="transformers before 5.20.2 takes no notice of kernels 0.17: its classes name no kernel",
)
