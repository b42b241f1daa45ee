"""Local packages and kernel repos that tests write, and a stand-in for the Hub."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch import nn

from twinkle_tune.slot import Slot, SlotKind

COMMIT = "0123456789abcdef0123456789abcdef01234567"

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


@dataclass(slots=True)
class Hub:
    """A Hub without a network: local repos by id, and how each was asked for."""

    repos: dict[str, Path]
    asked: list[dict[str, Any]] = field(default_factory=list)
    loaded: list[Any] = field(default_factory=list)

    def get_kernel(self, repo_id: str, **options: Any) -> ModuleType:
        """As ``kernels.get_kernel``: the repo's module."""
        from kernels import get_local_kernel

        self.asked.append({"repo_id": repo_id, **options})
        if repo_id not in self.repos:
            raise FileNotFoundError(f"no repo {repo_id}")
        module: ModuleType = get_local_kernel(self.repos[repo_id])
        self.loaded.append(SimpleNamespace(module=module, repo_info=SimpleNamespace(repo_id=repo_id, revision=COMMIT)))
        return module


def stand_in(monkeypatch: pytest.MonkeyPatch, **repos: Path) -> Hub:
    """Let ``kernels`` load ``kernels-community/<name>`` from local repos for the length of a test."""
    hub = Hub({f"kernels-community/{name}": path for name, path in repos.items()})
    monkeypatch.setattr("kernels.get_kernel", hub.get_kernel)
    monkeypatch.setattr("kernels.get_loaded_kernels", lambda: hub.loaded)
    return hub


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
