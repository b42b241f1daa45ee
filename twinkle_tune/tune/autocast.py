"""Autocast as it was, or is to be, while a model runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from twinkle_tune.device import torch_type


def autocast_to(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Autocast on a device.

    Args:
        dtype: what it casts to ("bfloat16"); "" to leave it as it is.
        device: a device's name.
    """
    return torch.autocast(torch_type(device), dtype=getattr(torch, dtype)) if dtype else nullcontext()
