"""act(gate) * up as two ops of torch, for silu and for gelu; gate and up apart, or packed side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from twinkle_tune.errors import ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.act_and_mul.space import NAMES, default, space
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, cached_default, passing
from twinkle_tune.ops.space import Config, Dims

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class Settings(NamedTuple):
    """Which function, and of a packed tensor whether the gate is the first half."""

    function: str
    gate_first: bool
    config: list[int] | None


def silu_and_mul(
    gate: Tensor, up: Tensor | None = None, *, gate_first: bool = True, config: Config | None = None
) -> Tensor:
    """``silu(gate) * up``, rounded once.

    Args:
        gate: (..., M), any strides; or with ``up`` None (..., 2 M) that holds gate and up side by side.
        up: (..., M) or None.
        gate_first: of a packed tensor, whether the gate is the first half.
        config: of the kernels; None for the default.

    Returns:
        (..., M), contiguous.

    Raises:
        ShapeError: gate and up have different shapes, or a packed tensor cannot be halved.
        ConfigError: the config is not one of this op's.
    """
    _check("silu_and_mul", gate, up)
    result: Tensor = _nodes["silu_and_mul"](gate, up, Settings("silu", gate_first, launch.values(config, NAMES)))
    return result


def gelu_and_mul(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    approximate: str = "none",
    gate_first: bool = True,
    config: Config | None = None,
) -> Tensor:
    """``gelu(gate) * up``, rounded once: :func:`silu_and_mul` with gelu by erf ("none") or by "tanh".

    Raises:
        ShapeError: the shapes do not fit together.
        ValueError: ``approximate`` is neither.
        ConfigError: the config is not one of this op's.
    """
    _check("gelu_and_mul", gate, up)
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate: got {approximate!r}, expected 'none' or 'tanh', as torch's gelu has it")
    function = "gelu" if approximate == "none" else "gelu_tanh"
    result: Tensor = _nodes["gelu_and_mul"](gate, up, Settings(function, gate_first, launch.values(config, NAMES)))
    return result


def _check(name: str, gate: Tensor, up: Tensor | None) -> None:
    if up is not None and up.shape != gate.shape:
        raise ShapeError(
            f"{name}: got gate {list(gate.shape)} and up {list(up.shape)}, expected equal shapes; expand one of them"
        )
    if up is None and gate.shape[-1] % 2:
        raise ShapeError(
            f"{name}: got one packed tensor {list(gate.shape)}, expected an even last dimension; pass gate and up apart"
        )


def _halves(gate: Tensor, up: Tensor | None, gate_first: bool) -> tuple[Tensor, Tensor]:
    if up is not None:
        return gate, up
    middle = gate.shape[-1] // 2
    first, second = gate[..., :middle], gate[..., middle:]
    return (first, second) if gate_first else (second, first)


def reference(gate: Tensor, up: Tensor | None, function: str = "silu", gate_first: bool = True) -> Tensor:
    """The formula; in float32 for half precision, as the kernels do it."""
    left, right = _halves(gate, up, gate_first)
    dtype = torch.promote_types(left.dtype, right.dtype)
    exact = torch.promote_types(dtype, torch.float32)
    return (_FUNCTIONS[function](left.to(exact)) * right.to(exact)).to(dtype)


def _allocate(gate: Tensor, up: Tensor | None, settings: Settings) -> tuple[Tensor]:
    if up is None:
        return (gate.new_empty((*gate.shape[:-1], gate.shape[-1] // 2)),)
    return (gate.new_empty(gate.shape, dtype=torch.promote_types(gate.dtype, up.dtype)),)


def _forward(gate: Tensor, up: Tensor | None, settings: Settings) -> tuple[Tensor]:
    (y,) = _allocate(gate, up, settings)
    if y.numel():
        left, right = _rows(gate, up, settings.gate_first)
        grid, blocks, chosen = _plan(left, settings.config, "")
        with launch.on(y):
            launch.kernels("act_and_mul").forward[grid](
                left, right, y, *left.shape, left.stride(0), right.stride(0),
                FUNCTION=settings.function, **blocks, num_warps=chosen["warps"],
            )  # fmt: skip
    return (y,)


def _allocate_backward(
    dy: Tensor, gate: Tensor, up: Tensor | None, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), no_gradient(gate) if up is None else up.new_empty(up.shape)


def _backward(
    dy: Tensor, gate: Tensor, up: Tensor | None, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor]:
    dgate, dup = _allocate_backward(dy, gate, up, needs, settings)
    if dy.numel():
        left, right = _rows(gate, up, settings.gate_first)
        dleft, dright = _rows(dgate, None if up is None else dup, settings.gate_first)
        flat = launch.as_rows(dy)
        grid, blocks, chosen = _plan(left, settings.config, "back_")
        with launch.on(dy):
            launch.kernels("act_and_mul").backward[grid](
                flat, left, right, dleft, dright, *left.shape,
                *(x.stride(0) for x in (flat, left, right, dleft, dright)),
                FUNCTION=settings.function, **blocks, num_warps=chosen["back_warps"],
            )  # fmt: skip
    return dgate, dup


def _rows(gate: Tensor, up: Tensor | None, gate_first: bool) -> tuple[Tensor, Tensor]:
    """Gate and up as rows; the halves of one tensor are views of it."""
    return _halves(launch.as_rows(gate), None if up is None else launch.as_rows(up), gate_first)


def _plan(left: Tensor, config: list[int] | None, side: str) -> tuple[tuple[int, int], dict[str, int], Config]:
    rows, width = left.shape
    chosen = launch.named(config, NAMES, _default(rows, width, 0))  # the same for every architecture
    together, block = chosen[f"{side}rows"], chosen[f"{side}block"]
    return (-(-rows // together), -(-width // block)), {"ROWS": together, "BLOCK": block}, chosen


def _backward_reference(
    dy: Tensor, gate: Tensor, up: Tensor | None, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor | None]:
    function, gate_first, _ = settings
    left, right = _halves(gate, up, gate_first)
    exact = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    g, u, grad = left.to(exact), right.to(exact), dy.to(exact)
    if function == "silu":
        s = torch.sigmoid(g)
        slope = s * (1 + g * (1 - s))
    else:
        slope = torch.ops.aten.gelu_backward(
            torch.ones_like(g), g, approximate="tanh" if function == "gelu_tanh" else "none"
        )
    dgate, dup = grad * u * slope, grad * _FUNCTIONS[function](g)
    if up is not None:
        return dgate, dup
    return torch.cat((dgate, dup) if gate_first else (dup, dgate), -1), None


_default = cached_default(default, "rows", "width")


def _made(name: str) -> Node:
    return Node(
        name,
        tensors=2,
        outputs=1,
        settings=Settings,
        reference=reference,
        allocate=_allocate,
        forward=_forward,
        kept=lambda args, made: (args[0], args[1]),
        allocate_backward=_allocate_backward,
        backward=_backward,
        backward_reference=_backward_reference,
    )


_nodes = {name: _made(name) for name in ("silu_and_mul", "gelu_and_mul")}


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor | None, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    packed = "packed" in variant
    widths = (2 * dims["width"],) if packed else (dims["width"], dims["width"])
    made = [torch.randn(dims["rows"], width, generator=source).to(device, dtype).requires_grad_() for width in widths]
    return (made[0], None) if packed else tuple(made)


def _launch(
    name: str, gate: Tensor, up: Tensor | None, *,
    approximate: str = "none", gate_first: bool = True, config: Config | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:  # fmt: skip
    chosen = "silu" if name == "silu_and_mul" else "gelu" if approximate == "none" else "gelu_tanh"
    return _nodes[name].run_kernels(gate, up, Settings(chosen, gate_first, launch.values(config, NAMES)))


def _gelu_reference(gate: Tensor, up: Tensor | None, approximate: str = "none", gate_first: bool = True) -> Tensor:
    return reference(gate, up, "gelu" if approximate == "none" else "gelu_tanh", gate_first)


def _silu_reference(gate: Tensor, up: Tensor | None, gate_first: bool = True) -> Tensor:
    return reference(gate, up, "silu", gate_first)


def _op(name: str, apply: Any, formula: str, plain: Any, variants: dict[str, dict[str, Any]]) -> Op:
    return Op(
        name=name,
        formula=formula,
        dims=("rows", "width"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=plain,
        apply=apply,
        launch=partial(_launch, name),
        # gate, up, y; then dy, gate, up, dgate, dup.
        moved_bytes=passing(3, 8, "rows", "width"),
        variants=variants,
    )


OPS = (
    _op(
        "silu_and_mul",
        silu_and_mul,
        "gate * sigmoid(gate) * up",
        _silu_reference,
        {"": {}, "packed": {}, "packed_gate_last": {"gate_first": False}},
    ),
    _op(
        "gelu_and_mul",
        gelu_and_mul,
        "gate * Phi(gate) * up, Phi by erf or by a tanh",
        _gelu_reference,
        {"": {}, "tanh": {"approximate": "tanh"}, "packed": {}, "packed_tanh": {"approximate": "tanh"}},
    ),
)
