"""Random tensors that move nobody's generator: a training run after a profile draws what it would have drawn."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def drawn_like(tensor: Tensor, seed: int) -> Tensor:
    """Standard normal numbers with the form, dtype and device of a tensor; equal seeds give equal ones."""
    generator = torch.Generator(tensor.device).manual_seed(seed)
    drawn = torch.randn(tensor.shape, generator=generator, device=tensor.device)
    return torch.empty_like(tensor).copy_(drawn)


@contextmanager
def random_kept() -> Iterator[None]:
    """Every generator of the process is afterwards where it was: torch's of all devices, Python's and numpy's."""
    numpy: Any = sys.modules.get("numpy")
    device = _device_module()
    python, host = random.getstate(), torch.get_rng_state()
    devices = None if device is None else device.get_rng_state_all()
    arrays = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(host)
        if device is not None:
            device.set_rng_state_all(devices)
        if numpy is not None:
            numpy.random.set_state(arrays)


def draws(run: Callable[[], object]) -> bool:
    """Whether a run draws random numbers of torch, on the host or on devices. The generators are put back."""
    device = _device_module()

    def now() -> list[Tensor]:
        return [torch.get_rng_state(), *([] if device is None else device.get_rng_state_all())]

    with random_kept():
        before = now()
        run()
        return not all(torch.equal(one, other) for one, other in zip(before, now(), strict=True))


def _device_module() -> Any:
    """The module of the accelerator whose generators have begun; None where there is none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    module = None if found is None else torch.get_device_module(found)
    has_begun = getattr(module, "is_initialized", lambda: False)()
    return module if has_begun and hasattr(module, "get_rng_state_all") else None
