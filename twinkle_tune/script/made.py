"""Example inputs out of forms: what a recorded call was given, with values that are made."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.call.arguments import fresh
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.errors import CaptureError
from twinkle_tune.script.recording import CallsSeen, ModelSeen
from twinkle_tune.workload import Entries, Items, Named, Node, Plain, TensorSpec

MOST_FORMS = 2
"""Forms that a model is tuned on: each of them is run, checked and timed by itself."""


def examples_of(model: ModelSeen, device: torch.device) -> list[Any]:
    """Example inputs for the calls that a model is called with most, as :func:`twinkle_tune.tune_model` takes them.

    Calls with most elements and repeats come first, at most :data:`MOST_FORMS`. What was kept is taken; else
    floating tensors are standard normal, integers lie evenly between the least and the largest that were seen, what is
    below zero (a label that is left out) and zeros of a mask stand at the first places of each row, and every bool is
    True. The same each time; no generator of the process moves.

    Raises:
        CaptureError: no call of its mode can be run by itself, or an argument is known by its class alone.
    """
    wanted = sorted(model.of_its_mode, key=lambda each: -_weight(each))[:MOST_FORMS]
    if not wanted:
        raise CaptureError(
            f"{model.name}: no recorded call can be run by itself, expected one that goes on with no cache; "
            "record more calls"
        )
    return [_example(each, model, device) for each in wanted]


def steps_of(model: torch.nn.Module, seen: ModelSeen) -> tuple[Step, ...]:
    """The steps of a model on :func:`examples_of` its calls.

    Raises:
        CaptureError: as there.
    """
    return make_steps(model, examples_of(seen, plain_device(model)), seen.mode, seen.device)


def _weight(calls: CallsSeen) -> int:
    return calls.count * sum(math.prod(spec.shape) for spec in calls.workload.tensors)


def _example(calls: CallsSeen, model: ModelSeen, device: torch.device) -> Any:
    if calls.kept is not None:
        own = fresh(calls.kept)
        return own.args if own.args else dict(own.kwargs)
    generator = torch.Generator().manual_seed(0)
    make = _Maker(generator, device, model.name)
    if calls.workload.kwargs:
        return {name: make(name, node) for name, node in calls.workload.kwargs}
    return tuple(make(f"argument {index}", node) for index, node in enumerate(calls.workload.args))


class _Maker:
    def __init__(self, generator: torch.Generator, device: torch.device, model: str) -> None:
        self._generator, self._device, self._model = generator, device, model

    def __call__(self, name: str, node: Node) -> Any:
        match node:
            case TensorSpec():
                return tensor_like(node, self._generator, self._device)
            case Plain():
                return node.value
            case Named(kind="name") if node.name.startswith("torch."):
                found = getattr(torch, node.name.removeprefix("torch."), None)
                if found is not None:
                    return found
            case Items():
                items = [self(name, item) for item in node.items]
                return items if node.kind == "list" else tuple(items)
            case Entries():
                return {key: self(f"{name}.{key}", value) for key, value in node.entries}
        told = node.name if isinstance(node, Named) else type(node).__name__
        raise CaptureError(
            f"{self._model}: {name} was a {told}, of which no example can be made; keep real inputs (keep_inputs=True, "
            "--keep-inputs)"
        )


def tensor_like(spec: TensorSpec, generator: torch.Generator, device: torch.device) -> Tensor:
    """A tensor of a form, with made values; strides are kept where no two elements share memory."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype is torch.bool:
        values = torch.ones(spec.shape, dtype=dtype)
    elif dtype.is_floating_point or dtype.is_complex:
        wide = torch.float32 if dtype.is_floating_point else torch.complex64
        values = torch.randn(spec.shape, generator=generator, dtype=wide).to(dtype)
    else:
        values = _integers(spec, generator).to(dtype)
    made = _laid_out(values, spec).to(device)
    return made.requires_grad_(spec.requires_grad) if dtype.is_floating_point or dtype.is_complex else made


def _integers(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    low, high = spec.low or 0, spec.high if spec.high is not None else 1
    if (low, high) == (0, 1) and len(spec.shape) >= 2:  # a mask that hides the first places of its first rows
        values = torch.ones(spec.shape, dtype=torch.int64)
        values[: max(1, spec.shape[0] // 2), ..., : spec.shape[-1] // 4] = 0
        return values
    values = torch.randint(max(low, 0) if high >= 0 else low, high + 1, spec.shape, generator=generator)
    if low < 0 <= high and values.dim():
        values[..., : max(1, values.shape[-1] // 4)] = low
    return values


def _laid_out(values: Tensor, spec: TensorSpec) -> Tensor:
    dense = all(size == 1 or step > 0 for size, step in zip(spec.shape, spec.stride, strict=True))
    if not dense or tuple(values.stride()) == spec.stride or not values.numel():
        return values
    laid = torch.empty_strided(spec.shape, spec.stride, dtype=values.dtype)
    return laid.copy_(values)


def plain_device(model: torch.nn.Module) -> torch.device:
    """Where a model's first parameter lies; the CPU for none."""
    found = next(model.parameters(), None)
    return torch.device("cpu") if found is None else found.device
