"""Names of modes and devices, and the environment's fingerprint."""

from __future__ import annotations

from dataclasses import replace

import kernels
import pytest
import torch

from twinkle_tune.device import capability, is_available, parse_device, parse_registered_device
from twinkle_tune.environment import changes, current_environment
from twinkle_tune.errors import DeviceError, ModeError
from twinkle_tune.mode import Mode, parse_mode, parse_registered_mode


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        ("train", Mode.TRAIN),
        ("INFERENCE", Mode.INFERENCE),
        (Mode.COMPILE, Mode.COMPILE),
        (kernels.Mode.TRAINING, Mode.TRAIN),
        (kernels.Mode.INFERENCE, Mode.INFERENCE),
        (kernels.Mode.TORCH_COMPILE, Mode.COMPILE),
        (kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE, Mode.TRAIN_COMPILE),
    ],
)
def test_modes_by_name_and_by_kernels_value(value: object, mode: Mode) -> None:
    """A mode is named, or a kernels.Mode, or a combination of those."""
    assert parse_mode(value) is mode


@pytest.mark.parametrize("value", ["fast", "", None, 3, kernels.Mode.FALLBACK])
def test_an_unknown_mode_is_refused(value: object) -> None:
    """The message says what was got and what is expected."""
    with pytest.raises(ModeError, match=r"mode: got .*expected one of inference, train, compile, train\+compile"):
        parse_mode(value)


def test_a_registered_mode_may_be_every_mode() -> None:
    """None and kernels.Mode.FALLBACK stand for every mode, at registration alone."""
    assert parse_registered_mode(None) is None
    assert parse_registered_mode(kernels.Mode.FALLBACK) is None


def test_devices_by_name() -> None:
    """An index and upper case do not matter; another name is refused with the list."""
    assert parse_device("CUDA:1") == "cuda"
    assert parse_device(torch.device("cpu")) == "cpu"
    with pytest.raises(DeviceError, match="expected one of cpu, cuda, rocm, npu, xpu, mps"):
        parse_device("tpu")
    assert is_available("cpu")
    assert not is_available("npu")


@pytest.mark.parametrize("name", ["metal", "neuron", "tpu"])
def test_devices_of_kernels_that_are_not_supported(name: str) -> None:
    """Devices that the kernels package knows and this one does not are named as such."""
    with pytest.raises(DeviceError, match=rf"got '{name}'.*{name} is a device of the kernels package that is not supp"):
        parse_device(name)


def test_a_device_of_kernels() -> None:
    """A kernels.Device is its type; registered, it may limit the compute capability, from the least to the most."""
    cuda, rocm = kernels.CUDAProperties(75, 90), kernels.ROCMProperties(90, 94)
    assert parse_device(kernels.Device("cuda", cuda)) == "cuda"
    assert parse_registered_device(kernels.Device("cuda", cuda)) == ("cuda", (75, 90))
    assert parse_registered_device(kernels.Device("rocm", rocm)) == ("rocm", (90, 94))
    assert parse_registered_device(kernels.Device("xpu")) == ("xpu", None)
    assert parse_registered_device("cuda:1") == ("cuda", None)
    with pytest.raises(DeviceError, match=r"got Device\(type='neuron'.*neuron is a device of the kernels package"):
        parse_registered_device(kernels.Device("neuron"))


def test_the_capability_is_the_current_gpu_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one number, major and minor; a device that is not here, or no GPU, has none."""
    monkeypatch.setattr("twinkle_tune.device.is_available", lambda device: device != "rocm")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    assert [capability(device) for device in ("cuda", "rocm", "cpu", "xpu")] == [86, None, None, None]


def test_the_fingerprint_tells_what_changed() -> None:
    """It changes with what a timing depends on, not with the load or Python's version; it is said what changed."""
    here = current_environment("cpu")
    assert current_environment("cpu").fingerprint == here.fingerprint
    assert replace(here, python="3.99", system="Plan 9", load=9.0, memory_bytes=1).fingerprint == here.fingerprint
    other = replace(here, torch="9.9", threads=64)
    assert other.fingerprint != here.fingerprint
    assert changes(here, other) == [f"threads: {here.threads} then, 64 now", f"torch: {here.torch} then, 9.9 now"]
    on_gpu = replace(here, device="cuda")
    assert replace(on_gpu, threads=64).fingerprint == on_gpu.fingerprint
