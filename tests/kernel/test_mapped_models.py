"""Mappings of the kernels package, applied without a profile: what counts, in which order, and what is an error."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import kernels
import pytest
import torch
from kernels import (
    CUDAProperties,
    Device,
    Mode,
    register_kernel_mapping,
    replace_kernel_forward_from_hub,
    use_kernel_mapping,
)
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.coexistence.tiny import tiny_llama, transformers_names_layers
from tests.kernel.named import Adds, Scale, Shifted, shown
from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel import (
    Registry,
    kernelize_model,
    kernelize_report,
    register_external_layer,
    register_function_kernel,
    register_layer_kernel,
    restore_model,
)
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.mode import Mode as OurMode
from twinkle_tune.slot import closest


class Plain(nn.Module):
    """A layer that nobody named."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x as it is."""
        return x


@pytest.fixture(autouse=True)
def _own_mapping() -> Iterator[None]:
    with use_kernel_mapping({}, inherit_mapping=False):
        yield


def adds(number: float) -> Any:
    """A kernel that is registered here, and adds a number."""
    return Adds(number).load()


def test_a_mapped_layer_runs() -> None:
    """The kernel of a decorated class runs without a profile, reported as unchecked, and is undone."""
    model = nn.Sequential(Scale())
    register_kernel_mapping({"Scale": {"cpu": Adds(1)}})
    assert kernelize_model(model, use_fallback=False, mode="inference") is model
    assert shown(model) == 1
    (binding,) = kernelize_report(model).bound
    assert (binding.slot, binding.candidate, binding.is_checked) == ("Scale", "repo:Adds", False)
    restore_model(model)
    assert shown(model) == 0


def test_a_replaced_class_runs() -> None:
    """A class of another library is named by replace_kernel_forward_from_hub, a condition included."""

    class Foreign(Plain):
        pass

    replace_kernel_forward_from_hub(Foreign, "Foreign", condition=lambda module: not module.training)
    model = nn.Sequential(Foreign(), Foreign().eval())
    with use_kernel_mapping({"Foreign": {"cpu": Adds(1)}}):
        kernelize_model(model, mode="inference", use_fallback=False)
    assert [binding.path for binding in kernelize_report(model).bound] == ["1"]


def test_contexts_entered_and_left() -> None:
    """What is bound stays when its context is left; kernelized again, the model has what the mapping has then."""
    model = nn.Sequential(Scale())
    with use_kernel_mapping({"Scale": {"cpu": Adds(1)}}):
        kernelize_model(model, mode="inference")
        with use_kernel_mapping({"Scale": {"cpu": Adds(2)}}):
            assert shown(model) == 1
            kernelize_model(model, mode="inference")
            assert shown(model) == 2
        assert shown(model) == 2
        kernelize_model(model, mode="inference")
        assert shown(model) == 1
    assert shown(model) == 1
    with pytest.warns(UserWarning, match=r"nothing is bound; .*\(Scale: no kernel is registered or mapped for it\)"):
        kernelize_model(model, mode="inference")
    assert shown(model) == 0


@pytest.mark.parametrize("inherits", [True, False])
def test_inherit_mapping(inherits: bool) -> None:
    """A context extends the mapping around it; with inherit_mapping=False it alone counts."""
    register_kernel_mapping({"Scale": {"cpu": Adds(1)}})
    other: dict[Any, Any] = {"Other": {"cpu": Adds(2)}}
    model = nn.Sequential(Scale())
    with use_kernel_mapping(other, inherit_mapping=inherits), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernelize_model(model, mode="inference")
    assert shown(model) == int(inherits)
    register_kernel_mapping(other, inherit_mapping=False)
    with pytest.raises(RegistrationError, match="Scale: no kernel is registered or mapped for it"):
        kernelize_model(model, mode="inference", use_fallback=False)


def test_what_is_registered_here_comes_first() -> None:
    """Of a name that both have kernels for, the one that is registered here runs; the mapping's where none fits."""
    register_kernel_mapping({"Scale": {"cpu": Adds(1)}})
    register_layer_kernel("Scale", layer_impl=adds(2), device="cpu", mode="train")
    model = nn.Sequential(Scale())
    for mode, expected in ((Mode.TRAINING, 2), (Mode.INFERENCE, 2), (Mode.TRAINING | Mode.TORCH_COMPILE, 1)):
        kernelize_model(model, mode=mode, use_fallback=False)
        assert shown(model) == expected


def test_registered_for_an_external_layer() -> None:
    """A class bound by register_external_layer takes mapped kernels; kernels.kernelize sees it until it is undone."""
    register_kernel_mapping({"Foreign": {"cpu": Adds(1)}})
    register_external_layer(Plain, "Foreign")
    model = kernelize_model(nn.Sequential(Plain()), mode="inference", use_fallback=False)
    assert shown(model) == 1
    theirs = kernels.kernelize(nn.Sequential(Plain()), mode=Mode.INFERENCE, device="cpu", use_fallback=False)
    assert shown(theirs) == 1
    default_registry.clear()
    assert not hasattr(Plain, "kernel_layer_name")
    register_external_layer(Scale, "Foreign")
    assert shown(kernelize_model(nn.Sequential(Scale()), mode="inference", use_fallback=False)) == 1
    default_registry.clear()
    assert vars(Scale)["kernel_layer_name"] == "Scale"
    register_external_layer(Plain, "Foreign", registry=Registry())
    assert not hasattr(Plain, "kernel_layer_name")


