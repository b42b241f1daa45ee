"""The residual addition and the RMSNorm after it as one op of torch. It runs RMSNorm's kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from twinkle_tune.errors import ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, passing
from twinkle_tune.ops.rms_norm import op as rms_norm
from twinkle_tune.ops.rms_norm.op import Settings
from twinkle_tune.ops.rms_norm.space import NAMES, default, space
from twinkle_tune.ops.space import Config, Dims


def fused_add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float = 1e-6,
    offset: float = 0.0,
    casts_last: bool = False,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """``summed = x + residual`` and ``rms_norm(summed, weight)``, each row read once.

    Args:
        x: (..., D), any strides.
        residual: of the same shape.
        weight: (D) or None.
        eps: added to the mean of squares.
        offset: added to the weight.
        casts_last: see :func:`twinkle_tune.ops.rms_norm.op.rms_norm`.
        config: of the kernels; None for the default.

    Returns:
        The norm and the sum, in this order, both (..., D) and contiguous. Nothing is written over.

    Raises:
        ShapeError: the shapes do not fit together.
        ConfigError: the config is not one of this op's.
    """
    if residual.shape != x.shape or (weight is not None and weight.shape != x.shape[-1:]):
        got = f"x {list(x.shape)}, residual {list(residual.shape)}"
        got += "" if weight is None else f", weight {list(weight.shape)}"
        raise ShapeError(
            f"fused_add_rms_norm: got {got}, expected x and residual alike and a weight as wide; "
            "expand the residual, or add it beforehand"
        )
    settings = Settings(eps, offset, casts_last, launch.values(config, NAMES))
    result: tuple[Tensor, Tensor] = _node(x, residual, weight, settings)
    return result


def reference(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float = 1e-6,
    offset: float = 0.0,
    casts_last: bool = False,
) -> tuple[Tensor, Tensor]:
    """The two formulas, one after the other."""
    summed = x + residual
    return rms_norm.reference(summed, weight, eps, offset, casts_last), summed


def _allocate(x: Tensor, residual: Tensor, weight: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    summed = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, residual.dtype))
    dtype = summed.dtype if weight is None or settings.casts_last else torch.promote_types(summed.dtype, weight.dtype)
    return x.new_empty(x.shape, dtype=dtype), summed, x.new_empty(x.shape[:-1], dtype=torch.float32)


def _forward(x: Tensor, residual: Tensor, weight: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    y, summed, rstd = _allocate(x, residual, weight, settings)
    rms_norm.run_forward(x, residual, weight, summed, y, rstd, settings)
    return y, summed, rstd


def _allocate_backward(
    dy: Tensor, d_sum: Tensor, summed: Tensor, weight: Tensor | None, rstd: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dx = summed.new_empty(summed.shape)
    return dx, no_gradient(summed) if weight is None or not needs[2] else weight.new_empty(weight.shape)


def _backward(
    dy: Tensor, d_sum: Tensor, summed: Tensor, weight: Tensor | None, rstd: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dx = summed.new_empty(summed.shape)
    dweight = rms_norm.run_backward(dy, d_sum, summed, weight, rstd, dx, needs[2], settings)
    return dx, no_gradient(summed) if dweight is None else dweight


def _backward_reference(
    dy: Tensor, d_sum: Tensor, summed: Tensor, weight: Tensor | None, rstd: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    dx, dweight = rms_norm.backward_reference(dy, summed, weight, rstd, needs[1:], settings)
    return dx + d_sum, dweight


_node = Node(
    "fused_add_rms_norm",
    tensors=3,
    outputs=2,
    settings=Settings,
    reference=reference,
    allocate=_allocate,
    forward=_forward,
    kept=lambda args, made: (made[1], args[2], made[2]),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=_backward_reference,
    # An addition gives both of its terms the same gradient.
    spread=lambda found: (found[0], found[0], found[1]),
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor | None, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    shapes = ((dims["rows"], dims["width"]), (dims["rows"], dims["width"]), (dims["width"],))
    x, residual, weight = (torch.randn(shape, generator=source).to(device, dtype).requires_grad_() for shape in shapes)
    return x, residual, None if variant == "no_weight" else weight


def _launch(
    x: Tensor, residual: Tensor, weight: Tensor | None, *,
    eps: float = 1e-6, offset: float = 0.0, casts_last: bool = False, config: Config | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:  # fmt: skip
    return _node.run_kernels(x, residual, weight, Settings(eps, offset, casts_last, launch.values(config, NAMES)))


OPS = (
    Op(
        name="fused_add_rms_norm",
        formula="rms_norm(x + residual, weight), x + residual",
        dims=("rows", "width"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=fused_add_rms_norm,
        launch=_launch,
        # x, residual, sum, y; then dy, the sum's gradient, the sum, dx.
        moved_bytes=passing(4, 8, "rows", "width"),
        variants={"": {}, "gemma": {"offset": 1.0, "casts_last": True}, "no_weight": {}},
    ),
)
