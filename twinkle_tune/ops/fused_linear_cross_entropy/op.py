"""A linear layer and the cross entropy of its logits as one op of torch, which never holds all of the logits."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from twinkle_tune.errors import ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.cross_entropy.op import VARIANTS, check, slope, some_targets
from twinkle_tune.ops.cross_entropy.op import reference as cross_entropy_reference
from twinkle_tune.ops.fused_linear_cross_entropy.held import add_product, gain_for, sent_back, under_autocast
from twinkle_tune.ops.fused_linear_cross_entropy.space import NAMES, default, space
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, cached_default
from twinkle_tune.ops.space import Config, Dims


class Settings(NamedTuple):
    """How the loss is made, beside its tensors; ``wanted`` says whether gradients are."""

    ignore_index: int
    smoothing: float
    z: float
    mean: bool
    wanted: bool
    config: list[int] | None


def fused_linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    config: Config | None = None,
) -> Tensor:
    """:func:`twinkle_tune.ops.cross_entropy.op.cross_entropy` of ``x @ weight.T``.

    The gradients are made on the way forward, where x or weight want one.

    Args:
        x: (rows, width).
        weight: (classes, width), in x's dtype; under autocast both are taken in its dtype, as a linear layer would.
        target: (rows), int64.
        ignore_index: as in cross_entropy, like the three that follow.
        label_smoothing: see there.
        z_loss: see there.
        reduction: see there.
        config: of the kernels, and how many rows at a time; None for the default.

    Returns:
        A scalar, float32 (float64 for float64).

    Raises:
        ShapeError: the tensors do not fit together.
        ConfigError: the config is not one of this op's, or the reduction is another.
    """
    x, weight = under_autocast(x, weight)
    check(x.dim() == 2 and x.shape[0] == target.numel(), "fused_linear_cross_entropy", x, target, reduction)
    if weight.dim() != 2 or weight.shape[1] != x.shape[1] or weight.dtype != x.dtype:
        raise ShapeError(
            f"fused_linear_cross_entropy: got a weight {list(weight.shape)} {weight.dtype} for x {list(x.shape)} "
            f"{x.dtype}, expected (classes, {x.shape[1]}) in the same dtype; cast or transpose one of them"
        )
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    values = launch.values(config, NAMES)
    settings = Settings(ignore_index, label_smoothing, z_loss, reduction == "mean", wanted, values)
    # Only where it is on: torch.export keeps a context as a module of its own around the node.
    is_cast = torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if is_cast else nullcontext():
        result: Tensor = _node(x, weight, target, settings)
    return result


def reference(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The formula: logits in x's dtype, the loss from them at least in float32."""
    logits = x @ weight.T
    exact = logits.to(_exact(x))
    return cross_entropy_reference(exact, target, ignore_index, label_smoothing, z_loss, reduction)