def test_a_kernel_may_derive_from_a_named_class() -> None:
    """A kernel that is a subclass of the layer that it replaces is no other for the name that the layer was given."""

    class Doubled(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 2

    register_external_layer(Plain, "Plain")
    register_layer_kernel("Plain", layer_impl=Doubled, device="cpu")
    assert shown(kernelize_model(nn.Sequential(Plain()), mode="inference", use_fallback=False)) == 2


def test_a_mark_that_somebody_changed_stays() -> None:
    """A class that was named otherwise after register_external_layer keeps that name."""

    class Other(Plain):
        pass

    register_external_layer(Other, "Ours")
    replace_kernel_forward_from_hub(Other, "Theirs")
    default_registry.clear()
    assert vars(Other)["kernel_layer_name"] == "Theirs"


def test_a_mapped_function_runs_for_its_model() -> None:
    """A function of use_kernelized_func takes its kernel for the model alone, again and again, and is undone."""
    model, other = Shifted(), Shifted()
    for number in (1, 2):
        with use_kernel_mapping({"shift": {"cpu": Adds(number)}}):
            kernelize_model(model, mode="inference", device="cpu", use_fallback=False)
        assert (shown(model), shown(other)) == (number, 0)
    register_function_kernel("shift", Shifted.__module__, func_impl=lambda x: x + 3, device="cpu")
    with use_kernel_mapping({"shift": {"cpu": Adds(4)}}):
        kernelize_model(model, mode="inference", device="cpu", use_fallback=False)
    assert shown(model) == 3
    restore_model(model)
    assert shown(model) == 0


REFUSED: dict[str, tuple[dict[Any, Any], str]] = {
    "no mapping at all": ({}, r"Scale: no kernel is registered or mapped for it"),
    "another device": ({"xpu": Adds(1)}, r"Scale: the kernel mapping has kernels for xpu, none for cpu"),
    "an empty mapping": ({"cpu": {}}, r"Scale: the kernel mapping says that it has none on cpu"),
    "another mode": (
        {"cpu": {Mode.INFERENCE: Adds(1)}},
        r"Scale: the kernel mapping has kernels for Mode.INFERENCE, which do not run in mode train",
    ),
    "a repository that cannot be loaded": ({"cpu": object()}, r"repo object .* load\(\) raised AttributeError"),
    "another signature": (
        {"cpu": Adds(1, forward=lambda self, x, y: x)},
        r"its signature is .*expected that of .*Scale",
    ),
    "no backward": ({"cpu": Adds(1, has_backward=False)}, r"it declares has_backward=False and the mode is train"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_without_fallback_a_named_layer_without_a_kernel_is_an_error(case: str) -> None:
    """With use_fallback=False a layer that is named and gets no kernel is an error, and the model is as it was."""
    mapping, message = REFUSED[case]
    model = nn.Sequential(Scale(), Plain())
    register_layer_kernel("Plain", layer_impl=adds(1), device="cpu")
    register_external_layer(Plain, "Plain")
    with use_kernel_mapping({"Scale": mapping} if mapping else {}):
        with pytest.raises(RegistrationError, match=message):
            kernelize_model(model, mode="train", use_fallback=False)
        assert shown(model) == 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kernelize_model(model, mode="train")
    assert shown(model) == 1
    assert re.search(message, str(kernelize_report(model)))


def test_a_layer_that_nobody_named_is_no_error() -> None:
    """use_fallback=False speaks of layers that are named for kernels, and of no others."""
    model = nn.Sequential(Scale(), Plain(), nn.Linear(1, 1))
    with use_kernel_mapping({"Scale": {"cpu": Adds(1)}}):
        kernelize_model(model, mode="inference", use_fallback=False)
    assert len(kernelize_report(model).bound) == 1


@transformers_names_layers
def test_layers_that_transformers_names() -> None:
    """Names that transformers gave, for its own switch, count only where a kernel is registered or mapped under one."""
    model = tiny_llama()
    register_layer_kernel("MLP", layer_impl=lambda self, x: type(self).forward(self, x), device="cpu")
    register_external_layer(LlamaMLP, "MLP")
    kernelize_model(model, mode="inference", use_fallback=False)
    assert {binding.slot for binding in kernelize_report(model).bound} == {"MLP"}
    assert kernelize_report(model).kept == ()
    mapping: dict[Any, Any] = {"RMSNorm": {"xpu": Adds(1)}, "SiLU": {"cpu": {}}}
    refusal = pytest.raises(RegistrationError, match="SiLU: the kernel mapping says that it has none on cpu")
    with use_kernel_mapping(mapping), refusal:
        kernelize_model(model, mode="inference", use_fallback=False)


def test_the_narrowest_capability_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered for several ranges of compute capability, the narrowest that holds the device runs."""
    monkeypatch.setattr("twinkle_tune.slot.capability", lambda device: 80)
    spans = {None: 1, (80, 80): 2, (75, 90): 3, (90, 100): 4}
    registry = Registry()
    for span, number in spans.items():
        properties = None if span is None else CUDAProperties(*span)
        register_layer_kernel("Scale", layer_impl=adds(number), device=Device("cuda", properties), registry=registry)
    fitting = [c for c in registry.layer("Scale") if c.is_for("cuda")]
    assert [c.capabilities for c in fitting] == [None, (80, 80), (75, 90)]
    found = closest(fitting, OurMode.INFERENCE)
    assert found is not None
    assert found.capabilities == (80, 80)
    assert not [c for c in registry.layer("Scale") if c.is_for("cpu")]
