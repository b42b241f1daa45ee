"""Softmax as an op of torch."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from twinkle_tune.errors import ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op
from twinkle_tune.ops.softmax.space import NAMES, default, space
from twinkle_tune.ops.space import Config, Dims


def softmax(x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, config: Config | None = None) -> Tensor:
    """``softmax(scale * x + mask)`` over the last dimension.

    Args:
        x: (..., width), any strides.
        mask: broadcastable to x. Boolean: True is kept, a row without any is nan. Floating: added after scaling.
        scale: of x.
        config: of the kernels; None for the default.

    Returns:
        (..., width), contiguous, in x's dtype.

    Raises:
        ShapeError: the mask cannot be broadcast to x, or x has no dimension.
        ConfigError: the config is not one of this op's.
    """
    if not x.dim() or (mask is not None and not _broadcasts(mask, x)):
        raise ShapeError(
            f"softmax: got x {list(x.shape)} and a mask {None if mask is None else list(mask.shape)}, expected "
            "at least one dimension and a mask that can be broadcast to x; expand x or unsqueeze the mask"
        )
    values = launch.values(config, NAMES)
    if mask is not None and mask.requires_grad and torch.is_grad_enabled():
        return reference(x, mask, scale)  # the kernel gives a mask no gradient
    result: Tensor = _node(x, mask, scale, values)
    return result


def _broadcasts(mask: Tensor, x: Tensor) -> bool:
    sizes = zip(reversed(mask.shape), reversed(x.shape), strict=False)
    return mask.dim() <= x.dim() and all(ours in (1, theirs) for ours, theirs in sizes)


def reference(x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """The formula, in x's dtype; a mask's dtype is not promoted to."""
    scores = x * scale
    if mask is not None:
        kept = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, float("-inf")) if kept else (scores + mask).to(x.dtype)
    return torch.softmax(scores, dim=-1)


def _allocate(x: Tensor, mask: Tensor | None, scale: float, config: list[int] | None) -> tuple[Tensor]:
    return (x.new_empty(x.shape),)


def _forward(x: Tensor, mask: Tensor | None, scale: float, config: list[int] | None) -> tuple[Tensor]:
    y = x.new_empty(x.shape)
    if not y.numel():
        return (y,)
    kernels = launch.kernels("softmax")
    kind = 0
    if mask is not None:
        kind = (kernels.BOOLEAN if mask.dtype == torch.bool else kernels.ADDED).value
        mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
        mask = mask.expand(x.shape)
    view, mask = _as_four(x, x if mask is None else mask)
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    together, block, warps = _chosen(config, rows, width, x, "")
    with launch.on(x):
        kernels.forward_kernel[(-(-rows // together),)](
            view, mask, y, rows, width, scale, *view.shape[1:3], *view.stride(), *mask.stride(),
            MASK=kind, WHOLE=block >= width, BLOCK_R=together, BLOCK_W=block, num_warps=warps,
        )  # fmt: skip
    return (y,)


def _allocate_backward(
    dy: Tensor, y: Tensor, needs: list[bool], scale: float, config: list[int] | None
) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), no_gradient(y)


def _backward(
    dy: Tensor, y: Tensor, needs: list[bool], scale: float, config: list[int] | None
) -> tuple[Tensor, Tensor]:
    dx = y.new_empty(y.shape)
    if not y.numel():
        return dx, no_gradient(y)
    (view,) = _as_four(dy)
    rows, width = y.numel() // y.shape[-1], y.shape[-1]
    together, block, warps = _chosen(config, rows, width, y, "back_")
    with launch.on(y):
        launch.kernels("softmax").backward_kernel[(-(-rows // together),)](
            y, view, dx, rows, width, scale, *view.shape[1:3], *view.stride(),
            WHOLE=block >= width, BLOCK_R=together, BLOCK_W=block, num_warps=warps,
        )  # fmt: skip
    return dx, no_gradient(y)


def _backward_reference(dy: Tensor, y: Tensor, needs: list[bool], scale: float) -> tuple[Tensor, None]:
    exact = torch.promote_types(y.dtype, torch.float32)
    share, grad = y.to(exact), dy.to(exact)
    return scale * share * (grad - (share * grad).sum(-1, keepdim=True)), None


def _as_four(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one shape (..., width) as (A, B, C, width): views wherever strides allow it."""
    found = []
    for x in tensors:
        merged = x if x.dim() <= 4 else x.reshape(-1, *x.shape[-3:])
        found.append(merged[(None,) * (4 - merged.dim())])
    return found


def _chosen(config: list[int] | None, rows: int, width: int, x: Tensor, side: str) -> tuple[int, int, int]:
    """Rows, columns at a time and warps of one side."""
    chosen = launch.named(config, NAMES, _default(rows, width, launch.architecture(x.device)))
    block = chosen[f"{side}block"] or launch.next_power_of_2(width)
    return chosen[f"{side}rows"], block, chosen[f"{side}warps"]


@lru_cache(maxsize=4096)
def _default(rows: int, width: int, architecture: int) -> Config:
    return default({"rows": rows, "width": width}, architecture)


_node = Node(
    "softmax",
    tensors=2,
    outputs=1,
    reference=reference,
    allocate=_allocate,
    forward=_forward,
    kept=lambda args, made: (made[0],),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=_backward_reference,
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor | None, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    shape = (dims["rows"], dims["width"])
    x = torch.randn(shape, generator=source).to(device, dtype).requires_grad_()
    mask = None
    if variant == "added":
        mask = torch.randn(shape, generator=source).to(device, dtype)
    if variant == "boolean":
        # One row of columns for all, the first kept: a padding mask.
        mask = torch.rand((1, dims["width"]), generator=source).to(device) < 0.7
        mask[:, 0] = True
    return x, mask


def _launch(
    x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, config: Config | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    outputs, gradients = _node.run_kernels(x, mask, scale, launch.values(config, NAMES))
    return outputs, (gradients[0], None)


def _moved_bytes(dims: Dims, itemsize: int, backward: bool) -> int:
    # x, y; then dy, y, dx.
    return (5 if backward else 2) * dims["rows"] * dims["width"] * itemsize


OPS = (
    Op(
        name="softmax",
        formula="softmax(scale * x + mask)",
        dims=("rows", "width"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=softmax,
        launch=_launch,
        moved_bytes=_moved_bytes,
        variants={"": {}, "added": {"scale": 0.125}, "boolean": {"scale": 0.125}},
    ),
)
