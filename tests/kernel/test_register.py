"""Registering: what adds up, what is refused and how it is told."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kernels
import pytest
import torch
from torch import nn

from tests.hub.repos import build
from tests.hub.server import LocalHub
from tests.kernel.toys import Model, Norm, added, norms, plus_one, plus_two
from tests.source.repos import write_package
from twinkle_tune.errors import DeviceError, ModeError, RegistrationError
from twinkle_tune.kernel import (
    Registry,
    apply_function_kernel,
    kernelize_model,
    kernelize_report,
    register_external_layer,
    register_function_kernel,
    register_kernels,
    register_layer_kernel,
)
from twinkle_tune.kernel.planned import USE_VARIABLE
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.mode import Mode
from twinkle_tune.source.hub_trust import TRUST_VARIABLE

LAYERS = """
from torch import nn


class PlusOne(nn.Module):
    def forward(self, x):
        return type(self).forward(self, x) + 1


class Constructed(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return x


class Membered(nn.Module):
    def helper(self, x):
        return x

    def forward(self, x):
        return self.helper(x)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x


class NoBackward(nn.Module):
    has_backward = False

    def forward(self, x):
        return x
"""


class PlusThree(nn.Module):
    """A kernel given as a class."""

    def forward(self, x: Any) -> Any:
        """The norm plus three."""
        return Norm.forward(self, x) + 3  # type: ignore[arg-type]


def _names(kernel_name: str = "Norm") -> list[str]:
    return [candidate.name for candidate in default_registry.layer(kernel_name)]


def _modes(name: str) -> frozenset[Mode]:
    return default_registry.layer(name)[-1].modes


def test_last_registered_is_applied() -> None:
    """Candidates of one slot add up; without a profile the one registered last is applied, class or function."""
    register_external_layer(Norm, "Norm")
    model = Model()
    for impl, shows in ((plus_one, 1.0), (PlusThree, 3.0), (plus_two, 2.0)):
        register_layer_kernel("Norm", layer_impl=impl, device="cpu")
        kernelize_model(model, mode="inference", device="cpu")
        assert added(model.layers[0].narrow, 4) == shows
    assert _names() == ["impl:plus_one", "impl:PlusThree", "impl:plus_two"]


def test_same_code_again_is_no_second_candidate() -> None:
    """Registering the same code again does not double it, but makes it the last."""
    for impl in (plus_one, plus_two, plus_one):
        register_layer_kernel("Norm", layer_impl=impl, device="cpu")
    assert _names() == ["impl:plus_two", "impl:plus_one"]


def test_same_name_for_other_code() -> None:
    """Other code of the same name gets a number, and keeps it when it is registered again."""

    def made(add: int) -> Callable[..., Any]:
        def kernel(self: Any, x: Any) -> Any:
            return x + add

        return kernel

    first, second = made(1), made(2)
    for impl in (first, second, second, first):
        register_layer_kernel("Norm", layer_impl=impl, device="cpu")
    base = first.__qualname__
    assert _names() == [f"impl:{base}#2", f"impl:{base}"]
    assert default_registry.layer("Norm")[0].source.impl is second  # type: ignore[attr-defined]


def test_one_kernel_for_several_devices_and_modes() -> None:
    """The same code for another device or mode is registered for both."""
    for device, mode in (("cpu", "train"), ("cpu", "inference"), ("cuda", "train")):
        register_layer_kernel("Norm", layer_impl=plus_one, device=device, mode=mode)
    found = default_registry.layer("Norm")
    assert [(c.device, *c.modes) for c in found] == [
        ("cpu", Mode.TRAIN),
        ("cpu", Mode.INFERENCE),
        ("cuda", Mode.TRAIN),
    ]
    assert {c.name for c in found} == {"impl:plus_one"}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (None, set()),
        ("train", {Mode.TRAIN}),
        ("INFERENCE", {Mode.INFERENCE}),
        ("compile", {Mode.COMPILE}),
        ("train+compile", {Mode.TRAIN_COMPILE}),
        (kernels.Mode.INFERENCE, {Mode.INFERENCE}),
        (kernels.Mode.TRAINING, {Mode.TRAIN}),
        (kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE, {Mode.TRAIN_COMPILE}),
        (kernels.Mode.INFERENCE | kernels.Mode.TORCH_COMPILE, {Mode.COMPILE}),
        (kernels.Mode.TORCH_COMPILE, {Mode.COMPILE}),
        (kernels.Mode.FALLBACK, set()),
    ],
)
def test_modes(mode: object, expected: set[Mode]) -> None:
    """Modes are taken by name and as values of kernels.Mode; None and FALLBACK are every mode."""
    register_layer_kernel("Norm", layer_impl=plus_one, device="cpu", mode=mode)
    assert _modes("Norm") == expected


def test_mode_to_run_in() -> None:
    """kernelize_model takes values of kernels.Mode too; FALLBACK is no mode to run in."""
    register_external_layer(Norm, "Norm")
    register_layer_kernel("Norm", layer_impl=plus_one, device="cpu", mode="train")
    model = Model()
    kernelize_model(model, mode=kernels.Mode.TRAINING, device="cpu")
    assert added(model.layers[0].narrow, 2) == 1.0
    with pytest.raises(ModeError, match=r"mode: got <Mode.FALLBACK: .*expected one of inference, train, compile"):
        kernelize_model(model, mode=kernels.Mode.FALLBACK, device="cpu")


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no source": ({}, RegistrationError, r"got no source, expected exactly one of an implementation, a repo object"),
    "two sources": (
        {"layer_impl": plus_one, "repo_path": "somewhere"},
        RegistrationError,
        r"layer kernel 'Norm': got impl and repo_path, expected exactly one",
    ),
    "both pins": (
        {"repo_id": "a/b", "revision": "main", "version": 1},
        RegistrationError,
        r"a/b: got both revision='main' and version=1, expected one of them; drop one",
    ),
    "a pin for no repo": (
        {"layer_impl": plus_one, "revision": "main"},
        RegistrationError,
        r"revision and version belong to repo_id, got impl; drop them",
    ),
    "a package for no path": (
        {"repo_id": "a/b", "package_name": "c", "version": 1},
        RegistrationError,
        r"package_name belongs to repo_path, got repo_id; drop it",
    ),
    "an unknown mode": (
        {"layer_impl": plus_one, "mode": "fast"},
        ModeError,
        r"mode: got 'fast', expected one of inference, train, compile, train\+compile or a kernels.Mode value",
    ),
    "a number for a mode": ({"layer_impl": plus_one, "mode": 3}, ModeError, r"mode: got 3, expected one of"),
    "an unknown device": (
        {"layer_impl": plus_one, "device": "tpu"},
        DeviceError,
        r"device: got 'tpu', expected one of cpu, cuda, rocm, npu, xpu, mps; choose cpu or cuda",
    ),
    "another word for a device": ({"layer_impl": plus_one, "device": "GPU"}, DeviceError, r"; did you mean cuda\?"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_of_a_layer(case: str) -> None:
    """Arguments that do not fit together are refused at once, with what was expected, and leave nothing behind."""
    arguments, error, message = BAD_ARGUMENTS[case]
    with pytest.raises(error, match=message):
        register_layer_kernel("Norm", **{"device": "cpu", **arguments})
    assert not default_registry.layer("Norm")


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_of_a_function(case: str) -> None:
    """The same holds for functions."""
    arguments, error, message = BAD_ARGUMENTS[case]
    renamed = {"func_impl" if name == "layer_impl" else name: value for name, value in arguments.items()}
    with pytest.raises(error, match=message.replace("layer kernel 'Norm'", r"function kernel my_pkg.math_ops.add")):
        register_function_kernel(func_name="add", target_module="my_pkg.math_ops", **renamed)
    assert not default_registry.functions


def test_external_layers() -> None:
    """A class is bound to one name, an instance or another object to none."""
    register_external_layer(Norm, "Norm")
    register_external_layer(Norm, "Norm")
    with pytest.raises(RegistrationError, match=r"Norm is bound to the kernel name 'Norm', got 'Other'; register the"):
        register_external_layer(Norm, "Other")
    for wrong in (Model(), int, "Norm"):
        with pytest.raises(
            RegistrationError, match=r"(?s)layer_class: got .{2,90}, expected an nn.Module class; pass the class"
        ):
            register_external_layer(wrong, "Norm")  # type: ignore[arg-type]
    assert default_registry.kernel_name(Norm) == "Norm"
    assert default_registry.kernel_name(Model) is None


def test_class_that_carries_a_name() -> None:
    """A class that carries kernel_layer_name takes the kernels of that name, unless it was bound to another."""

    class Carrying(Norm):
        kernel_layer_name = "Carried"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert default_registry.kernel_name(Carrying) == "Carried"
    register_external_layer(Carrying, "Given")
    assert default_registry.kernel_name(Carrying) == "Given"


def test_names_of_the_catalog() -> None:
    """A kernel registered under a name of the catalog goes to the layers that the catalog knows by it."""
    model = Model()
    register_layer_kernel("RMSNorm", layer_impl=plus_one, device="cpu")
    kernelize_model(model, mode="inference", device="cpu")
    assert {added(module, 2) for module in norms(model).values()} == {1.0}


def test_where_originals_may_not_stay_nothing_named_is_nothing_said() -> None:
    """With use_fallback=False what is wrong is an error, and a model that names nothing is fine."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernelize_model(nn.Linear(2, 2), use_fallback=False, registry=Registry())


def test_names_of_the_catalog_that_a_class_has() -> None:
    """A name that some class was bound to is that class's alone."""

    class Other(nn.Module):
        pass

    model = Model()
    register_external_layer(Other, "RMSNorm")
    register_layer_kernel("RMSNorm", layer_impl=plus_one, device="cpu")
    kernelize_model(model, mode="inference", device="cpu")
    assert {added(module, 2) for module in norms(model).values()} == {0.0}


BAD_SOURCES = {
    "a wrong path": ({"repo_path": "nowhere"}, r"repo_path: got .*nowhere, which is no folder; expected"),
    "a missing package": (
        {"package_name": "your_kernels"},
        r"package_name: got 'your_kernels'.*packages in .*: my_kernels; check package_name",
    ),
    "a missing layer": (
        {"layer_name": "Missing"},
        r"there is no 'Missing'; it offers Constructed, Membered, NoBackward, PlusOne, TwoInputs; check the name",
    ),
    "its own constructor": ({"layer_name": "Constructed"}, r"it has its own constructor, expected none"),
    "other members": ({"layer_name": "Membered"}, r"it has members of its own \(helper\), expected only forward"),
    "another signature": (
        {"layer_name": "TwoInputs"},
        r"its signature is \(self, x, y\), expected that of .*:Norm, \(self, x\)",
    ),
    "no backward": ({"layer_name": "NoBackward"}, r"declares has_backward=False and the mode is train"),
    "another mode": (
        {"layer_name": "PlusOne", "mode": "inference"},
        r"no kernel is registered for device cpu and mode",
    ),
}


def test_an_instance_is_no_layer_kernel() -> None:
    """It is refused when it is registered, not when it is applied."""
    with pytest.raises(RegistrationError, match=r"'Norm': got an instance of Identity, .* pass layer_impl=Identity$"):
        register_layer_kernel("Norm", layer_impl=nn.Identity(), device="cpu")
    assert not default_registry.layer("Norm")


def test_a_function_s_name_and_module_need_no_keywords() -> None:
    """As its twin for layers; a function in the module's place is answered with how it is written."""
    register_function_kernel("gelu", "torch.nn.functional", func_impl=lambda x: x)
    assert default_registry.function("torch.nn.functional", "gelu")
    with pytest.raises(RegistrationError, match=r"'gelu': target_module: got a function, expected the name of the mod"):
        register_function_kernel("gelu", lambda x: x)  # type: ignore[arg-type]


def test_a_kernel_of_another_device_names_that_device() -> None:
    """A layer kernel is for cuda unless said otherwise: on the CPU the report says so, and what to pass."""
    register_external_layer(Norm, "Norm")
    register_layer_kernel("Norm", layer_impl=plus_one)
    with pytest.warns(UserWarning, match=r"Norm: .* registered for cuda .the default of device=., .*'cpu'"):
        kernelize_model(Model(layers=1), device="cpu")


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_bad_sources(tmp_path: Path, case: str) -> None:
    """A kernel that cannot be had or does not fit keeps the original with one warning; without fallback it raises."""
    changes, message = BAD_SOURCES[case]
    write_package(tmp_path, "my_kernels", {"__init__.py": "", "layers.py": LAYERS})
    arguments: dict[str, Any] = {"repo_path": ".", "package_name": "my_kernels", "layer_name": "PlusOne"} | changes
    register_external_layer(Norm, "Norm")
    register_layer_kernel("Norm", device="cpu", **{**arguments, "repo_path": tmp_path / arguments["repo_path"]})
    model = Model()
    before = [dict(module.__dict__) for module in model.modules()]
    with pytest.raises(RegistrationError, match=message):
        kernelize_model(model, mode="train", device="cpu", use_fallback=False)
    assert [dict(module.__dict__) for module in model.modules()] == before
    with pytest.warns(UserWarning, match=message) as caught:
        kernelize_model(model, mode="train", device="cpu")
    assert len(caught) == 1
    assert added(model.layers[0].narrow, 2) == 0.0
    report = kernelize_report(model)
    assert not report.bound
    assert [bool(re.search(message, kept.reason)) for kept in report.kept] == [True]


def test_no_pin_at_load(local_hub: LocalHub) -> None:
    """Neither revision nor version is refused when the kernel is wanted, without asking the Hub."""
    register_external_layer(Norm, "Norm")
    register_layer_kernel("Norm", repo_id="kernels-community/norm", device="cpu")
    with pytest.raises(RegistrationError, match=r"got neither revision nor version"):
        kernelize_model(Model(), mode="train", device="cpu", use_fallback=False)
    assert not local_hub.asked


@pytest.mark.usefixtures("my_pkg")
@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("my_pkg.gone", "add", r"target_module: 'my_pkg.gone' cannot be imported \(ModuleNotFoundError.*\); check"),
        ("my_pkg.math_ops", "div", r"func_name: 'my_pkg.math_ops' has no function 'div'; expected the name"),
        ("my_pkg.math_ops", "Gone.add", r"func_name: 'my_pkg.math_ops' has no function 'Gone.add'"),
    ],
)
def test_functions_that_are_not_there(module: str, name: str, message: str) -> None:
    """A function that does not exist is told when it would be replaced."""
    register_function_kernel(func_name=name, target_module=module, func_impl=lambda x, y: x)
    with pytest.raises(RegistrationError, match=message):
        kernelize_model(None, mode="inference", device="cpu", use_fallback=False)
    with pytest.raises(RegistrationError, match=message):
        apply_function_kernel(mode="inference", strict=True)
    with pytest.warns(UserWarning, match=message):
        assert apply_function_kernel(mode="inference") == []


