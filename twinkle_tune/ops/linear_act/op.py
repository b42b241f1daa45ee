"""A Linear layer and its activation as one op of torch, for Linear's and for Conv1D's layout of the weight."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twinkle_tune.errors import ConfigError, ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.fused_linear_cross_entropy.held import under_autocast
from twinkle_tune.ops.linear_act.space import NAMES, default, space
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, cached_default
from twinkle_tune.ops.space import Config, Dims

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": torch.ops.aten.gelu_backward,
    "gelu_tanh": partial(torch.ops.aten.gelu_backward, approximate="tanh"),
    "relu": partial(torch.ops.aten.threshold_backward, threshold=0),
    "silu": torch.ops.aten.silu_backward,
}


class Settings(NamedTuple):
    """Which activation, how the weight lies, and whether a backward will want the activation's input."""

    function: str
    transposed: bool
    kept: bool
    config: list[int] | None


def linear_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    function: str = "gelu",
    transposed: bool = False,
    config: Config | None = None,
) -> Tensor:
    """``act(x @ weight.T + bias)``, rounded once.

    Args:
        x: (..., K), any strides.
        weight: (N, K) as torch's Linear holds it, or with ``transposed`` (K, N) as GPT-2's Conv1D does; in x's dtype.
            Under autocast x, weight and bias are taken in its dtype, as a linear layer would.
        bias: (N) or None.
        function: "gelu" (by erf), "gelu_tanh", "relu" or "silu".
        transposed: see ``weight``.
        config: of the kernels; None for the default.

    Returns:
        (..., N), contiguous.

    Raises:
        ShapeError: the tensors do not fit together, or have different dtypes.
        ConfigError: the activation is another, or the config is not one of this op's.
    """
    is_cast = torch.is_autocast_enabled(x.device.type)
    if is_cast:
        x, weight = under_autocast(x, weight)
        bias = None if bias is None else under_autocast(x, bias)[1]
    _check(x, weight, bias, function, transposed)
    wanted = any(t is not None and t.requires_grad for t in (x, weight, bias))
    settings = Settings(function, transposed, torch.is_grad_enabled() and wanted, launch.values(config, NAMES))
    # Only where it is on: torch.export keeps a context as a module of its own around the node.
    with torch.autocast(x.device.type, enabled=False) if is_cast else nullcontext():
        result: Tensor = _node(x, weight, bias, settings)
    return result


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, function: str, transposed: bool) -> None:
    if function not in _FUNCTIONS:
        raise ConfigError(f"linear_act: got function={function!r}, expected one of {', '.join(_FUNCTIONS)}")
    wide = weight.shape[0 if transposed else -1] if weight.dim() == 2 else None
    out = weight.shape[-1 if transposed else 0] if weight.dim() == 2 else None
    alike = weight.dtype == x.dtype and (bias is None or bias.dtype == x.dtype)
    if x.dim() == 0 or wide != x.shape[-1] or not alike or (bias is not None and bias.shape != (out,)):
        got = f"x {list(x.shape)} {x.dtype}, weight {list(weight.shape)} {weight.dtype}"
        got += "" if bias is None else f", bias {list(bias.shape)} {bias.dtype}"
        layout = "(in, out)" if transposed else "(out, in)"
        raise ShapeError(
            f"linear_act: got {got}, expected x (..., in), a weight {layout} and a bias (out) in one dtype; "
            "cast them, or say transposed=True for a weight (in, out)"
        )


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, function: str = "gelu", transposed: bool = False
) -> Tensor:
    """The formula as models write it: the product with the bias is rounded, then the activation of it."""
    return _FUNCTIONS[function](F.linear(x, weight.T if transposed else weight, bias))


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, function: str, transposed: bool, kept: bool) -> Tensor:
    return reference(x, weight, bias, function, transposed)


