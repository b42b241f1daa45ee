"""The Hub examples of the documents, through the real client: online, and then offline from the cache that left.

First the Twinkle documents, word for word but for the device and what a test names; then what the documents of the
``kernels`` package show, read through this package: mode flags, mapping contexts, fallback, versions.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels import LayerRepository, Mode, replace_kernel_forward_from_hub, use_kernel_forward_from_hub
from torch import nn
from torch.nn import functional

from tests.hub.client import use
from tests.hub.repos import ACTIVATION, IDENT, build
from tests.hub.server import LocalHub
from tests.kernel import documents
from tests.kernel.test_documents import run
from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel import (
    Registry,
    kernelize_model,
    kernelize_report,
    kernelized,
    register_external_layer,
    register_layer_kernel,
    restore_model,
)
from twinkle_tune.kernel.patch import binding_of
from twinkle_tune.kernel.registry import default_registry

ACTIVATIONS, LINEAR = "kernels-community/activation", "kernels-community/linear"
CLAIMS = """

class ForInference(nn.Module):
    has_backward = False

    def forward(self, x):
        calls.append("ForInference")
        return SiluAndMul.forward(self, x)


class NotCompiled(nn.Module):
    can_torch_compile = False

    def forward(self, x):
        calls.append("NotCompiled")
        return SiluAndMul.forward(self, x)
"""
FUNCTIONS = """
from . import layers


def silu_and_mul(x):
    return ("hub", x)


def relu(x):
    return ("hub", x)
"""


@pytest.fixture(params=["online", "offline"])
def hub(
    request: pytest.FixtureRequest, local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LocalHub:
    """The Hub with the documents' repos. ``offline``: its cache is full, and nobody answers any more."""
    files = {"__init__.py": FUNCTIONS, "layers.py": ACTIVATION["layers.py"] + CLAIMS}
    local_hub.push(ACTIVATIONS, build(files), branches=("main", "layers", "v1"))
    for number, tag in enumerate(("v0.0.3", "v0.0.9", "v0.1.0")):
        local_hub.push(ACTIVATIONS, build(files, license=f"MIT-{number}"), branches=(), tags=(tag,))
    local_hub.push(LINEAR, build(ACTIVATION, version=3), branches=(), tags=("v0.1.0",))
    if request.param == "offline":
        fill(local_hub)
        use(monkeypatch, local_hub, tmp_path / "cache", offline=True)
        local_hub.stop()
    return local_hub


def fill(hub: LocalHub) -> None:
    """What a process online leaves in the cache: each of the names that the examples use."""
    from twinkle_tune.source.hub import HubSource

    for pin in ({"revision": "main"}, {"revision": "layers"}, {"version": 1}, {"version": "0.1.0"}):
        HubSource(repo_id=ACTIVATIONS, name="relu", **pin).commit()
    HubSource(repo_id=ACTIVATIONS, name="relu", version=">=0.0.3,<0.1").commit()
    HubSource(repo_id=LINEAR, name="Linear", version="0.1.0").commit()


def calls() -> list[str]:
    """The Hub's layers that ran, by name."""
    found = [m for name, m in sys.modules.items() if name.startswith(IDENT) and name.endswith(".layers")]
    return [call for module in found for call in module.calls]


@pytest.mark.parametrize("pin", ['revision="main"', 'revision="layers"', "version=1", 'version="0.1.0"'])
@pytest.mark.usefixtures("hub")
def test_layer(pin: str) -> None:
    """Layer example 2 with a revision or version: the Hub's layer runs in the model, and computes the same."""
    names = run(documents.HUB_LAYER, layer_name=f'layer_name="SiluAndMul", {pin},')
    model, x = names["model"], torch.randn(2, 8, requires_grad=True)
    assert torch.equal(model(x), names["SiluAndMul"].forward(model.activation, x))
    assert calls() == ["SiluAndMul"]
    model(x).sum().backward()
    restore_model(model)
    model(x)
    assert calls() == ["SiluAndMul"] * 2


