"""Kernel repos that tests put on the local Hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

VARIANT = "torch-universal"
IDENT = "_hub_kernel_"
"""How the modules of these repos are called in ``sys.modules``."""

ACTIVATION = {
    "__init__.py": """
from . import layers


def silu_and_mul(x):
    return layers.SiluAndMul.forward(None, x)


def relu(x):
    return x.clamp(min=0)
""",
    "layers.py": """
import torch
from torch import nn

calls: list = []


class SiluAndMul(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        calls.append("SiluAndMul")
        half = x.shape[-1] // 2
        return nn.functional.silu(x[..., :half]) * x[..., half:]


class Linear(nn.Module):
    def forward(self, x):
        calls.append("Linear")
        return nn.functional.linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    def forward(self, hidden_states):
        calls.append("RMSNorm")
        wide = hidden_states.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * scaled.to(hidden_states.dtype)


class Wrong(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.chunk(2, dim=-1)[0] * 3
""",
}
"""A good repo: several layers and functions. ``layers.calls`` tells which layers ran."""


def marked(files: Mapping[str, str], marker: str) -> dict[str, str]:
    """The same repo, whose import leaves a mark: it creates the file ``marker``."""
    mark = f"import pathlib\npathlib.Path({marker!r}).touch()\n"
    return {**files, "__init__.py": mark + files["__init__.py"]}


def build(files: Mapping[str, str], variants: tuple[str, ...] = (VARIANT,), **metadata: object) -> dict[str, bytes]:
    """The files of a kernel repo by path, as they lie on the Hub.

    Args:
        files: of one build variant, without metadata.json.
        variants: the build variants to offer, each with the same files.
        metadata: fields of metadata.json that differ from a plain repo's ("python_depends" for "python-depends").
    """
    text = json.dumps([dict(files), {name: str(value) for name, value in metadata.items()}], sort_keys=True)
    ident = hashlib.sha256(text.encode()).hexdigest()[:12]
    described = {
        "id": f"{IDENT}{ident}",
        "name": "hub-kernel",
        "version": 1,
        "license": "MIT",
        "python-depends": [],
        "backend": {"type": "cpu"},
        **{name.replace("_", "-"): value for name, value in metadata.items()},
    }
    built = {"README.md": b"A kernel repo for tests.\n"}
    for variant in variants:
        for path, content in {**files, "metadata.json": json.dumps(described)}.items():
            built[f"build/{variant}/{path}"] = content.encode()
    return built


def scaled(factor: int) -> dict[str, bytes]:
    """A repo whose function ``scaled`` and layer ``Scaled`` multiply by a number."""
    function = f"from . import layers\n\n\ndef scaled(x):\n    return x * {factor}\n"
    layer = f"class Scaled(nn.Module):\n    def forward(self, x):\n        return x * {factor}\n"
    return build({"__init__.py": function, "layers.py": f"from torch import nn\n\n\n{layer}"})
