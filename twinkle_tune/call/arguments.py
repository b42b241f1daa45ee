"""The arguments of one call with real tensors: copied, copied afresh, and with new values of their kind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.call.address import empty_at, offset_of

_OUTLIERS_FROM = 8
"""Fewest channels in which one can stand out."""
_GAP = 8
"""Elements between two rows: rows stay aligned to 16 bytes in every dtype."""
_OUTLIER_SHARE = 64
"""One channel in so many becomes an outlier, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of one call, without the module itself. Tensors in it are leaves of autograd."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def snapshot(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """A detached copy of a call's arguments that later changes to the originals do not reach.

    Tensors keep shape, stride (gaps and expanded dimensions included), dtype, device and requires_grad.
    Tuples, named tuples, lists and dictionaries are copied, also nested; every other object is kept by
    reference. One tensor object in two places stays one object; tensors that merely share storage
    become independent.
    """
    once = _once(_copied)
    with torch.inference_mode(False), torch.no_grad():
        return Call(args=map_tensors(once, tuple(args)), kwargs=map_tensors(once, dict(kwargs)))


def fresh(call: Call) -> Call:
    """Another such copy, in memory of its own."""
    return snapshot(call.args, call.kwargs)


def vary(call: Call, *, seed: int, scale: float = 1.0, outliers: bool = False) -> Call:
    """The same form of call with new values; equal seeds give equal values, and no global generator moves.

    - Floating tensors are drawn from a normal distribution with the captured mean and standard deviation
      (1 where that is zero or not finite), times ``scale``. A tensor all within [-1, 1] is clamped to that
      range afterwards. Elements that are not finite, or as large as the dtype allows, mark masked places and
      stay what they are; where all others are alike, the whole tensor is a mask and stays.
    - A floating tensor whose last dimension says everything twice (halves or pairs alike) is a rotary table
      and kept: right kernels read one half of it alone. A constant one is drawn with its halves alike, for
      a table at position 0 is one.
    - With ``outliers`` some channels of the last dimension of the first floating tensor that has enough of them
      are 20 to 50 times as large, as they are in the hidden states of trained models. In one tensor alone: in
      query and key at once they would multiply to scores at which every softmax is a step.
    - Integer tensors are permuted, so that each value stays a valid index; where they ascend along the last
      dimension (positions, offsets) or hold one element they are kept.
    - Boolean tensors have whole rows permuted, so that no row of a mask ends up empty.
    - Everything else is unchanged.
    """
    generators: dict[torch.device, torch.Generator] = {}
    memo: dict[int, Tensor] = {}
    originals: list[Tensor] = []

    def once(tensor: Tensor) -> Tensor:
        if id(tensor) not in memo:
            if tensor.device not in generators:
                generators[tensor.device] = torch.Generator(tensor.device).manual_seed(seed)
            first = outliers and not any(map(_has_channels, originals)) and _has_channels(tensor)
            originals.append(tensor)
            memo[id(tensor)] = _varied(tensor, generators[tensor.device], scale=scale, outliers=first)
        return memo[id(tensor)]

    with torch.inference_mode(False), torch.no_grad():
        return Call(args=map_tensors(once, call.args), kwargs=map_tensors(once, dict(call.kwargs)))


def spaced(call: Call) -> Call | None:
    """The call with gaps between the rows of its contiguous floating tensors; None where there are none.

    A kernel that takes rows to follow each other reads the gaps and gives wrong values.
    """

    def with_gaps(tensor: Tensor) -> Tensor:
        if tensor.dim() < 2 or not tensor.is_floating_point() or not tensor.is_contiguous() or tensor.numel() < 2:
            return tensor
        wide = tensor.new_empty((*tensor.shape[:-1], tensor.shape[-1] + _GAP))
        inner = wide[..., : tensor.shape[-1]]
        return inner.copy_(tensor.detach()).requires_grad_(tensor.requires_grad)

    made = mapped_once(with_gaps, call)
    before, after = (dict(named_tensors(each)) for each in (call, made))
    return made if any(after[name].stride() != tensor.stride() for name, tensor in before.items()) else None


def _once(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, called once for each tensor object."""
    memo: dict[int, Tensor] = {}

    def once(tensor: Tensor) -> Tensor:
        if id(tensor) not in memo:
            memo[id(tensor)] = function(tensor)
        return memo[id(tensor)]

    return once


def mapped_once(function: Callable[[Tensor], Tensor], call: Call) -> Call:
    """The call with each tensor replaced, one object in two places by one; new leaves of autograd."""
    once = _once(function)
    with torch.inference_mode(False), torch.no_grad():
        return snapshot(map_tensors(once, call.args), map_tensors(once, dict(call.kwargs)))


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """``value`` with each tensor in its tuples, lists and dictionaries replaced; other objects kept."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if type(value) in (tuple, list):
        return type(value)(map_tensors(function, item) for item in value)
    if isinstance(value, dict):
        twin = copy.copy(value)
        for key, item in value.items():
            twin[key] = map_tensors(function, item)
        return twin
    return value


def named_tensors(call: Call) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the call under a name for people ("args[0]", "kwargs['mask'][1]"), repeats included."""
    for index, value in enumerate(call.args):
        yield from _named(f"args[{index}]", value)
    for key, value in call.kwargs.items():
        yield from _named(f"kwargs[{key!r}]", value)


def _named(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _named(f"{name}[{index}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _named(f"{name}[{key!r}]", item)


def _copied(tensor: Tensor) -> Tensor:
    """A leaf with the same values and layout."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)
    return _laid_out(_dense(tensor.detach()), tensor).requires_grad_(tensor.requires_grad)


def _dense(tensor: Tensor) -> Tensor:
    """The tensor with each expanded dimension cut to the one element that it repeats."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _laid_out(values: Tensor, like: Tensor) -> Tensor:
    """``values`` (see :func:`_dense`) in new memory with the shape and strides of ``like``."""
    if _overlaps(values.shape, like.stride()):
        return values.clone(memory_format=torch.contiguous_format).expand(like.shape)
    twin = empty_at(values.shape, like.stride(), like, offset_of(like))
    return twin.copy_(values).expand(like.shape)


def _overlaps(shape: torch.Size, strides: tuple[int, ...]) -> bool:
    # Right for what models make (slices, transposes, expansions); sliding windows are called overlapping.
    reach = 1
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size > 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def _varied(tensor: Tensor, generator: torch.Generator, *, scale: float, outliers: bool) -> Tensor:
    values = _dense(tensor.detach())
    if values.numel() == 0:
        return _copied(tensor)
    if values.is_floating_point() or values.is_complex():
        values = _drawn(values, generator, scale=scale, outliers=outliers)
    elif values.dtype is torch.bool:
        dim = -2 if values.dim() > 1 and values.shape[-2] > 1 else -1
        values = _permuted(values, dim, generator) if values.dim() else values
    elif values.numel() > 1 and bool((values.diff(dim=-1) < 0).any()):
        values = _permuted(values.reshape(-1), 0, generator).view(values.shape)
    return _laid_out(values, tensor).requires_grad_(tensor.requires_grad)


def _permuted(values: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(values.shape[dim], generator=generator, device=values.device)
    return values.index_select(dim, order)


def _drawn(values: Tensor, generator: torch.Generator, *, scale: float, outliers: bool) -> Tensor:
    if values.is_complex():
        parts = torch.view_as_real(values.resolve_conj())
        return torch.view_as_complex(_drawn(parts, generator, scale=scale, outliers=False).contiguous())
    wide = values if values.dtype is torch.float64 else values.float()
    masked = ~(wide.abs() < torch.finfo(values.dtype).max)
    kept = wide[~masked]
    repeats = _repeats(values)
    constant = kept.numel() > 0 and bool((kept == kept.reshape(-1)[0]).all())
    if kept.numel() == 0 or (repeats and not constant) or (constant and bool(masked.any())):
        return values
    mean, std = kept.mean(), kept.std(correction=0)
    std = torch.where(torch.isfinite(std) & (std > 0), std, torch.ones_like(std))
    noise = torch.randn(wide.shape, generator=generator, device=wide.device, dtype=wide.dtype)
    drawn = (noise * std + mean) * scale
    if outliers and drawn.dim() and drawn.shape[-1] >= _OUTLIERS_FROM:
        drawn = drawn * _outlier_gains(drawn.shape[-1], generator, drawn)
    if repeats:
        drawn = drawn[..., : drawn.shape[-1] // 2].repeat(*([1] * (drawn.dim() - 1)), 2)
    bound = 1.0 if bool(kept.abs().max() <= 1) else torch.finfo(values.dtype).max / 2
    return torch.where(masked, wide, drawn.clamp(-bound, bound)).to(values.dtype)


def _has_channels(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 0 and tensor.shape[-1] >= _OUTLIERS_FROM


def _repeats(values: Tensor) -> bool:
    """Whether the last dimension holds each value twice, as halves or as pairs."""
    if values.dim() == 0 or values.shape[-1] < 2 or values.shape[-1] % 2:
        return False
    first, second = values.chunk(2, dim=-1)
    return torch.equal(first, second) or torch.equal(values[..., ::2], values[..., 1::2])


def _outlier_gains(channels: int, generator: torch.Generator, like: Tensor) -> Tensor:
    chosen = torch.randperm(channels, generator=generator, device=like.device)[: max(1, channels // _OUTLIER_SHARE)]
    gains = torch.ones(channels, device=like.device, dtype=like.dtype)
    spread = torch.rand(chosen.shape, generator=generator, device=like.device, dtype=like.dtype)
    gains[chosen] = 20 + 30 * spread
    return gains
