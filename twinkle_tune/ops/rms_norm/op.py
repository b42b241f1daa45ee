"""RMSNorm as an op of torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from twinkle_tune.errors import ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, cached_default, passing
from twinkle_tune.ops.rms_norm.space import NAMES, default, space
from twinkle_tune.ops.space import Config, Dims


class Settings(NamedTuple):
    """How a norm is made, beside its tensors; the arguments of :func:`rms_norm`."""

    eps: float
    offset: float
    casts_last: bool
    config: list[int] | None


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float = 1e-6,
    offset: float = 0.0,
    casts_last: bool = False,
    config: Config | None = None,
) -> Tensor:
    """``x * rsqrt(mean(x^2) + eps) * (weight + offset)`` over the last dimension.

    Args:
        x: (..., D), any strides.
        weight: (D) or None; may be of another dtype.
        eps: added to the mean of squares.
        offset: added to the weight: 1.0 where it is stored as its distance from one (Gemma).
        casts_last: False rounds the normalised values to x's dtype before they are weighed, and gives the promoted
            dtype of both (Llama); True weighs them in float32 and gives x's dtype (Gemma).
        config: of the kernels; None for the default.

    Returns:
        (..., D), contiguous.

    Raises:
        ShapeError: the weight is not as wide as x.
        ConfigError: the config is not one of this op's.
    """
    if weight is not None and weight.shape != x.shape[-1:]:
        raise ShapeError(
            f"rms_norm: got a weight {list(weight.shape)} for x {list(x.shape)}, expected [{x.shape[-1]}]; "
            "pass a weight for x's last dimension"
        )
    result: Tensor = _node(x, weight, Settings(eps, offset, casts_last, launch.values(config, NAMES)))
    return result


def reference(
    x: Tensor, weight: Tensor | None, eps: float = 1e-6, offset: float = 0.0, casts_last: bool = False
) -> Tensor:
    """The formula; in float32 for half precision."""
    exact = torch.promote_types(x.dtype, torch.float32)
    wide = x.to(exact)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is None:
        return normed.to(x.dtype)
    scale = weight.to(exact) + offset if offset else weight
    if casts_last:
        return (normed * scale.to(exact)).to(x.dtype)
    return (normed.to(x.dtype) * scale).to(torch.promote_types(x.dtype, weight.dtype))


def _allocate(x: Tensor, weight: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    dtype = x.dtype if weight is None or settings.casts_last else torch.promote_types(x.dtype, weight.dtype)
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape[:-1], dtype=torch.float32)


def _forward(x: Tensor, weight: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    y, rstd = _allocate(x, weight, settings)
    run_forward(x, None, weight, x, y, rstd, settings)
    return y, rstd


def run_forward(
    x: Tensor, added: Tensor | None, weight: Tensor | None, summed: Tensor, y: Tensor, rstd: Tensor,
    settings: Settings,
) -> None:  # fmt: skip
    """Fill y, rstd and, with ``added``, summed = x + added."""
    if not y.numel():
        return
    flat = launch.as_rows(x)
    extra = flat if added is None else launch.as_rows(added)
    rows, width = flat.shape
    chosen = launch.named(settings.config, NAMES, _default(rows, width, launch.architecture(x.device)))
    block = chosen["block"] or launch.next_power_of_2(width)
    with launch.on(x):
        launch.kernels("rms_norm").forward[(-(-rows // chosen["rows"]),)](
            flat, extra, flat if weight is None else weight.contiguous(), summed, y, rstd,
            rows, width, flat.stride(0), extra.stride(0), settings.eps, settings.offset,
            ADD=added is not None, WEIGHT=weight is not None, ROUND=not settings.casts_last,
            ROWS=chosen["rows"], BLOCK=block, WHOLE=block >= width, num_warps=chosen["warps"],
        )  # fmt: skip


def _allocate_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor]:
    dx = x.new_empty(x.shape)
    return dx, no_gradient(x) if weight is None or not needs[1] else weight.new_empty(weight.shape)


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor]:
    dx = x.new_empty(x.shape)
    dweight = run_backward(dy, None, x, weight, rstd, dx, needs[1], settings)
    return dx, no_gradient(x) if dweight is None else dweight


def run_backward(
    dy: Tensor, d_sum: Tensor | None, x: Tensor, weight: Tensor | None, rstd: Tensor, dx: Tensor,
    wanted: bool, settings: Settings,
) -> Tensor | None:  # fmt: skip
    """Fill dx, ``d_sum`` added to it, and give the weight's gradient where it is ``wanted``."""
    wanted = wanted and weight is not None
    if not dx.numel():
        return torch.zeros_like(weight) if wanted and weight is not None else None
    grad, flat = launch.as_rows(dy), launch.as_rows(x)
    extra = grad if d_sum is None else launch.as_rows(d_sum)
    rows, width = flat.shape
    chosen = launch.named(settings.config, NAMES, _default(rows, width, launch.architecture(x.device)))
    scale = flat if weight is None else weight.contiguous()
    block = chosen["back_block"] or launch.next_power_of_2(width)
    blocks = -(-rows // chosen["back_rows"])
    programs = min(blocks, chosen["back_programs"] * launch.multiprocessors(x.device))
    if block < width:  # programs that share the rows of one block of columns
        programs = max(1, programs * block // width)
    partial = x.new_empty((programs, width) if wanted else (1,), dtype=torch.float32)
    shape: dict[str, Any] = {"ROWS": chosen["back_rows"], "BLOCK": block, "num_warps": chosen["back_warps"]}
    arguments = (rows, width, grad.stride(0), flat.stride(0), extra.stride(0), settings.offset)
    flags = {"ADD": d_sum is not None, "WEIGHT": weight is not None}
    kernels = launch.kernels("rms_norm")
    with launch.on(x):
        if block >= width:
            kernels.backward_whole[(programs,)](
                grad, flat, scale, rstd, extra, dx, partial, *arguments,
                **flags, DWEIGHT=wanted, STAGES=chosen["back_stages"], **shape,
            )  # fmt: skip
        else:
            kernels.backward_wide[(blocks,)](grad, flat, scale, rstd, extra, dx, *arguments, **flags, **shape)
            if wanted:
                kernels.weight_wide[(programs, -(-width // block))](grad, flat, rstd, partial, *arguments[:4], **shape)
    return partial.sum(0).to(weight.dtype) if wanted and weight is not None else None


def backward_reference(
    dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor | None]:
    """The gradients in plain torch operations."""
    exact = torch.promote_types(x.dtype, torch.float32)
    wide, grad = x.to(exact), dy.to(exact)
    r = torch.rsqrt(wide.square().mean(-1, keepdim=True) + settings.eps)
    n = wide * r
    g = grad if weight is None else grad * (weight.to(exact) + settings.offset)
    dx = r * (g - n * (g * n).mean(-1, keepdim=True))
    return dx, (grad * n).reshape(-1, x.shape[-1]).sum(0) if needs[1] else None


_default = cached_default(default, "rows", "width")
_node = Node(
    "rms_norm",
    tensors=2,
    outputs=1,
    settings=Settings,
    reference=reference,
    allocate=_allocate,
    forward=_forward,
    kept=lambda args, made: (args[0], args[1], made[1]),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=backward_reference,
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor | None, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    x, weight = (
        torch.randn(shape, generator=source).to(device, dtype).requires_grad_()
        for shape in ((dims["rows"], dims["width"]), (dims["width"],))
    )
    return x, None if variant == "no_weight" else weight


def _launch(
    x: Tensor, weight: Tensor | None, *, eps: float = 1e-6, offset: float = 0.0, casts_last: bool = False,
    config: Config | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:  # fmt: skip
    return _node.run_kernels(x, weight, Settings(eps, offset, casts_last, launch.values(config, NAMES)))


OPS = (
    Op(
        name="rms_norm",
        formula="x * rsqrt(mean(x^2) + eps) * (weight + offset)",
        dims=("rows", "width"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=rms_norm,
        launch=_launch,
        # x, y; then dy, x, dx.
        moved_bytes=passing(2, 5, "rows", "width"),
        variants={"": {}, "gemma": {"offset": 1.0, "casts_last": True}, "no_weight": {}},
    ),
)
