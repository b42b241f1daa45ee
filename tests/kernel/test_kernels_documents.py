"""The documents of the kernels package, read through this one: each example runs."""

from __future__ import annotations

import re
import sys
import tomllib
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernels
import pytest
import torch
from kernels import use_kernel_mapping
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from torch import nn

import twinkle_tune.kernel
from tests.hub.repos import ACTIVATION, IDENT, build
from tests.hub.server import LocalHub
from tests.kernel import kernels_documents as documents
from twinkle_tune.errors import RegistrationError, SourceError
from twinkle_tune.kernel import LayerRepository, hub, kernelize, kernelize_report, restore_model
from twinkle_tune.kernel.planned import device_of
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.source.hub import HubSource
from twinkle_tune.source.hub_client import SUPPORTED, unfit_client

ROOT = Path(__file__).parents[2]
ACTIVATIONS = "kernels-community/activation"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    somelibrary = types.ModuleType("somelibrary")
    somelibrary.__dict__["SiluAndMul"] = type("SiluAndMul", (nn.Module,), {"forward": silu_and_mul})
    monkeypatch.setitem(sys.modules, "somelibrary", somelibrary)
    with use_kernel_mapping({}, inherit_mapping=False):
        yield
    for name in ("kernel_layer_name", "kernel_condition"):
        if name in vars(nn.LayerNorm):
            delattr(nn.LayerNorm, name)


@pytest.fixture
def community(local_hub: LocalHub) -> LocalHub:
    """The Hub with the repo that the examples name."""
    local_hub.push(ACTIVATIONS, build(ACTIVATION), branches=("main", "layers"), tags=("v0.0.9", "v0.1.0"))
    return local_hub


def silu_and_mul(self: nn.Module, input: torch.Tensor) -> torch.Tensor:
    """(..., 2 d) to (..., d)."""
    d = input.shape[-1] // 2
    return nn.functional.silu(input[..., :d]) * input[..., d:]


def run(text: str, name: str = "kernelize_model", **names: Any) -> dict[str, Any]:
    """Run an example for this machine's device, with ``kernels`` read as this package; returns its names."""
    text = text.replace("from kernels import", "from twinkle_tune.kernel import")
    text = text if "CUDAProperties" in text else text.replace('"cuda"', '"cpu"')
    text = re.sub(r"\bkernelize\b", name, text).replace("MyModel(...)", "MyModel()")
    made: dict[str, Any] = {"__name__": "example", "F": nn.functional, **names}
    exec(compile(text, "example.py", "exec"), made)
    return made


def calls() -> list[str]:
    """The Hub's layers that ran, by name."""
    found = [m for name, m in sys.modules.items() if name.startswith(IDENT) and name.endswith(".layers")]
    return [call for module in found for call in module.calls]


