"""Mappings of the kernels package: what they bring into a contest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels import (
    CUDAProperties,
    Device,
    LayerRepository,
    LocalLayerRepository,
    Mode,
    register_kernel_mapping,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
    use_kernelized_func,
)
from torch import nn

from twinkle_tune.kernel import Registry
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.kernel.mappings import mapped
from twinkle_tune.mode import Mode as OurMode
from twinkle_tune.slot import SlotKind
from twinkle_tune.source.hub import HubSource
from twinkle_tune.source.package import LocalRepoSource

HERE = __name__
HUB = {name: LayerRepository("some/repo", layer_name=name, version=1) for name in ("A", "B", "C", "D")}


@use_kernel_forward_from_hub("Scale")
class Scale(nn.Module):
    """A layer that the catalog does not know."""

    def forward(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """x times by."""
        return x * by


class Other(Scale):
    """Its subclass, which inherits the name and computes something else."""

    def forward(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """x over by."""
        return x / by


@use_kernel_forward_from_hub("shift")  # type: ignore[untyped-decorator]
def shift(x: torch.Tensor) -> torch.Tensor:
    """x plus one."""
    return x + 1


@use_kernelized_func(shift)
class Shifted(nn.Module):
    """A layer that calls a replaceable function."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x plus one plus y."""
        shifted: torch.Tensor = shift(x)
        return shifted + y


class Object:
    """A repository object of nobody's."""

    def load(self) -> type[nn.Module]:
        """A layer."""
        return Scale


@pytest.fixture(autouse=True)
def _own_mapping() -> Iterator[None]:
    with use_kernel_mapping({}, inherit_mapping=False):
        yield


def _names(mode: OurMode = OurMode.INFERENCE, device: str = "cpu") -> list[str]:
    return [candidate.name for candidate in mapped("Scale", device, mode)]


def test_a_mapped_layer_is_a_slot() -> None:
    """A layer of a mapped name is a slot while the mapping holds, with the mapped kernel; its odd subclass is none."""
    model = nn.Sequential(Scale(), Other())
    assert not find_slots(model, Registry())
    with use_kernel_mapping({"Scale": {"cpu": HUB["A"]}}):
        (target,) = find_slots(model, Registry())
        assert (target.slot.name, [path for path, _ in target.instances]) == ("Scale", ["0"])
        found = contestants(target, "cpu", OurMode.INFERENCE, Registry())
        assert [c.name for c in found] == ["original", "compile", "hub:some/repo:A@v1"]
        assert found[-1].source == HubSource(repo_id="some/repo", name="A", version=1)
        other = replace(target, instances=(("1", model[1]),))
        odd = contestants(other, "cpu", OurMode.INFERENCE, Registry())
        assert [c.name for c in odd] == ["original", "compile"]
    assert not find_slots(model, Registry())


def test_registered_for_the_process() -> None:
    """What register_kernel_mapping added counts as well; a name without kernels is no slot."""
    register_kernel_mapping({"Scale": {"cpu": {}}, "Unrelated": {"cpu": HUB["A"]}})
    assert _names() == []
    register_kernel_mapping({"Scale": {"cpu": HUB["B"]}})
    assert _names() == ["hub:some/repo:B@v1"]


def test_modes_and_devices() -> None:
    """Kernels compete in the modes in which the kernels package may run them, the closest first."""
    modes: dict[Any, Any] = {
        Mode.FALLBACK: HUB["A"],
        Mode.TRAINING: HUB["B"],
        Mode.INFERENCE: HUB["C"],
        Mode.TRAINING | Mode.TORCH_COMPILE: HUB["D"],
    }
    anywhere = Device(type="cuda", properties=CUDAProperties(min_capability=0, max_capability=999))
    with use_kernel_mapping({"Scale": {"cpu": modes, anywhere: HUB["A"]}}):
        assert [name[-4] for name in _names(OurMode.INFERENCE)] == ["C", "B", "D", "A"]
        assert [name[-4] for name in _names(OurMode.TRAIN)] == ["B", "D", "A"]
        assert [name[-4] for name in _names(OurMode.COMPILE)] == ["D", "A"]
        assert [name[-4] for name in _names(OurMode.TRAIN_COMPILE)] == ["D", "A"]
        assert bool(_names(device="cuda")) == torch.cuda.is_available()


def test_repositories_of_any_kind(tmp_path: Path) -> None:
    """A local repo and any object with load() compete too; two of one class have names of their own."""
    local = LocalLayerRepository(tmp_path, layer_name="Scale")
    modes: dict[Any, Any] = {Mode.INFERENCE: local, Mode.TRAINING: Object(), Mode.FALLBACK: Object()}
    with use_kernel_mapping({"Scale": {"cpu": modes}}):
        found = mapped("Scale", "cpu", OurMode.INFERENCE)
    assert [c.name for c in found] == [f"local:{tmp_path.name}:Scale", "repo:Object", "repo:Object#2"]
    assert found[0].source == LocalRepoSource(repo_path=tmp_path, name="Scale")


def test_a_condition_of_the_class_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that the class's condition excludes takes no mapped kernel."""
    monkeypatch.setattr(Scale, "kernel_condition", staticmethod(lambda module: module.training))
    with use_kernel_mapping({"Scale": {"cpu": HUB["A"]}}):
        assert find_slots(nn.Sequential(Scale()), Registry())
        assert not find_slots(nn.Sequential(Scale().eval()), Registry())


def test_a_kernelized_function_is_a_slot() -> None:
    """A function that a class declares with use_kernelized_func is a slot, under the name by which it is called."""
    model = Shifted()
    assert not find_slots(model, Registry())
    with use_kernel_mapping({"shift": {"cpu": HUB["A"]}}):
        (target,) = find_slots(model, Registry())
        assert (target.slot.kind, target.slot.target) == (SlotKind.FUNCTION, f"{HERE}:shift")
        found = contestants(target, "cpu", OurMode.INFERENCE, Registry())
        assert [c.name for c in found] == ["original", "compile", "hub:some/repo:A@v1"]
