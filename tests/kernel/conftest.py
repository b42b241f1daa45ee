"""What holds for every test of this room: nothing that one registers, binds or imports reaches the next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinkle_tune.kernel import restore_model
from twinkle_tune.kernel.registry import default_registry

OURS = ("_twinkle_tune_", "_stand_in_", "my_pkg")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    default_registry.clear()
    restore_model(None)
    yield
    default_registry.clear()
    restore_model(None)
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        del sys.modules[name]


@pytest.fixture
def my_pkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package whose functions the documents replace, on the path."""
    folder = tmp_path / "path" / "my_pkg"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "math_ops.py").write_text(
        "def add(x, y):\n    return x + y\n\n\ndef mul(x, y):\n    return (x * y, 'original')\n"
    )
    (folder / "activations.py").write_text(
        "def silu_and_mul(x):\n    return ('original', x)\n\n\ndef relu(x):\n    return ('original', x)\n"
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder
