"""Device names, and whether this machine has the device. Only cpu and cuda are tested."""

from __future__ import annotations

from twinkle_tune.errors import DeviceError
from twinkle_tune.words import did_you_mean

DEVICES = ("cpu", "cuda", "rocm", "npu", "xpu", "mps")
"""Names that a kernel can be registered for."""
_OF_KERNELS = ("metal", "neuron", "tpu")
"""Names that the ``kernels`` package or its documents know, and this package does not support."""
_CALLED = {"gpu": "cuda", "nvidia": "cuda", "amd": "rocm", "hip": "rocm", "intel": "xpu", "metal": "mps"}


def parse_device(value: object) -> str:
    """The device type that a name (``"cuda"``, ``"cuda:1"``), a ``torch.device`` or a ``kernels.Device`` stands for.

    Raises:
        DeviceError: the name is none of :data:`DEVICES`.
    """
    name = str(getattr(value, "type", value) if _is_hf_device(value) else value).split(":")[0].lower()
    if name not in DEVICES:
        hint = did_you_mean(name, DEVICES, _CALLED) or "; choose cpu or cuda"
        hint += f" ({name} is a device of the kernels package that is not supported here)" * (name in _OF_KERNELS)
        raise DeviceError(f"device: got {value!r}, expected one of {', '.join(DEVICES)}{hint}")
    return name


def parse_registered_device(value: object) -> tuple[str, tuple[int, int] | None]:
    """The device type, and the compute capabilities from least to most that a ``kernels.Device`` is limited to.

    Capabilities are whole numbers as in ``kernels``: 90 is 9.0. None where there is no such limit.

    Raises:
        DeviceError: an unknown name.
    """
    properties = getattr(value, "properties", None) if _is_hf_device(value) else None
    if properties is None:
        return parse_device(value), None
    return parse_device(value), (int(properties.min_capability), int(properties.max_capability))


def capability(device: str) -> int | None:
    """The compute capability of the current GPU as one number (90 for 9.0); None where the device has none."""
    if device not in ("cuda", "rocm") or not is_available(device):
        return None
    import torch

    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor


def torch_type(device: str) -> str:
    """The ``torch.device`` type of a device name: ROCm builds of torch call theirs ``cuda``."""
    return "cuda" if device == "rocm" else device


def is_available(device: str) -> bool:
    """Whether this machine, with this build of torch, has the device."""
    import torch

    if device == "cpu":
        return True
    if device in ("cuda", "rocm"):
        is_rocm_build = torch.version.hip is not None
        return torch.cuda.is_available() and is_rocm_build == (device == "rocm")
    backend = getattr(torch, device, None)
    return backend is not None and bool(backend.is_available())


def cuda_in_use() -> bool:
    """Whether this process has a CUDA context."""
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _is_hf_device(value: object) -> bool:
    # By name, so that the kernels package is not imported to find out that a value is not its own.
    return type(value).__name__ == "Device" and type(value).__module__.split(".")[0] == "kernels"
