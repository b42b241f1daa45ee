"""The device of a command: the one asked for, else the best that is here."""

from __future__ import annotations


def choose_device(asked: str | None) -> str:
    """``asked``, or "cuda" (on a ROCm build "rocm") where there is one, else "cpu".

    Raises:
        DeviceError: ``asked`` names no device.
    """
    from twinkle_tune.device import is_available, parse_device

    if asked is None:
        return next(name for name in ("cuda", "rocm", "cpu") if is_available(name))
    parse_device(asked)
    return asked


def use_device(asked: str | None) -> tuple[str, str]:
    """Choose a device and make it the process's current one, which clocks and kernels go by.

    Returns:
        Its name with the number that was asked for ("cuda:1"), and its kind ("cuda").

    Raises:
        DeviceError: an unknown name, or a device that is not there.
    """
    import torch

    from twinkle_tune.device import parse_device
    from twinkle_tune.models import require_device

    device = choose_device(asked)
    place = torch.device(require_device(device))
    if place.type == "cuda":
        torch.cuda.set_device(place.index or 0)
    return device, parse_device(device)


def device_name(kind: str) -> str:
    """What the device calls itself ("NVIDIA H100 80GB HBM3")."""
    from twinkle_tune.environment import current_environment

    return current_environment(kind).device_name
