"""Controls: things that are known to be wrong, made from the original on the very same inputs.

If the rule lets one of them through, the inputs cannot tell right from wrong and nothing may pass on them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.call.arguments import Call, map_tensors
from twinkle_tune.parity.run import Run, Subject, execute

_HALF_BITS = 5
"""Significant bits that are left of a half-precision number one precision lower: float8 has 3 or 4."""


def fakes(baseline: Run, stale: Run, low: Run) -> Iterator[tuple[str, Run]]:
    """Wrong runs with their names, outputs and gradients apart so that neither can lean on the other.

    Args:
        baseline: the original on a call.
        stale: the original on another call of the same form.
        low: the original one precision lower on this call, see :func:`lower_run`.
    """
    zeros = replace(
        baseline,
        outputs={name: torch.zeros_like(t) for name, t in baseline.outputs.items()},
        gradients={name: None if t is None else torch.zeros_like(t) for name, t in baseline.gradients.items()},
    )
    # Without floating outputs there is no precision to lower.
    lowers = any(t.is_floating_point() or t.is_complex() for t in baseline.outputs.values())
    named = {"zeros": zeros, "the output of another call": stale}
    for what, wrong in (named | {"the original one precision lower": low} if lowers else named).items():
        yield f"{what} as outputs", replace(baseline, outputs=wrong.outputs)
        if any(t is not None for t in baseline.gradients.values()):
            yield f"{what} as gradients", replace(baseline, gradients=wrong.gradients)


def lower_run(
    original: Callable[..., Any],
    call: Call,
    *,
    module: nn.Module | None,
    trains: bool,
    seed: int,
    incoming: Mapping[str, Tensor],
) -> Run:
    """The original with inputs, parameters, outputs and gradients rounded one precision lower.

    It stays in the run dtype, so that it works where the lower one has no kernels: float64 is rounded to
    float32, float32 to bfloat16, half precision (and float32 under autocast) to 5 significant bits.
    """
    subject = None
    if module is not None:
        rough = copy.deepcopy(module)
        for parameter in rough.parameters():
            parameter.data = lowered(parameter.detach())
        subject = Subject.of(rough, rough)

    def coarse(tensor: Tensor) -> Tensor:
        return lowered(tensor.detach()).requires_grad_(tensor.requires_grad)

    given = Call(args=map_tensors(coarse, call.args), kwargs=map_tensors(coarse, dict(call.kwargs)))
    run = execute(original, given, subject=subject, trains=trains, seed=seed, incoming=incoming)
    return replace(
        run,
        outputs={name: lowered(t) for name, t in run.outputs.items()},
        gradients={name: None if t is None else lowered(t) for name, t in run.gradients.items()},
    )


def lowered(tensor: Tensor) -> Tensor:
    """``tensor`` rounded one precision lower, in its own dtype; integers as they are."""
    if tensor.is_complex():
        return torch.view_as_complex(lowered(torch.view_as_real(tensor.resolve_conj())).contiguous())
    if not tensor.is_floating_point():
        return tensor
    casts = tensor.dtype is torch.float32 and torch.is_autocast_enabled(tensor.device.type)
    if tensor.element_size() > 2 and not casts:
        return tensor.to(torch.float32 if tensor.dtype is torch.float64 else torch.bfloat16).to(tensor.dtype)
    mantissa, exponent = torch.frexp(tensor.float())
    step = 2.0**_HALF_BITS
    rounded = torch.ldexp(torch.round(mantissa * step) / step, exponent).to(tensor.dtype)
    return torch.where(torch.isfinite(rounded), rounded, tensor)
