"""Device names, and whether this machine has the device. Only cpu and cuda are tested."""

from __future__ import annotations

from twinkle_tune.errors import DeviceError
from twinkle_tune.words import did_you_mean

DEVICES = ("cpu", "cuda", "rocm", "npu", "xpu", "mps")
"""Names that a kernel can be registered for."""
_CALLED = {"gpu": "cuda", "nvidia": "cuda", "amd": "rocm", "hip": "rocm", "intel": "xpu", "metal": "mps"}


def parse_device(value: object) -> str:
    """The device type that a name (``"cuda"``, ``"cuda:1"``) or a ``torch.device`` stands for.

    Raises:
        DeviceError: the name is none of :data:`DEVICES`.
    """
    name = str(value).split(":")[0].lower()
    if name not in DEVICES:
        hint = did_you_mean(name, DEVICES, _CALLED) or "; choose cpu or cuda"
        raise DeviceError(f"device: got {value!r}, expected one of {', '.join(DEVICES)}{hint}")
    return name


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