def test_layer_as_written(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer example 2 word for word: without a pin the original stays, with a warning; kernels.lock is a pin."""
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"got neither revision nor version.*or lock it in kernels.lock"):
        names = run(documents.HUB_LAYER)
    assert binding_of(names["model"].activation) is None
    default_registry.clear()
    commit = hub.repos[ACTIVATIONS].branches["v1"]
    lock = [{"dependency": {"repo-id": ACTIVATIONS, "version": 1}, "lock": {"commit": commit}}]
    (tmp_path / "kernels.lock").write_text(json.dumps(lock))
    names = run(documents.HUB_LAYER)
    names["model"](torch.randn(2, 8))
    assert calls() == ["SiluAndMul"]


@pytest.mark.parametrize("version", [False, True])
@pytest.mark.usefixtures("my_pkg", "hub")
def test_function_sources(version: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Function example 2, by revision and by the version that its comment gives: add and the Hub's function are
    applied, mul is for another mode and stays."""
    math_ops, activations = (importlib.import_module(f"my_pkg.{name}") for name in ("math_ops", "activations"))
    names = run(documents.FUNCTION_SOURCES, **({"revision": 'version="0.1.0"'} if version else {}))
    assert names["applied"] == ["my_pkg.math_ops.add"]
    assert capsys.readouterr().out == "patched: ['my_pkg.math_ops.add']\n"
    assert math_ops.add(1, 2) == 4
    assert math_ops.mul(2, 3) == (6, "original")
    assert activations.silu_and_mul(1) == ("hub", 1)
    pin = "v0.1.0" if version else "main"
    assert sorted((b.slot, b.candidate) for b in kernelize_report(names["model"]).bound) == [
        ("my_pkg.activations.silu_and_mul", f"hub:{ACTIVATIONS}:silu_and_mul@{pin}"),
        ("my_pkg.math_ops.add", "impl:fast_add"),
    ]
    restore_model(names["model"])
    assert activations.silu_and_mul(1) == ("original", 1)
    assert math_ops.add(1, 2) == 4  # the process applied it too
    restore_model(None)
    assert math_ops.add(1, 2) == 3


@pytest.mark.usefixtures("my_pkg", "hub")
def test_unified() -> None:
    """The unified example: relu is the Hub's, add is for another mode, and no class is bound to the layers' names."""
    math_ops, activations = (importlib.import_module(f"my_pkg.{name}") for name in ("math_ops", "activations"))
    names = run(documents.UNIFIED)
    model, x = names["model"], torch.randn(2, 8)
    assert activations.relu(1) == ("hub", 1)
    assert math_ops.add(1, 2) == 3
    assert [binding_of(module) for module in model.modules()] == [None] * 3
    assert torch.equal(model(x), torch.relu(model[0](x)))
    assert {name: len(default_registry.layer(name)) for name in ("linear", "conv2d")} == {"linear": 1, "conv2d": 1}
    restore_model(model)
    assert activations.relu(1) == ("original", 1)


@pytest.mark.usefixtures("my_pkg", "hub")
def test_unified_with_a_class() -> None:
    """The unified example's version="0.1.0": where nn.Linear is bound to its name, the Hub's Linear runs."""
    register_external_layer(nn.Linear, "linear")
    model, x = run(documents.UNIFIED)["model"], torch.randn(2, 8)
    assert kernelize_report(model).bound[0].candidate == f"hub:{LINEAR}:Linear@v0.1.0"
    tuned = model(x)
    assert calls() == ["Linear"]
    restore_model(model)
    assert torch.equal(tuned, model(x))


# The documents of the kernels package


@use_kernel_forward_from_hub("SiluAndMul")
class SiluAndMul(nn.Module):
    """As there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., 2 d) to (..., d)."""
        d = x.shape[-1] // 2
        return functional.silu(x[..., :d]) * x[..., d:]


class External(nn.Module):
    """A layer of another library, without the decorator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., 2 d) to (..., d)."""
        d = x.shape[-1] // 2
        return functional.silu(x[..., :d]) * x[..., d:]


@pytest.fixture
def model() -> Iterator[nn.Module]:
    """The documents' model."""
    made = nn.Sequential(nn.Linear(8, 8), SiluAndMul())
    yield made
    restore_model(made)


def bound(model: nn.Module) -> list[str]:
    """Which of the Hub's layers run in a model."""
    before = len(calls())
    model(torch.randn(2, 8))
    return calls()[before:]


MODES = {
    "layer for training, in training": ("ForInference", Mode.TRAINING, r"declares has_backward=False"),
    "layer for inference": ("ForInference", Mode.INFERENCE, ""),
    "layer that cannot be compiled, under compile": (
        "NotCompiled",
        Mode.TRAINING | Mode.TORCH_COMPILE,
        r"declares can_torch_compile=False",
    ),
    "layer that cannot be compiled, without compile": ("NotCompiled", Mode.TRAINING, ""),
    "plain layer, everywhere": ("SiluAndMul", Mode.INFERENCE | Mode.TORCH_COMPILE, ""),
}


@pytest.mark.parametrize("case", MODES)
@pytest.mark.usefixtures("hub")
def test_modes_and_fallback(model: nn.Module, case: str) -> None:
    """Mode flags keep out a layer that declares itself unfit: with fallback the original, without an error."""
    name, mode, refusal = MODES[case]
    register_layer_kernel("SiluAndMul", repo_id=ACTIVATIONS, layer_name=name, revision="layers", device="cpu")
    if not refusal:
        kernelize_model(model, mode=mode, device="cpu", use_fallback=False)
        assert bound(model)[0] == name
        return
    with pytest.warns(UserWarning, match=refusal):
        kernelize_model(model, mode=mode, device="cpu")
    assert bound(model) == []
    with pytest.raises(RegistrationError, match=refusal):
        kernelize_model(model, mode=mode, device="cpu", use_fallback=False)


@pytest.mark.usefixtures("hub")
def test_mapping_with_modes(model: nn.Module) -> None:
    """A mapping's repositories, one a mode, registered as they are: each mode takes its own."""
    modes = {
        Mode.TRAINING: LayerRepository(ACTIVATIONS, layer_name="NotCompiled", version=1),
        Mode.INFERENCE: LayerRepository(ACTIVATIONS, layer_name="ForInference", revision="layers"),
    }
    for mode, repository in modes.items():
        register_layer_kernel("SiluAndMul", repo=repository, device="cpu", mode=mode)
    for mode, name in ((Mode.TRAINING, "NotCompiled"), (Mode.INFERENCE, "ForInference")):
        kernelize_model(model, mode=mode, device="cpu", use_fallback=False)
        assert bound(model)[0] == name


@pytest.mark.usefixtures("hub")
def test_mapping_for_a_context(model: nn.Module) -> None:
    """A mapping for the length of a ``with`` block is a registry of one's own; afterwards the originals are back."""
    register_layer_kernel("SiluAndMul", repo_id=ACTIVATIONS, layer_name="ForInference", revision="main", device="cpu")
    mapping = Registry()
    repository = LayerRepository(ACTIVATIONS, layer_name="SiluAndMul", revision="layers")
    register_layer_kernel("SiluAndMul", repo=repository, device="cpu", registry=mapping)
    with kernelized(model, mode=Mode.INFERENCE, device="cpu", registry=mapping, use_fallback=False):
        assert bound(model) == ["SiluAndMul"]
    assert bound(model) == []
    with kernelized(model, mode=Mode.INFERENCE, device="cpu", use_fallback=False):
        assert bound(model) == ["ForInference", "SiluAndMul"]


@pytest.mark.usefixtures("hub")
def test_external_layer() -> None:
    """A class that ``replace_kernel_forward_from_hub`` named takes the kernels of its name."""
    replace_kernel_forward_from_hub(External, "ExternalSilu")
    register_layer_kernel("ExternalSilu", repo_id=ACTIVATIONS, layer_name="SiluAndMul", version=1, device="cpu")
    model = kernelize_model(nn.Sequential(External()), mode=Mode.INFERENCE, device="cpu", use_fallback=False)
    assert bound(model) == ["SiluAndMul"]


@pytest.mark.usefixtures("hub")
def test_version_specifier(hub: LocalHub, model: nn.Module) -> None:
    """version=">=0.0.3,<0.1", as the documents give it, is the highest tag in that range."""
    arguments: dict[str, Any] = {"layer_name": "SiluAndMul", "version": ">=0.0.3,<0.1", "device": "cpu"}
    register_layer_kernel("SiluAndMul", repo_id=ACTIVATIONS, **arguments)
    kernelize_model(model, mode=Mode.INFERENCE, device="cpu", use_fallback=False)
    assert bound(model) == ["SiluAndMul"]
    (candidate,) = default_registry.layer("SiluAndMul")
    assert candidate.source.commit() == hub.repos[ACTIVATIONS].tags["v0.0.9"]  # type: ignore[attr-defined]
