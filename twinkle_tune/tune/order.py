"""Which contests come first: those that can save most; and how much that could be."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from twinkle_tune.capture.capture import Capture, Observation
from twinkle_tune.device import torch_type
from twinkle_tune.measure.roof import Roof, measured_roof
from twinkle_tune.workload import TensorSpec


def bounds_of(model: nn.Module, device: str, seen: Capture) -> dict[int, dict[str, float]]:
    """What a perfect kernel could save of each step that calls it: by the observation's id and the step's label."""
    parameter = next(model.parameters(), None)
    place = torch.device(torch_type(device)) if parameter is None else parameter.device
    roof = measured_roof(place, torch.float32 if parameter is None else parameter.dtype)
    return {id(o): bound(o, dict(seen.step_us), roof) for o in seen.observations}


def by_savings(seen: Capture, bounds: Mapping[int, Mapping[str, float]]) -> list[Observation]:
    """The observations, those that can save most time first: a budget that runs out then costs least."""
    step_us = dict(seen.step_us)

    def savings_us(observation: Observation) -> float:
        return sum(share * step_us[label] for label, share in bounds[id(observation)].items())

    return sorted(seen.observations, key=savings_us, reverse=True)


def bound(observation: Observation, step_us: Mapping[str, float], roof: Roof) -> dict[str, float]:
    """Shares that a perfect kernel could save of the steps, by label: what passes in the calls, over the roof.

    Args:
        observation: calls and their share of each step's time.
        step_us: the whole time of each step.
        roof: of the device. What a call must move is what it is given (once) and results as large as its first
            tensor; what it must compute are the products with its module's matrices.
    """
    least_us = roof.least_us(_moved_bytes(observation), _flops(observation))
    return {
        seen.step: max(0.0, seen.share - seen.calls * least_us / step_us[seen.step]) for seen in observation.seen
    }  # fmt: skip


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
