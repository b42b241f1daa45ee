"""What ways that are for a CUDA device alone ask of a model."""

from __future__ import annotations

from itertools import chain

from torch import nn

KIND = "cuda"


def why_not_on_cuda(model: nn.Module) -> str:
    """Why a model has no way that is for a CUDA device; "" where all that it computes with is on one."""
    devices = list(dict.fromkeys(tensor.device for tensor in chain(model.parameters(), model.buffers())))
    if not devices:
        return "the model has no weights that say on which device it is"
    if len(devices) > 1:
        return f"the model is on several devices ({devices[0]} and {devices[1]})"
    return "" if devices[0].type == KIND else f"it is for CUDA devices, and the model is on {devices[0]}"
