"""Which contests come first: those that can save most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from twinkle_tune.capture.capture import Capture, Observation
from twinkle_tune.device import torch_type
from twinkle_tune.measure.roof import Roof, measured_roof
from twinkle_tune.workload import TensorSpec


def by_savings(model: nn.Module, device: str, seen: Capture) -> list[Observation]:
    """The observations, those that can save most first: a budget that runs out then costs least."""
    parameter = next(model.parameters(), None)
    place = torch.device(torch_type(device)) if parameter is None else parameter.device
    roof = measured_roof(place, torch.float32 if parameter is None else parameter.dtype)
    step_us = dict(seen.step_us)
    return sorted(seen.observations, key=lambda o: savings_us(o, step_us, roof), reverse=True)


def savings_us(observation: Observation, step_us: Mapping[str, float], roof: Roof) -> float:
    """Microseconds that a perfect kernel could save in all steps together: what passes in the calls, over the roof.

    Args:
        observation: calls and their share of each step's time.
        step_us: the whole time of each step.
        roof: of the device. What a call must move is what it is given (once) and results as large as its first
            tensor; what it must compute are the products with its module's matrices.
    """
    spent_us = sum(seen.share * step_us[seen.step] for seen in observation.seen)
    calls = sum(seen.calls for seen in observation.seen)
    least_us = roof.least_us(_moved_bytes(observation), _flops(observation))
    return max(0.0, spent_us - calls * least_us)


def _moved_bytes(observation: Observation) -> int:
    workload = observation.workload
    parameters = [node for _, node in workload.settings if isinstance(node, TensorSpec)]
    results = workload.tensors[:1]
    return sum(_bytes(spec) for spec in (*workload.tensors, *parameters, *results))


def _flops(observation: Observation) -> int:
    if observation.module is None:
        return 0
    matrices = sum(p.numel() for p in observation.module.parameters() if p.dim() == 2)
    return 2 * observation.workload.rows * matrices


def _bytes(spec: TensorSpec) -> int:
    dtype = getattr(torch, spec.dtype)
    count = 1
    for size in spec.shape:
        count *= size
    return count * int(dtype.itemsize)
