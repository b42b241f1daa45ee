"""Local packages and kernel repos that tests write."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from twinkle_tune.slot import Slot, SlotKind

LAYERS = """
import torch
import torch.nn as nn

from .counter import calls


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        calls.append("Double")
        return x * 2


class Untrained(nn.Module):
    has_backward = False
    can_torch_compile = False

    def forward(self, x):
        return x * 2


class Constructed(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 2

    def forward(self, x):
        return x * self.scale


class Membered(nn.Module):
    factor = 2

    def helper(self, x):
        return x * self.factor

    def forward(self, x):
        return self.helper(x)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class Plain:
    def forward(self, x):
        return x


def doubled(x):
    return x * 2


number = 7
"""
FILES = {"__init__.py": "from . import layers\n", "layers.py": LAYERS, "counter.py": "calls: list = []\n"}


class Identity(nn.Module):
    """The layer whose place the kernels of :data:`LAYERS` take."""

    def forward(self, x: Any) -> Any:
        """x as it is."""
        return x


def identity(x: Any) -> Any:
    """The function whose place the kernels of :data:`LAYERS` take."""
    return x


LAYER_SLOT = Slot(name="Identity", kind=SlotKind.LAYER, target=f"{__name__}:Identity")
FUNCTION_SLOT = Slot(name=f"{__name__}.identity", kind=SlotKind.FUNCTION, target=f"{__name__}:identity")


def write_package(root: Path, name: str, files: dict[str, str] | None = None) -> Path:
    """Write a plain Python package ``root/name``; returns ``root``."""
    for path, text in (files or FILES).items():
        file = root / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


def write_kernel_repo(root: Path, ident: str, files: dict[str, str] | None = None) -> Path:
    """Write a repo in the layout of the kernels package; returns its root."""
    metadata = {
        "id": ident,
        "name": "stand-in",
        "version": 1,
        "license": "MIT",
        "python-depends": [],
        "backend": {"type": "cpu"},
    }
    return write_package(root, "build/torch-universal", {**(files or FILES), "metadata.json": json.dumps(metadata)})


def module_at(path: Path, name: str) -> ModuleType:
    """Import a Python file or package folder under a name, whatever had that name before."""
    for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
        del sys.modules[known]
    file = path / "__init__.py" if path.is_dir() else path
    folders = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
