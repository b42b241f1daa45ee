"""Where a run can be: which device, and whether what its objective needs is told there."""

from __future__ import annotations

import torch
from torch import nn

from twinkle_tune.device import is_available, parse_device, torch_type
from twinkle_tune.errors import DeviceError, ObjectiveError
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.objective import Aim


def available(device: object, model: nn.Module) -> str:
    """The name of the device that was asked for, or of the model's.

    Raises:
        DeviceError: it is unknown, not available here, or the model lies elsewhere.
    """
    parameter = next(model.parameters(), None)
    here = "cpu" if parameter is None else parameter.device.type
    name = parse_device(here if device is None else device)
    if device is None and name == "cuda" and torch.version.hip is not None:
        name = "rocm"
    if not is_available(name):
        raise DeviceError(f"device {name!r} is not available here, expected one that torch can use; pass device='cpu'")
    if torch_type(name) != here and parameter is not None:
        raise DeviceError(
            f"device: got {name!r} for a model on {here!r}; move the model with model.to({torch_type(name)!r})"
        )
    return name


def check_memory_is_told(aim: Aim, device: str) -> None:
    """Refuse an objective of memory where nobody tells the peak.

    Raises:
        ObjectiveError: so it is.
    """
    if aim.is_memory and clock_for(device).peak_bytes(lambda: None) is None:
        raise ObjectiveError(
            f"objective: got {aim.objective}, but torch {torch.__version__} does not tell the peak memory on "
            f"{device} here, expected objective='time'; is a profiler of torch running?"
        )