def _allocate(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], weight.shape[1 if settings.transposed else 0])
    return x.new_empty(shape), x.new_empty(shape) if settings.kept else no_gradient(x)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    y, pre = _allocate(x, weight, bias, settings)
    if y.numel():
        rows = launch.as_rows(x)
        (m, k), n = rows.shape, y.shape[-1]
        chosen = launch.named(settings.config, NAMES, _default(m, k, n, launch.architecture(x.device)))
        grid = (-(-m // chosen["block_m"]) * -(-n // chosen["block_n"]),)
        added = weight if bias is None else bias.contiguous()
        at_out, at_in = weight.stride()[::-1] if settings.transposed else weight.stride()
        with launch.on(x):
            launch.kernels("linear_act").forward[grid](
                rows, weight, added, y, pre, m, n, k, rows.stride(0), at_out, at_in,
                FUNCTION=settings.function, BIAS=bias is not None, KEPT=settings.kept,
                BLOCK_M=chosen["block_m"], BLOCK_N=chosen["block_n"],
                BLOCK_K=max(16, chosen["block_k"] * 2 // x.element_size()),  # as many bytes in any dtype
                GROUP=chosen["group"], num_warps=chosen["warps"], num_stages=chosen["stages"],
            )  # fmt: skip
    return y, pre


def _allocate_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, pre: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    like = (x, weight, weight.new_empty(weight.shape[1 if settings.transposed else 0]))
    made = [each.new_empty(each.shape) if need else no_gradient(x) for each, need in zip(like, needs, strict=True)]
    return made[0], made[1], made[2]


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, pre: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dbias = _allocate_backward(dy, x, weight, bias, pre, needs, settings)
    if not dy.numel():
        return tuple(each.zero_() for each in (dx, dweight, dbias))  # type: ignore[return-value]
    rows, given, kept = launch.as_rows(x), launch.as_rows(dy), launch.as_rows(pre)
    (m, k), n = rows.shape, given.shape[1]
    chosen = launch.named(settings.config, NAMES, _default(m, k, n, launch.architecture(x.device)))
    programs = min(chosen["back_programs"], -(-m // chosen["back_rows"]))
    dpre = torch.empty_like(kept)
    sums = x.new_empty((programs, n) if needs[2] else (0,), dtype=torch.float32)
    with launch.on(dy):
        launch.kernels("linear_act").backward[(programs, -(-n // chosen["back_block"]))](
            given, kept, dpre, sums, m, n, given.stride(0), FUNCTION=settings.function, BIAS=needs[2],
            ROWS=chosen["back_rows"], BLOCK=chosen["back_block"], num_warps=chosen["back_warps"],
        )  # fmt: skip
    if needs[0]:
        torch.mm(dpre, weight.T if settings.transposed else weight, out=dx.view(m, k))
    if needs[1]:
        torch.mm(*((rows.T, dpre) if settings.transposed else (dpre.T, rows)), out=dweight)
    if needs[2]:
        dbias.copy_(sums.sum(0))
    return dx, dweight, dbias


def _backward_reference(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, pre: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    # What the formula kept of the product is its room alone: it is made again.
    matrix = weight.T if settings.transposed else weight
    slope = _SLOPES[settings.function](dy, F.linear(x, matrix, bias))
    dpre, rows = slope.reshape(-1, slope.shape[-1]), x.reshape(-1, x.shape[-1])
    dweight = rows.T @ dpre if settings.transposed else dpre.T @ rows
    return (dpre @ matrix).view(x.shape), dweight, dpre.sum(0)


_default = cached_default(default, "rows", "width", "out")
_node = Node(
    "linear_act",
    tensors=3,
    outputs=1,
    settings=Settings,
    reference=_reference,
    allocate=_allocate,
    forward=_forward,
    kept=lambda args, made: (*args[:3], made[1]),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=_backward_reference,
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor | None, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(dims["rows"], dims["width"], generator=source)
    # Products of about one.
    weight = torch.randn(dims["out"], dims["width"], generator=source) / dims["width"] ** 0.5
    bias = torch.randn(dims["out"], generator=source)
    weight = weight.T.contiguous() if "transposed" in variant else weight
    made = [tensor.to(device, dtype).requires_grad_() for tensor in (x, weight, bias)]
    return (*made[:2], None) if "no_bias" in variant else tuple(made)


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, *,
    function: str = "gelu", transposed: bool = False, config: Config | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:  # fmt: skip
    settings = Settings(function, transposed, True, launch.values(config, NAMES))
    with torch.no_grad():
        return _node.run_kernels(x, weight, bias, settings)


def _moved_bytes(dims: Dims, itemsize: int, backward: bool) -> int:
    m, k, n = dims["rows"], dims["width"], dims["out"]
    once = m * k + n * k + n + m * n
    # Training: p is written beside y; then dy and p are read and dp written; dp and x, dp and W make dW and dx.
    more = m * n + 3 * m * n + 2 * m * n + 2 * (m * k + n * k) + n
    return (once + more if backward else once) * itemsize


OPS = (
    Op(
        name="linear_act",
        formula="act(x @ weight.T + bias)",
        dims=("rows", "width", "out"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=linear_act,
        launch=_launch,
        moved_bytes=_moved_bytes,
        variants={
            "": {},
            "tanh": {"function": "gelu_tanh"},
            "relu": {"function": "relu"},
            "silu_no_bias": {"function": "silu"},
            "transposed_tanh": {"function": "gelu_tanh", "transposed": True},
        },
    ),
)
