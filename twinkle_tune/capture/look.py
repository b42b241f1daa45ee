"""A look at what a run of the model computed: enough to tell two runs apart, small enough to keep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from twinkle_tune.capture.point import tensors_in

_MOST_ELEMENTS = 1 << 20
"""Of a larger output every so-manieth element is kept."""
_SMALL_GRADIENT = 1e-3
"""Gradients under this share of all gradients' norm are measured against that share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """What one run of a step computed.

    Attributes:
        loss: the loss; None where the outputs hold none.
        outputs: elements of the floating outputs (the logits alone, where outputs name them), float64 on the CPU.
        gradients: the norm of each parameter's gradient, in the model's order; empty without a backward.
        units: the unit in the last place, relative, of each figure of :func:`apart`: of the coarsest dtype.
        written: what it wrote into the model's tensors, by their paths, as elements like those of ``outputs``.
    """

    loss: float | None
    outputs: torch.Tensor
    gradients: torch.Tensor
    units: Mapping[str, float]
    written: Mapping[str, torch.Tensor] = field(default_factory=dict)


def look_at(outputs: object, parameters: Iterable[nn.Parameter] = ()) -> Look:
    """Look at a run's outputs, and at the gradients that it has left on the parameters."""
    loss = _named(outputs, "loss")
    logits = _named(outputs, "logits")
    floating = [t for t in tensors_in(outputs if logits is None else logits) if t.is_floating_point() and t.numel()]
    gradients = [p.grad.detach() for p in parameters if p.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    is_scalar = loss is not None and loss.numel() == 1
    return Look(
        loss=float(loss.detach()) if loss is not None and is_scalar else None,
        outputs=torch.cat([_sample(t) for t in floating]) if floating else torch.zeros(0, dtype=torch.float64),
        gradients=torch.stack(norms).cpu() if norms else torch.zeros(0, dtype=torch.float64),
        units={
            "loss": _unit([loss] if loss is not None else []),
            "outputs": _unit(floating),
            "gradients": _unit(gradients),
        },
    )


def with_written(look: Look, written: Mapping[str, torch.Tensor]) -> Look:
    """A look, and what was written into the model's tensors meanwhile."""
    units = {**look.units, "state": _unit(list(written.values()))}
    return replace(look, units=units, written={path: _sample(tensor) for path, tensor in written.items()})


def apart(one: Look, other: Look) -> dict[str, float]:
    """How far another look is from one: relative differences of the "loss", the "outputs" and the "gradients", and of
    the "state", which is what one wrote into the model.

    Outputs: root mean square of the differences over that of the values; the tensor of the state that is furthest off.
    Gradients: the largest difference of a parameter's norm, over the norm. Infinity where one has a number and the
    other none, or forms differ.
    """
    found = {"outputs": _outputs_apart(one.outputs, other.outputs)}
    if one.loss is not None or other.loss is not None:
        found["loss"] = _loss_apart(one.loss, other.loss)
    if one.gradients.numel() or other.gradients.numel():
        found["gradients"] = _gradients_apart(one.gradients, other.gradients)
    if one.written:
        none = torch.zeros(0, dtype=torch.float64)
        found["state"] = max(_outputs_apart(each, other.written.get(path, none)) for path, each in one.written.items())
    return found


def _named(outputs: object, name: str) -> torch.Tensor | None:
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    return value if isinstance(value, torch.Tensor) else None


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _MOST_ELEMENTS)].to(device="cpu", dtype=torch.float64)


def _unit(tensors: Sequence[torch.Tensor]) -> float:
    return max((torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point()), default=0.0)


def _outputs_apart(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    finite = torch.isfinite(one)
    if not torch.equal(finite, torch.isfinite(other)):
        return math.inf
    difference = torch.linalg.vector_norm((one - other)[finite])
    return _over(float(difference), float(torch.linalg.vector_norm(one[finite])))


def _loss_apart(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return math.inf
    if not (math.isfinite(one) and math.isfinite(other)):
        return 0.0 if one == other or (math.isnan(one) and math.isnan(other)) else math.inf
    return _over(abs(one - other), abs(one))


def _gradients_apart(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape or not torch.equal(torch.isfinite(one), torch.isfinite(other)):
        return math.inf
    one, other = one[torch.isfinite(one)], other[torch.isfinite(one)]
    if not one.numel():
        return 0.0
    least = _SMALL_GRADIENT * torch.linalg.vector_norm(one)
    return float(((one - other).abs() / torch.clamp(one, min=float(least) or 1.0)).max())


def _over(difference: float, size: float) -> float:
    return 0.0 if difference == 0 else difference / size if size else math.inf
