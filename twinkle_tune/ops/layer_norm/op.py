"""LayerNorm as an op of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from twinkle_tune.errors import ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.layer_norm.space import NAMES, default, space
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, cached_default, passing
from twinkle_tune.ops.rms_norm.op import Settings
from twinkle_tune.ops.space import Config, Dims


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    offset: float = 0.0,
    casts_last: bool = True,
    config: Config | None = None,
) -> Tensor:
    """``(x - mean) * rsqrt(var + eps) * (weight + offset) + bias`` over the last dimension, rounded once.

    Args:
        x: (..., D), any strides.
        weight: (D) or None; may be of another dtype.
        bias: (D) or None; may be of another dtype.
        eps: added to the variance, which is that of the row itself (divided by D).
        offset: added to the weight.
        casts_last: True gives x's dtype, as torch's layer_norm does; False the promoted dtype of x, weight and bias.
        config: of the kernels; None for the default.

    Returns:
        (..., D), contiguous.

    Raises:
        ShapeError: weight or bias are not as wide as x.
        ConfigError: the config is not one of this op's.
    """
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and given.shape != x.shape[-1:]:
            raise ShapeError(
                f"layer_norm: got a {name} {list(given.shape)} for x {list(x.shape)}, expected [{x.shape[-1]}]; "
                f"pass a {name} for x's last dimension"
            )
    result: Tensor = _node(x, weight, bias, Settings(eps, offset, casts_last, launch.values(config, NAMES)))
    return result


def reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float = 1e-5,
    offset: float = 0.0,
    casts_last: bool = True,
) -> Tensor:
    """The formula; in float32 for half precision."""
    exact = torch.promote_types(x.dtype, torch.float32)
    _, _, y = _normed(x.to(exact), eps)
    if weight is not None:
        y = y * (weight.to(exact) + offset)
    if bias is not None:
        y = y + bias.to(exact)
    return y.to(_dtype(x, weight, bias, casts_last))


def _normed(wide: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = wide.mean(-1, keepdim=True)
    away = wide - mean
    rstd = torch.rsqrt(away.square().mean(-1, keepdim=True) + eps)
    return mean, rstd, away * rstd


def _dtype(x: Tensor, weight: Tensor | None, bias: Tensor | None, casts_last: bool) -> torch.dtype:
    dtype = x.dtype
    for given in () if casts_last else (weight, bias):
        dtype = dtype if given is None else torch.promote_types(dtype, given.dtype)
    return dtype


def _allocate(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    y = x.new_empty(x.shape, dtype=_dtype(x, weight, bias, settings.casts_last))
    mean = x.new_empty(x.shape[:-1], dtype=torch.float32)
    return y, mean, torch.empty_like(mean)


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = _allocate(x, weight, bias, settings)
    if y.numel():
        flat = launch.as_rows(x)
        rows, width = flat.shape
        chosen = launch.named(settings.config, NAMES, _default(rows, width, launch.architecture(x.device)))
        block = chosen["block"] or launch.next_power_of_2(width)
        scale, shift = (flat if given is None else given.contiguous() for given in (weight, bias))
        with launch.on(x):
            launch.kernels("layer_norm").forward[(-(-rows // chosen["rows"]),)](
                flat, scale, shift, y, mean, rstd, rows, width, flat.stride(0), settings.eps, settings.offset,
                WEIGHT=weight is not None, BIAS=bias is not None,
                ROWS=chosen["rows"], BLOCK=block, WHOLE=block >= width, num_warps=chosen["warps"],
            )  # fmt: skip
    return y, mean, rstd


def _allocate_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dweight, dbias = (
        no_gradient(x) if given is None or not need else given.new_empty(given.shape)
        for given, need in zip((weight, bias), needs[1:], strict=True)
    )
    return x.new_empty(x.shape), dweight, dbias


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dx = x.new_empty(x.shape)
    wanted = [given is not None and need for given, need in zip((weight, bias), needs[1:], strict=True)]
    sums = _run_backward(dy, x, weight, mean, rstd, dx, wanted, settings)
    dweight, dbias = (
        no_gradient(x) if given is None or not want else total.sum(0).to(given.dtype)
        for given, want, total in zip((weight, bias), wanted, sums, strict=True)
    )
    return dx, dweight, dbias


def _run_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, dx: Tensor,
    wanted: list[bool], settings: Settings,
) -> list[Tensor]:  # fmt: skip
    """Fill dx, and give the partial sums (programs, D) of the gradients of weight and bias that are wanted."""
    grad, flat = launch.as_rows(dy), launch.as_rows(x)
    rows, width = flat.shape
    if not dx.numel():
        return [x.new_zeros((1, width), dtype=torch.float32)] * 2
    chosen = launch.named(settings.config, NAMES, _default(rows, width, launch.architecture(x.device)))
    scale = flat if weight is None else weight.contiguous()
    block = chosen["back_block"] or launch.next_power_of_2(width)
    blocks = -(-rows // chosen["back_rows"])
    programs = min(blocks, chosen["back_programs"] * launch.multiprocessors(x.device))
    if block < width:  # programs that share the rows of one block of columns
        programs = max(1, programs * block // width)
    held = any(wanted) if block < width else False
    sums = [x.new_empty((programs if want or held else 1, width), dtype=torch.float32) for want in wanted]
    shape: dict[str, Any] = {"ROWS": chosen["back_rows"], "BLOCK": block, "num_warps": chosen["back_warps"]}
    sizes = (rows, width, grad.stride(0), flat.stride(0))
    kernels = launch.kernels("layer_norm")
    with launch.on(x):
        if block >= width:
            kernels.backward_whole[(programs,)](
                grad, flat, scale, mean, rstd, dx, *sums, *sizes, settings.offset,
                WEIGHT=weight is not None, DWEIGHT=wanted[0], DBIAS=wanted[1], STAGES=chosen["back_stages"], **shape,
            )  # fmt: skip
        else:
            kernels.backward_wide[(blocks,)](
                grad, flat, scale, mean, rstd, dx, *sizes, settings.offset, WEIGHT=weight is not None, **shape
            )
            if held:
                kernels.weight_wide[(programs, -(-width // block))](grad, flat, mean, rstd, *sums, *sizes, **shape)
    return sums


def _backward_reference(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    needs: list[bool], settings: Settings,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    exact = torch.promote_types(x.dtype, torch.float32)
    grad = dy.to(exact)
    _, r, n = _normed(x.to(exact), settings.eps)
    g = grad if weight is None else grad * (weight.to(exact) + settings.offset)
    dx = r * (g - g.mean(-1, keepdim=True) - n * (g * n).mean(-1, keepdim=True))
    flat = grad.reshape(-1, x.shape[-1])
    return dx, (flat * n.reshape(flat.shape)).sum(0) if needs[1] else None, flat.sum(0) if needs[2] else None


_default = cached_default(default, "rows", "width")
_node = Node(
    "layer_norm",
    tensors=3,
    outputs=1,
    settings=Settings,
    reference=reference,
    allocate=_allocate,
    forward=_forward,
    kept=lambda args, made: (*args[:3], *made[1:]),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=_backward_reference,
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor | None, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    x, weight, bias = (
        torch.randn(shape, generator=source).to(device, dtype).requires_grad_()
        for shape in ((dims["rows"], dims["width"]), (dims["width"],), (dims["width"],))
    )
    return x, None if variant == "plain" else weight, None if variant in ("plain", "no_bias") else bias


def _launch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *,
    eps: float = 1e-5, offset: float = 0.0, casts_last: bool = True, config: Config | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:  # fmt: skip
    return _node.run_kernels(x, weight, bias, Settings(eps, offset, casts_last, launch.values(config, NAMES)))


OPS = (
    Op(
        name="layer_norm",
        formula="(x - mean(x)) * rsqrt(var(x) + eps) * (weight + offset) + bias",
        dims=("rows", "width"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=layer_norm,
        launch=_launch,
        # x, y; then dy, x, dx.
        moved_bytes=passing(2, 5, "rows", "width"),
        variants={"": {}, "no_bias": {}, "plain": {}},
    ),
)