@pytest.mark.usefixtures("my_pkg")
def test_applying_functions() -> None:
    """Filters pass over what they do not speak of; strictly, nothing applied and no mode given are errors."""
    register_function_kernel(
        func_name="add", target_module="my_pkg.math_ops", func_impl=lambda x, y: 0, device="cpu", mode="inference"
    )
    assert apply_function_kernel(target_module="my_pkg.activations", mode="inference") == []
    assert apply_function_kernel(device="cpu", mode="train") == []
    with pytest.raises(RegistrationError, match=r"no function kernel fits target_module=None, device='cpu', mode='tr"):
        apply_function_kernel(device="cpu", mode="train", strict=True)
    with pytest.warns(UserWarning, match=r"add: its kernels are for one mode and none was given; pass mode="):
        assert apply_function_kernel(device="cpu") == []
    assert apply_function_kernel(mode="inference", strict=True) == ["my_pkg.math_ops.add"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without CUDA; this one has it")
@pytest.mark.usefixtures("my_pkg")
def test_functions_of_a_device_that_is_not_here() -> None:
    """Without a device, kernels of devices that are not here are passed over."""
    register_function_kernel(
        func_name="add", target_module="my_pkg.math_ops", func_impl=lambda x, y: 0, device="cuda", mode="inference"
    )
    assert apply_function_kernel(mode="inference") == []


CONFIG: dict[str, Any] = {
    "layers": {"Norm": {"layer_impl": plus_one, "device": "cpu", "mode": "train"}},
    "functions": {"add": {"target_module": "my_pkg.math_ops", "func_impl": max, "device": "cpu"}},
}


def test_config_registers_and_is_not_changed() -> None:
    """A configuration registers layers and functions, is left as it is, and read again doubles nothing."""
    config = copy.deepcopy(CONFIG)
    for _ in range(2):
        register_kernels(config)
    assert config == CONFIG
    assert _names() == ["impl:plus_one"]
    assert [c.name for c in default_registry.function("my_pkg.math_ops", "add")] == ["impl:max"]


BAD_CONFIGS: dict[str, tuple[Any, type[Exception], str]] = {
    "an unknown section": ({"layer": {}}, RegistrationError, r"config: got layer, expected 'layers' and 'functions'"),
    "an unknown key": (
        {"layers": {"New": {"layer_impl": plus_one, "devices": "cpu"}}},
        RegistrationError,
        r"config: layers.New: got devices, expected some of children, device, layer_impl, layer_name, mode",
    ),
    "a missing key": (
        {"functions": {"new": {"func_impl": max}}},
        RegistrationError,
        r"config: functions.new: .*missing 1 required .*'target_module'",
    ),
    "no source": ({"layers": {"New": {}}}, RegistrationError, r"config: layers.New: layer kernel 'New': got no source"),
    "a device": (
        {"layers": {"New": {"layer_impl": plus_one, "device": "tpu"}}},
        DeviceError,
        r"config: layers.New: device: got 'tpu'",
    ),
    "a mode": (
        {"functions": {"new": {"target_module": "m", "func_impl": max, "mode": "fast"}}},
        ModeError,
        r"config: functions.new: mode: got 'fast'",
    ),
    "no mapping": ([], RegistrationError, r"config: got list, expected a mapping of names to arguments"),
    "a section that is none": ({"layers": ["New"]}, RegistrationError, r"config: layers: got list, expected a mapping"),
    "an entry that is none": (
        {"layers": {"New": "x"}},
        RegistrationError,
        r"config: layers.New: got str, expected a m",
    ),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_config_is_all_or_nothing(case: str) -> None:
    """A configuration with one bad entry is refused by the entry's name, and registers nothing of it."""
    bad, error, message = BAD_CONFIGS[case]
    config = (
        {**CONFIG, **{k: {**CONFIG.get(k, {}), **v} if isinstance(v, dict) else v for k, v in bad.items()}}
        if (isinstance(bad, dict))
        else bad
    )
    with pytest.raises(error, match=message):
        register_kernels(config)
    assert not _names()
    assert not default_registry.functions


def test_own_registry() -> None:
    """What is registered in a registry of one's own is in no other, and is applied from it."""
    mine, model = Registry(), Model()
    register_external_layer(Norm, "Norm", registry=mine)
    register_kernels({"layers": CONFIG["layers"]}, registry=mine)
    assert not _names()
    kernelize_model(model, mode="train", device="cpu", registry=mine)
    assert added(model.layers[0].narrow, 2) == 1.0


def test_use_kernels_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """TWINKLE_USE_KERNELS=NO leaves the model alone, whatever is registered."""
    register_external_layer(Norm, "Norm")
    register_layer_kernel("Norm", layer_impl=plus_one, device="cpu")
    model = Model()
    for value, shows in (("NO", 0.0), ("false", 0.0), ("0", 0.0), ("YES", 1.0)):
        monkeypatch.setenv(USE_VARIABLE, value)
        assert kernelize_model(model, mode="train", device="cpu") is model
        assert added(model.layers[0].narrow, 2) == shows


@pytest.mark.parametrize(("value", "trusted"), [("NO", False), ("YES", True)])
def test_trust_decides(local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, value: str, trusted: bool) -> None:
    """TWINKLE_TRUST_REMOTE_CODE decides whether a stranger's layer is bound."""
    monkeypatch.setenv(TRUST_VARIABLE, value)
    local_hub.push(
        "stranger/norm", build({"__init__.py": "from . import layers", "layers.py": LAYERS}), branches=("v1",)
    )
    register_external_layer(Norm, "Norm")
    register_layer_kernel("Norm", repo_id="stranger/norm", layer_name="PlusOne", version=1, device="cpu")
    model = Model()
    if not trusted:
        with pytest.warns(UserWarning, match="the Hub does not list 'stranger'"):
            kernelize_model(model, mode="train", device="cpu")
    else:
        kernelize_model(model, mode="train", device="cpu", use_fallback=False)
    assert added(model.layers[0].narrow, 2) == float(trusted)