def _exact(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _reference(
    x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, mean: bool, wanted: bool
) -> Tensor:
    return reference(x, weight, target, ignore_index, smoothing, z, "mean" if mean else "sum")


def _allocate(x: Tensor, weight: Tensor, target: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, scale = (x.new_empty((), dtype=_exact(x)) for _ in range(2))
    if not settings.wanted:
        return loss, scale, no_gradient(x), no_gradient(weight)
    # Unlike x's, the weight's gradient is a sum over all chunks: float32 until it is done.
    return loss, scale, x.new_empty(x.shape), weight.new_zeros(weight.shape, dtype=_exact(x))


def _forward(x: Tensor, weight: Tensor, target: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss; what the two others are to be multiplied with; the gradients of x and weight, not yet divided."""
    made = loss, scale, dx, dweight = _allocate(x, weight, target, settings)
    ignore_index, smoothing, z, mean, wanted, config = settings
    rows, classes = x.shape[0], weight.shape[0]
    losses = x.new_zeros(rows, dtype=torch.float32)
    target = target.contiguous()
    usual = _default(rows, x.shape[1], classes, launch.architecture(x.device))
    chosen = launch.named(config, NAMES, usual)
    kernel = launch.kernels("cross_entropy").in_place_kernel
    gain = gain_for(weight) if wanted else None
    for first in range(0, rows if classes else 0, chosen["chunk"]):
        part = slice(first, min(first + chosen["chunk"], rows))
        logits = x[part] @ weight.T
        with launch.on(x):
            kernel[(logits.shape[0],)](
                logits, target[part], losses[part], classes, logits.stride(0), ignore_index, smoothing, z,
                scale if gain is None else gain, GRADIENT=wanted, SCALED=gain is not None,
                SMOOTHED=smoothing != 0.0, SQUARED=z != 0.0, BLOCK=chosen["block"], num_warps=chosen["warps"],
            )  # fmt: skip
        if wanted:
            torch.mm(logits, weight, out=dx[part])
            add_product(dweight, logits, x[part])
        del logits  # before the next chunk's are made
    counted = (target != ignore_index).sum() if mean else torch.ones((), device=x.device)
    torch.div(losses.sum(), counted, out=loss)
    scale.copy_(counted.clamp(min=1).reciprocal())
    if gain is not None:
        scale.div_(gain)
    return made


def _allocate_backward(
    dloss: Tensor, scale: Tensor, dx: Tensor, dweight: Tensor,
    x: Tensor | None, weight: Tensor | None, target: Tensor | None, needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    made = [like.new_empty(like.shape, dtype=dx.dtype) if need else no_gradient(dx)
            for like, need in zip((dx, dweight), needs, strict=False)]  # fmt: skip
    return made[0], made[1], no_gradient(dx)


def _backward(
    dloss: Tensor, scale: Tensor, dx: Tensor, dweight: Tensor,
    x: Tensor | None, weight: Tensor | None, target: Tensor | None, needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    factor = dloss * scale
    made = [sent_back(held, factor, dx.dtype) if need else no_gradient(dx)
            for held, need in zip((dx, dweight), needs, strict=False)]  # fmt: skip
    return made[0], made[1], no_gradient(dx)


def _backward_reference(
    dloss: Tensor, scale: Tensor, dx: Tensor, dweight: Tensor,
    x: Tensor | None, weight: Tensor | None, target: Tensor | None, needs: list[bool], settings: Settings,
) -> tuple[Tensor, Tensor, None]:  # fmt: skip
    assert x is not None
    assert weight is not None
    assert target is not None
    found, kept = slope(x @ weight.T, target, settings.ignore_index, settings.smoothing, settings.z)
    found = found * (dloss / kept.sum().clamp(min=1) if settings.mean else dloss)
    return found @ weight.to(found.dtype), found.T @ x.to(found.dtype), None


_default = cached_default(default, "rows", "width", "classes")
_node = Node(
    "fused_linear_cross_entropy",
    tensors=3,
    outputs=1,
    settings=Settings,
    reference=_reference,
    allocate=_allocate,
    forward=_forward,
    # The kernels' backward needs nothing of the call any more, the formula's all of it.
    kept=lambda args, made: (*made[1:], *((None,) * 3 if launch.kernels_run(args[0]) else args[:3])),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=_backward_reference,
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn((dims["rows"], dims["width"]), generator=source)
    # Logits of about one.
    weight = torch.randn((dims["classes"], dims["width"]), generator=source) / dims["width"] ** 0.5
    x, weight = (tensor.to(device, dtype).requires_grad_() for tensor in (x, weight))
    return x, weight, some_targets(dims["rows"], dims["classes"], source).to(device)


def _launch(
    x: Tensor, weight: Tensor, target: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0,
    z_loss: float = 0.0, reduction: str = "mean", config: Config | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:  # fmt: skip
    settings = Settings(ignore_index, label_smoothing, z_loss, reduction == "mean", True, launch.values(config, NAMES))
    with torch.no_grad():
        return _node.run_kernels(x, weight, target, settings)


def _moved_bytes(dims: Dims, itemsize: int, backward: bool) -> int:
    # x and the weight; then again for the logits' gradient, and both gradients. The logits could stay in the cache.
    once = dims["width"] * (dims["rows"] + dims["classes"]) * itemsize
    return (3 if backward else 1) * once


OPS = (
    Op(
        name="fused_linear_cross_entropy",
        formula="cross_entropy(x @ weight.T)",
        dims=("rows", "width", "classes"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=fused_linear_cross_entropy,
        launch=_launch,
        moved_bytes=_moved_bytes,
        variants=VARIANTS,
    ),
)