@pytest.mark.parametrize("name", ["kernelize_model", "kernelize"])
@pytest.mark.parametrize("example", documents.API)
@pytest.mark.usefixtures("community")
def test_examples_of_the_reference(example: str, name: str) -> None:
    """Each example of the API reference runs under either name; where it gives no pin, the original stays, and it
    is said what to give."""
    told = {
        "mapping context": r"kernels-community/activation: got neither revision nor version",
        "kernelized": r"SiluAndMul: no kernel is registered or mapped for it",
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = run(documents.API[example], name)
    messages = "\n".join(str(warning.message) for warning in caught)
    assert re.search(told[example], messages) if example in told else not messages
    model = names.get("model")
    if model is not None:
        assert not kernelize_report(model).bound
        x = torch.randn(2, 768 if example == "custom layer" else 1024)
        assert model(x).shape[0] == 2


@pytest.mark.usefixtures("community")
def test_a_pinned_repository_of_the_reference() -> None:
    """With a revision or a range of versions the mapped layer is the Hub's, and kernels itself loads it too."""
    for pin in ({"revision": "layers"}, {"version": ">=0.0.3,<0.1"}):
        repository = LayerRepository(ACTIVATIONS, "SiluAndMul", **pin)
        layer = run(documents.GUIDE_BEFORE + documents.GUIDE_DECORATOR)["SiluAndMul"]()
        before = len(calls())
        with use_kernel_mapping({"SiluAndMul": {"cpu": repository}}):
            kernelize(layer, mode=kernels.Mode.INFERENCE, device="cpu", use_fallback=False)(torch.randn(2, 4))
            restore_model(layer)
            kernels.kernelize(layer, mode=kernels.Mode.INFERENCE, device="cpu", use_fallback=False)(torch.randn(2, 4))
        assert len(calls()) - before == 2


@pytest.mark.parametrize("call", documents.GUIDE_CALLS)
@pytest.mark.parametrize("named", ["decorator", "external"])
@pytest.mark.usefixtures("community")
def test_examples_of_the_guide(named: str, call: str) -> None:
    """The guide's fragments, one after another: the layer is named, the mapping registered, the model kernelized."""
    layer = documents.GUIDE_DECORATOR if named == "decorator" else documents.GUIDE_EXTERNAL
    model = "class MyModel(nn.Sequential):\n    def __init__(self):\n        super().__init__(SiluAndMul())\n"
    text = documents.GUIDE_BEFORE + layer + documents.GUIDE_MAPPING + documents.GUIDE_REGISTER + model
    names = run(text + documents.GUIDE_CALLS[call])
    assert isinstance(names["model"], names["MyModel"])
    x = torch.randn(2, 4)
    assert torch.allclose(names["model"](x), silu_and_mul(names["model"], x))
    assert calls()[-1:] == ["SiluAndMul"]
    names["model"](x)
    assert len(calls()) == 2


@pytest.mark.usefixtures("community")
def test_the_guide_s_context() -> None:
    """The guide's with block: the mapping holds inside it, for the model that is kernelized there, and not after it."""
    text = documents.GUIDE_BEFORE + documents.GUIDE_DECORATOR + documents.GUIDE_MAPPING
    names = run(text + "model = SiluAndMul()\n" + documents.GUIDE_CONTEXT)
    names["model"](torch.randn(2, 4))
    assert calls() == ["SiluAndMul"]
    with pytest.warns(UserWarning, match="nothing is bound"):
        kernelize(names["model"])
    names["model"](torch.randn(2, 4))
    assert calls() == ["SiluAndMul"]


def test_a_class_is_not_changed_by_its_name() -> None:
    """The decorator annotates the class and nothing else; a model is not kernelized before it is asked for."""
    layer = run(documents.GUIDE_BEFORE + documents.GUIDE_DECORATOR)["SiluAndMul"]
    assert vars(layer)["kernel_layer_name"] == "SiluAndMul"
    x = torch.randn(2, 4)
    assert torch.equal(layer()(x), silu_and_mul(layer(), x))


@pytest.mark.parametrize("name", twinkle_tune.kernel.OF_KERNELS)
def test_names_of_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents' names are importable from twinkle_tune.kernel; without kernels it is said what to install."""
    assert getattr(twinkle_tune.kernel, name) is getattr(kernels, name)
    assert name in dir(twinkle_tune.kernel)
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(ImportError, match=rf"twinkle_tune.kernel.{name} is of the kernels package; pip install"):
        getattr(twinkle_tune.kernel, name)


def test_a_repository_and_its_pins() -> None:
    """Both pins, and what is no version, are refused where the repository is made; trust may be for some repos."""
    with pytest.raises(RegistrationError, match=r"a/b: got both revision='main' and version=1"):
        LayerRepository("a/b", "L", revision="main", version=1)
    with pytest.raises(RegistrationError, match=r"a/b: version: got 'new'"):
        LayerRepository("a/b", "L", version="new")
    trusts: list[Any] = [True, ["a/b"], ["c/d"], False]
    assert [LayerRepository("a/b", "L", trust_remote_code=trust).source.trusted for trust in trusts] == [
        True,
        True,
        False,
        False,
    ]
    assert LayerRepository("a/b", "L") == LayerRepository("a/b", "L")
    assert len({LayerRepository("a/b", "L", trust_remote_code=trust) for trust in trusts}) == 4


# Today's Twinkle


class Plain(nn.Module):
    """A layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x and what offset() says."""
        return x + offset()


class Doubled(nn.Module):
    """Its replacement."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice x."""
        return x * 2


def offset() -> int:
    """Nothing."""
    return 0


def test_kernelize_with_a_mapping_of_twinkle() -> None:
    """kernelize(model, mapping) replaces classes and functions, by device, in place; what another device has is
    passed over; it is undone by restore_model."""
    model = nn.Sequential(Plain())
    x = torch.ones(1)
    assert kernelize(model, {Plain: Doubled}) is model
    assert float(model(x)) == 2
    kernelize(model, {Plain: {"npu": Doubled}, f"{__name__}.offset": {"cpu": lambda: 5}})
    assert float(model(x)) == 6
    assert offset() == 5  # called by nobody's forward
    kernelize(model, {Plain: {"cpu": Doubled}, f"{__name__}.Plain.forward": None})
    assert float(model(x)) == 2
    restore_model(model)
    assert (float(model(x)), offset()) == (1, 0)
    assert not default_registry.functions


@pytest.mark.usefixtures("community")
def test_kernelize_with_a_hub_reference() -> None:
    """hub('repo:Layer', ...) in a mapping loads that layer, at its pin."""
    model = nn.Sequential(type("Gate", (nn.Module,), {"forward": silu_and_mul})())
    kernelize(model, {type(model[0]): hub(f"{ACTIVATIONS}:SiluAndMul", revision="layers")}, use_fallback=False)
    model(torch.randn(2, 4))
    assert calls() == ["SiluAndMul"]
    assert hub("a/b:L", version=1) == HubSource(repo_id="a/b", name="L", version=1)


BAD_MAPPINGS: dict[str, tuple[Any, str]] = {
    "no mapping": ([Plain], r"mapping: got a list, expected a dict by a module class or a path"),
    "no class": ({3: Doubled}, r"layer_class: got 3, expected an nn.Module class"),
    "no path": ({"nowhere.at.all": Doubled}, r"got 'nowhere.at.all', expected .* none of its beginnings can be"),
    "no function there": ({f"{__name__}.nothing": len}, r"has no function 'nothing'"),
    "an instance": ({Plain: Doubled()}, r"Plain: got Doubled\(\), expected a class, a function, or hub"),
    "a text": ({Plain: "a/b:L"}, r"Plain: got 'a/b:L', expected a class, a function, or hub"),
}


@pytest.mark.parametrize("case", BAD_MAPPINGS)
def test_a_mapping_that_is_none(case: str) -> None:
    """A wrong key or value is one error that names it, and nothing is bound."""
    mapping, message = BAD_MAPPINGS[case]
    model = nn.Sequential(Plain())
    with pytest.raises(RegistrationError, match=message):
        kernelize(model, mapping, use_fallback=False)
    assert not kernelize_report(model).bound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ref": "a/b", "version": 1}, r"ref: got 'a/b', expected 'organisation/name:Layer'"),
        ({"ref": "a/b:L"}, r"a/b:L: got revision=None and version=None, expected exactly one"),
        ({"ref": "a/b:L", "version": 1, "revision": "main"}, r"got revision='main' and version=1, expected exactly"),
        ({"ref": "a/b:L", "version": 1, "backend": "cuda"}, r"a/b:L: got backend='cuda', expected none"),
    ],
)
def test_a_hub_reference_that_is_none(arguments: dict[str, Any], message: str) -> None:
    """hub() refuses at once what is no reference."""
    with pytest.raises(RegistrationError, match=message):
        hub(**arguments)


def test_the_device_is_that_of_the_parameters() -> None:
    """Not given, the device is that of the model's parameters; of a model that has none, the CPU."""
    assert device_of(nn.Linear(1, 1, device="meta")) == "meta"
    assert device_of(nn.Linear(1, 1)) == "cpu"
    assert device_of(nn.SiLU()) == "cpu"


@pytest.mark.parametrize("version", ["0.17.2", "0.17.9", "0.17.1", "0.18.2"])
def test_other_versions_of_kernels(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a version of kernels that is not supported, a Hub kernel's error says which to install; and it is the
    range that the package asks for."""
    monkeypatch.setattr("twinkle_tune.source.hub_client.package_version", lambda name: version)
    if version in ("0.17.2", "0.17.9"):
        assert unfit_client() == ""
    else:
        with pytest.raises(SourceError, match=rf"a/v.*: got kernels {version}, expected .*pip install 'kernels.*'tr"):
            HubSource(repo_id=f"a/v{version}", name="L", version=1).commit()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = [Requirement(each) for each in project["dependencies"] if each.startswith("kernels")]
    assert asked.specifier == SpecifierSet(SUPPORTED)
