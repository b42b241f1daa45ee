"""Rotary position embedding as an op of torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twinkle_tune.errors import ShapeError
from twinkle_tune.ops import launch
from twinkle_tune.ops.node import Node, no_gradient
from twinkle_tune.ops.op import Op, cached_default
from twinkle_tune.ops.rope.space import NAMES, default, space
from twinkle_tune.ops.space import Config, Dims


class Settings(NamedTuple):
    """How columns make pairs."""

    interleaved: bool
    config: list[int] | None


def rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """Query and key turned by their positions; columns past those of cos are copied.

    Args:
        q: (batch, heads, tokens, width), any strides.
        k: (batch, kv_heads, tokens, width), of q's dtype.
        cos: (batch or 1, tokens, turned), turned even and at most width; of any dtype.
        sin: as cos.
        interleaved: a pair is columns 2i and 2i + 1; else i and turned / 2 + i.
        config: of the kernels; None for the default.

    Returns:
        q and k, turned, in their dtype and with the strides of ``torch.empty_like``.

    Raises:
        ShapeError: the tensors do not fit together.
        ConfigError: the config is not one of this op's.
    """
    if not fits(q, k, cos, sin):
        raise ShapeError(
            f"rope: got q {list(q.shape)} {q.dtype}, k {list(k.shape)} {k.dtype}, cos {list(cos.shape)} and "
            f"sin {list(sin.shape)}, expected (batch, heads, tokens, width) twice in one dtype and "
            "(batch or 1, tokens, an even number of columns up to width) twice; transpose or unsqueeze them"
        )
    settings = Settings(interleaved, launch.values(config, NAMES))
    if torch.is_grad_enabled() and (cos.requires_grad or sin.requires_grad):
        return reference(q, k, cos, sin, interleaved)  # the kernel gives those no gradient
    result: tuple[Tensor, Tensor] = _node(q, k, cos, sin, settings)
    return result


def fits(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the tensors have the shapes and dtypes that :func:`rope` takes."""
    return (
        q.dim() == k.dim() == 4
        and cos.dim() == 3
        and (q.shape[0], *q.shape[2:]) == (k.shape[0], *k.shape[2:])
        and q.dtype == k.dtype
        and cos.shape == sin.shape
        and cos.shape[0] in (1, q.shape[0])
        and cos.shape[1] == q.shape[2]
        and cos.shape[2] % 2 == 0
        and cos.shape[2] <= q.shape[3]
    )


def reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> tuple[Tensor, Tensor]:
    """The formula, in the dtype of q, k and cos."""
    return _turned(q, cos, sin, interleaved), _turned(k, cos, sin, interleaved)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    wide = cos.shape[-1]
    first = x[..., :wide]
    if interleaved:
        other = torch.stack((-first[..., 1::2], first[..., ::2]), dim=-1).flatten(-2)
    else:
        other = torch.cat((-first[..., wide // 2 :], first[..., : wide // 2]), dim=-1)
    turned = first * cos.unsqueeze(1) + other * sin.unsqueeze(1)
    return torch.cat((turned.to(x.dtype), x[..., wide:]), dim=-1)


def _turned_back(sin: Tensor, interleaved: bool) -> Tensor:
    """The sin with which the formula is its own backward: in each pair swapped and negated."""
    wide = sin.shape[-1]
    if interleaved:
        return -torch.stack((sin[..., 1::2], sin[..., ::2]), dim=-1).flatten(-2)
    return -torch.cat((sin[..., wide // 2 :], sin[..., : wide // 2]), dim=-1)


def _like(x: Tensor) -> Tensor:
    """Memory for a tensor of x's form whose columns are adjacent, in x's order of dimensions where that allows it."""
    like = torch.empty_like(x)
    return like if like.stride(-1) == 1 else x.new_empty(x.shape)


def _allocate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    return _like(q), _like(k)


def _forward(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    return _run(q, k, cos, sin, settings, "")


def _allocate_backward(
    dq: Tensor, dk: Tensor, cos: Tensor, sin: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like(dq), _like(dk), no_gradient(cos), no_gradient(sin)


def _backward(
    dq: Tensor, dk: Tensor, cos: Tensor, sin: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_run(dq, dk, cos, sin, settings, "back_"), no_gradient(cos), no_gradient(sin)


def _backward_reference(
    dq: Tensor, dk: Tensor, cos: Tensor, sin: Tensor, needs: list[bool], settings: Settings
) -> tuple[Tensor, Tensor, None, None]:
    interleaved = settings.interleaved
    return *reference(dq, dk, cos, _turned_back(sin, interleaved), interleaved), None, None


def _run(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, settings: Settings, side: str) -> tuple[Tensor, Tensor]:
    outputs = q_out, k_out = _like(q), _like(k)
    batch, heads, tokens, width = q.shape
    if not batch * tokens * width:
        return outputs
    q, k, cos, sin = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, cos, sin))
    turned = cos.shape[-1]
    cos, sin = cos.expand(batch, -1, -1), sin.expand(batch, -1, -1)
    usual = _default(tokens, heads, k.shape[1], width, turned, launch.architecture(q.device))
    chosen = launch.named(settings.config, NAMES, usual)
    at_once = chosen[f"{side}tokens"]
    with launch.on(q):
        launch.kernels("rope").turn_kernel[(batch * -(-tokens // at_once),)](
            q, k, q_out, k_out, cos, sin, tokens, heads, k.shape[1],
            *q.stride()[:3], *k.stride()[:3], *q_out.stride()[:3], *k_out.stride()[:3],
            *cos.stride()[:2], *sin.stride()[:2],
            D=width, P=turned // 2, INTERLEAVED=settings.interleaved, BACKWARD=side == "back_",
            BLOCK_T=at_once, BLOCK_H=chosen[f"{side}heads"], BLOCK_P=launch.next_power_of_2(turned // 2),
            BLOCK_REST=launch.next_power_of_2(width - turned), num_warps=chosen[f"{side}warps"],
        )  # fmt: skip
    return outputs


_default = cached_default(default, "tokens", "heads", "kv_heads", "width", "turned")
_node = Node(
    "rope",
    tensors=4,
    outputs=2,
    settings=Settings,
    reference=reference,
    allocate=_allocate,
    forward=_forward,
    kept=lambda args, made: (args[2], args[3]),
    allocate_backward=_allocate_backward,
    backward=_backward,
    backward_reference=_backward_reference,
)


def _inputs(dims: Dims, dtype: torch.dtype, device: str, seed: int, variant: str = "") -> tuple[Tensor, ...]:
    source = torch.Generator("cpu").manual_seed(seed)
    # Tokens first in memory and heads first to look at, as a projection's output in an attention layer.
    q, k = (
        torch.randn((1, dims["tokens"], dims[heads], dims["width"]), generator=source)
        .to(device, dtype)
        .transpose(1, 2)
        .requires_grad_()
        for heads in ("heads", "kv_heads")
    )
    angle = torch.rand((1, dims["tokens"], dims["turned"] // 2), generator=source) * 6.3
    angles = angle.repeat_interleave(2, dim=-1) if variant == "interleaved" else torch.cat((angle, angle), dim=-1)
    return q, k, angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def _launch(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False, config: Config | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    outputs, gradients = _node.run_kernels(q, k, cos, sin, Settings(interleaved, launch.values(config, NAMES)))
    return outputs, (*gradients[:2], None, None)


def _moved_bytes(dims: Dims, itemsize: int, backward: bool) -> int:
    # q, k, their results; cos and sin.
    heads = dims["heads"] + dims["kv_heads"]
    once = dims["tokens"] * (2 * heads * dims["width"] + 2 * dims["turned"]) * itemsize
    return (2 if backward else 1) * once


OPS = (
    Op(
        name="rope",
        formula="(a cos - b sin, b cos + a sin) of each pair of columns (a, b), of query and key",
        dims=("tokens", "heads", "kv_heads", "width", "turned"),
        space=space,
        default=default,
        inputs=_inputs,
        reference=reference,
        apply=rope,
        launch=_launch,
        moved_bytes=_moved_bytes,
        variants={"": {}, "interleaved": {"interleaved": True}},
    ),
)
