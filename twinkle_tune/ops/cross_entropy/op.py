"""Cross entropy as an op of torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twinkle_tune.errors import ConfigError, ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.cross_entropy.space import NAMES, default, space
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, cached_default, passing
from twinkle_tune.ops.space import Config, Dims


class Settings(NamedTuple):
    """How the loss is made, beside its tensors; the arguments of :func:`cross_entropy`."""

    ignore_index: int
    smoothing: float
    z: float
    mean: bool
    config: list[int] | None


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    config: Config | None = None,
) -> Tensor:
    """Mean or sum over the rows of ``logsumexp(row) - row[target]``, smoothed, plus ``z_loss * logsumexp(row)^2``.

    Args:
        logits: (rows, classes), rows at any distance from each other.
        target: (rows), int64: a class, or ``ignore_index``. Anything else makes the loss nan.
        ignore_index: rows with this target count for nothing. If all do, the mean is nan.
        label_smoothing: the part of a target that is spread over all classes, as in torch.
        z_loss: weight of the squared logarithm of a row's sum of exponentials.
        reduction: "mean" over the rows that count, or "sum".
        config: of the kernels; None for the default.

    Returns:
        A scalar, float32 (float64 for float64). The logits are left as they are.

    Raises:
        ShapeError: the tensors do not fit together.
        ConfigError: the config is not one of this op's, or the reduction is another.
    """
    check(logits.dim() == 2 and logits.shape[0] == target.numel(), "cross_entropy", logits, target, reduction)
    settings = Settings(ignore_index, label_smoothing, z_loss, reduction == "mean", launch.values(config, NAMES))
    result: Tensor = _node(logits, target, settings)
    return result


def check(fits: bool, op: str, rows: Tensor, target: Tensor, reduction: str) -> None:
    """Raise unless there is an int64 target for each row and a known reduction."""
    if not fits or target.dim() != 1 or target.dtype != torch.int64:
        raise ShapeError(
            f"{op}: got {list(rows.shape)} and a target {list(target.shape)} {target.dtype}, expected (rows, size) and "
            "(rows) torch.int64; flatten what comes before the last dimension"
        )
    if reduction not in ("mean", "sum"):
        raise ConfigError(f"{op}: got the reduction {reduction!r}, expected 'mean' or 'sum'; add up rows yourself")


def reference(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The formula, at least in float32."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(x, target, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction)
    if z_loss:
        kept = target != ignore_index
        squares = torch.logsumexp(x, dim=-1).square().where(kept, 0.0).sum()
        loss = loss + z_loss * (squares / kept.sum() if reduction == "mean" else squares)
    return loss


def slope(
    logits: Tensor, target: Tensor, ignore_index: int, label_smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The gradient of each row's own loss, at least in float32, and which rows count."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    kept = target != ignore_index
    lse = torch.logsumexp(x, dim=-1, keepdim=True)
    slope = torch.exp(x - lse) * (1.0 + 2.0 * z_loss * lse) - label_smoothing / x.shape[-1]
    slope.scatter_add_(1, target.where(kept, 0).unsqueeze(1), torch.full_like(lse, label_smoothing - 1.0))
    return slope.where(kept.unsqueeze(1), 0.0), kept


def _reference(logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, z: float, mean: bool) -> Tensor:
    return reference(logits, target, ignore_index, smoothing, z, "mean" if mean else "sum")


def _allocate(logits: Tensor, target: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    lse, divisor = (logits.new_empty(shape, dtype=torch.float32) for shape in ((2, *target.shape), ()))
    return logits.new_empty((), dtype=torch.promote_types(logits.dtype, torch.float32)), lse, divisor


def _forward(logits: Tensor, target: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    made = loss, lse, divisor = _allocate(logits, target, settings)
    ignore_index, smoothing, z, mean, config = settings
    if not logits.numel():
        return loss.fill_(float("nan") if mean else 0.0), lse, divisor
    logits, target = launch.as_rows(logits), target.contiguous()
    rows, classes = logits.shape
    chosen = _chosen(config, logits)
    splits = chosen["splits"]
    partial = lse.new_empty((3, rows, splits))
    kernels = launch.kernels("cross_entropy")
    with launch.on(logits):
        kernels.scan_kernel[(rows * splits,)](
            logits, target, partial, rows, classes, logits.stride(0), ignore_index,
            SUMMED=smoothing != 0.0, SPLITS=splits, BLOCK=chosen["block"], num_warps=chosen["warps"],
        )  # fmt: skip
        kernels.finish_kernel[(1,)](
            logits, target, partial, lse, loss, divisor, rows, classes, logits.stride(0), ignore_index, smoothing, z,
            MEAN=mean, SMOOTHED=smoothing != 0.0, SQUARED=z != 0.0, SPLITS=splits,
            BLOCK_R=min(launch.next_power_of_2(rows), 4096 // splits), num_warps=8,
        )  # fmt: skip
    return made


def _allocate_backward(
    dloss: Tensor, logits: Tensor, target: Tensor, lse: Tensor, divisor: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape), no_gradient(logits)


def _backward(
    dloss: Tensor, logits: Tensor, target: Tensor, lse: Tensor, divisor: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor]:
    dlogits = logits.new_empty(logits.shape)
    smoothing, z = settings.smoothing, settings.z
    if logits.numel():
        logits, target = launch.as_rows(logits), target.contiguous()
        chosen = _chosen(settings.config, logits)
        block = chosen["back_block"]
        with launch.on(logits):
            launch.kernels("cross_entropy").backward_kernel[(logits.shape[0], -(-logits.shape[1] // block))](
                logits, target, lse, divisor, dloss, dlogits, *logits.shape, logits.stride(0), settings.ignore_index,
                smoothing, z, SMOOTHED=smoothing != 0.0, SQUARED=z != 0.0, BLOCK=block,
                num_warps=chosen["back_warps"],
            )  # fmt: skip
    return dlogits, no_gradient(dlogits)


def _backward_reference(
    dloss: Tensor, logits: Tensor, target: Tensor, lse: Tensor, divisor: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, None]:
    found, kept = slope(logits, target, settings.ignore_index, settings.smoothing, settings.z)
    return found * (dloss / kept.sum().clamp(min=1) if settings.mean else dloss), None


def _chosen(config: list[int] | None, logits: Tensor) -> Config:
    return launch.named(config, NAMES, _default(*logits.shape, launch.architecture(logits.device)))


_default = cached_default(default, "rows", "classes")
_node = Node(
    "cross_entropy",
    tensors=2,
    outputs=1,
    settings=Settings,
    reference=_reference,
    allocate=_allocate,
    forward=_forward,
    kept=lambda args, made: (args[0], args[1], made[1], made[2]),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=_backward_reference,
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    shape = (dims["rows"], dims["classes"])
    logits = torch.randn(shape, generator=source).to(device, dtype).requires_grad_()
    return logits, some_targets(*shape, source).to(device)


def some_targets(rows: int, classes: int, source: torch.Generator) -> Tensor:
    """Random classes, every fourth row ignored."""
    target = torch.randint(classes, (rows,), generator=source)
    target[3::4] = -100
    return target


def _launch(
    logits: Tensor, target: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0, z_loss: float = 0.0,
    reduction: str = "mean", config: Config | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:  # fmt: skip
    settings = Settings(ignore_index, label_smoothing, z_loss, reduction == "mean", launch.values(config, NAMES))
    return _node.run_kernels(logits, target, settings)


VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "sum": {"reduction": "sum"},
    "smoothed": {"label_smoothing": 0.1, "z_loss": 1e-3},
}

OPS = (
    Op(
        name="cross_entropy",
        formula="mean(logsumexp(logits) - logits[target]), smoothed, + z_loss * logsumexp(logits)^2",
        dims=("rows", "classes"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=cross_entropy,
        launch=_launch,
        # The logits; then again, and their gradient.
        moved_bytes=passing(1, 3, "rows", "classes"),
        variants=VARIANTS,
    ),
)
