"""Candidates for attention that is written out (:mod:`twinkle_tune.catalog.written_attention`).

What a piece's steps come to is read at each call: one factor, and one mask that is added to the scores. A fill is
added as zeros and minus infinity, for a key that it hides weighs nothing as long as its query sees another one. For a
query that sees none the original weighs all keys alike where a finite number is filled in, and gives NaN for minus
infinity. Kernels do neither, or not backward. So on the CPU a call with such a query runs the original. Elsewhere, as
asking would wait for the device, its row is put in afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from twinkle_tune.catalog import triton
from twinkle_tune.catalog.written_attention import SOFTMAX, Step, condition, filling
from twinkle_tune.ops.space import Config
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

_HIDES = -1e9
"""What is filled in hides a score if it is no more; added to scores of usual size it rounds to itself."""
_LOW = -1e3
"""Rows whose mask is nowhere above lose bits of their scores in the original, of half a dtype nearly all."""
_MASKS = ("add", "fill", "keep")
_LOOKED_AT = 256
"""Up to as many queries, on the CPU, a mask that is cut from a buffer is compared with a triangle at each call."""
_BEFORE, _MASKED, _AFTER = range(3)


class Read(NamedTuple):
    """What a call of the piece computes.

    Attributes:
        scale: what the products are multiplied by.
        mask: what is added to the scores then, broadcast to them, in the dtype of q; None for nothing.
        causal: whether instead a query sees the keys up to its own place, as many of them as of queries.
        values: of the keys.
        blind: which queries see nothing, as bools (..., queries, 1); None for none.
        instead: what those come to, broadcast to the result; None for none.
    """

    scale: float
    mask: Tensor | None
    causal: bool
    values: Tensor
    blind: Tensor | None = None
    instead: Tensor | None = None


def contestants(piece: nn.Module, device: str) -> list[Candidate]:
    """Candidates for a piece whose steps are attention's, in an order that one call of torch's attention has."""
    steps: tuple[Step, ...] = piece._steps  # type: ignore[assignment]
    if not _in_order(steps):
        return []
    found = [Candidate(name="torch.sdpa", source=ImplSource(kind="torch", impl=by_sdpa))]
    if triton.offered(device):
        found.append(triton.candidate(_by_triton, "attention"))
    return found


def _in_order(steps: tuple[Step, ...]) -> bool:
    """Factors, then masks, then the softmax, then nothing that computes; casts where they change nothing.

    Several masks only where each fills in minus infinity: another fill overwrites what is filled in already, and two
    that are added up are another number.
    """
    masks, at = [step for step in steps if step.name in _MASKS], _BEFORE
    if len(masks) > 1 and any(step.name == "add" or step.value != -torch.inf for step in masks):
        return False
    for step in steps:
        if step.name in ("mul", "div") and at == _BEFORE:
            continue
        if step.name in _MASKS and at in (_BEFORE, _MASKED):
            at = _MASKED
        elif step.name in SOFTMAX and at != _AFTER:
            at = _AFTER
        elif step.name not in ("to", "dropout", "child_dropout") or (step.name != "to" and at != _AFTER):
            return False
    return at == _AFTER


def by_sdpa(self: Any, q: Tensor, keys: Tensor, *given: Any) -> Any:
    """The piece by one call of torch's scaled dot product attention."""
    read = _read(self, q, keys, given)
    if read is None:
        return type(self).forward(self, q, keys, *given)
    return _attended(q, keys, read)


def _attended(q: Tensor, keys: Tensor, read: Read) -> Tensor:
    k, v, mask = keys.transpose(-2, -1), read.values, read.mask
    is_three = q.dim() == 3
    if is_three:  # torch has its fused kernels for four dimensions
        q, k, v = (x.unsqueeze(0) for x in (q, k, v))
    made = F.scaled_dot_product_attention(q, k, v, mask, is_causal=read.causal, scale=read.scale)
    made = made.squeeze(0) if is_three else made
    if read.blind is None or read.instead is None:
        return made
    return torch.where(read.blind, read.instead, made)


def _by_triton(config: Config | None) -> Callable[..., Any]:
    from twinkle_tune.ops.attention.op import attention, fits

    def forward(self: Any, q: Tensor, keys: Tensor, *given: Any) -> Any:
        read = _read(self, q, keys, given)
        if read is None:
            return type(self).forward(self, q, keys, *given)
        k = keys.transpose(-2, -1)
        if read.mask is not None or not fits(q, k, read.values, None):
            return _attended(q, keys, read)
        return attention(q, k, read.values, causal=read.causal, scale=read.scale, config=config)

    return forward


def _read(piece: Any, q: Tensor, keys: Tensor, given: tuple[Any, ...]) -> Read | None:
    """What a call computes; None where it is not one call of an attention kernel."""
    values = given[-1]
    if not _is_plain(q, keys, values) or not _drops_nothing(piece):
        return None
    scale, mask, causal, place = 1.0, None, False, 0
    masked: tuple[Step, tuple[Any, ...]] | None = None
    alone = sum(step.name in _MASKS for step in piece._steps) == 1
    for step in piece._steps:
        taken = given[place : place + step.takes]
        place += step.takes
        if step.name in ("mul", "div"):
            factor = taken[0] if step.takes else step.value
            if type(factor) not in (int, float) or not factor:
                return None
            scale = scale * factor if step.name == "mul" else scale / factor
        elif alone and step.name in ("fill", "keep") and _is_causal(step, taken, q, keys):
            causal = True
        elif step.name in _MASKS:
            added, masked = _added(step, taken, q), (step, taken)
            if added is None:
                return None
            mask = added if mask is None else mask + added
    if mask is None or masked is None:
        return Read(scale, None, causal and q.shape[-2] > 1, values)
    mask = mask if mask.dim() > 1 else mask.reshape(1, -1)
    if (mask.dtype, mask.device) != (q.dtype, q.device) or not mask.numel():
        return None
    if not _spreads(mask, (*q.shape[:-1], keys.shape[-1])):
        return None
    return _of_masked(Read(scale, mask, False, values), q, keys, *masked)


def _of_masked(read: Read, q: Tensor, keys: Tensor, step: Step, taken: tuple[Any, ...]) -> Read | None:
    """With what becomes of queries that see nothing, told by a mask's only step or one of its like."""
    assert read.mask is not None
    greatest = read.mask.detach().amax(-1, keepdim=True)
    if _is_near(greatest):
        return None if (greatest <= _LOW).any() else read
    adds = step.name == "add"
    if adds and torch.is_grad_enabled() and (q.requires_grad or keys.requires_grad or read.mask.requires_grad):
        return None  # a row of finite numbers that all hide has gradients of its own
    blind = greatest <= max(_HIDES, torch.finfo(q.dtype).min)
    instead = read.values.mean(-2, keepdim=True)
    if adds or filling(step, taken) == -torch.inf:
        instead = instead.masked_fill(greatest == -torch.inf, torch.nan)
    return read._replace(mask=read.mask.masked_fill(blind, 0.0), blind=blind, instead=instead)


def _is_near(tensor: Tensor) -> bool:
    """Whether asking what a tensor holds waits for no device."""
    return tensor.device.type == "cpu"


def _spreads(mask: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a mask is broadcast to scores of a shape, and makes them no larger."""
    ends = shape[len(shape) - mask.dim() :]
    return mask.dim() <= len(shape) and all(n in (1, end) for n, end in zip(mask.shape, ends, strict=True))


def _added(step: Step, taken: tuple[Any, ...], q: Tensor) -> Tensor | None:
    """What is added to the scores for a mask; None where that is not known to be the same."""
    if step.name == "add":
        return taken[0] if step.takes and isinstance(taken[0], Tensor) else None
    value, where = filling(step, taken), condition(step, taken)
    if type(value) not in (int, float) or value > _HIDES or where.dtype != torch.bool:
        return None
    where = where if step.name == "fill" else ~where
    return torch.zeros(where.shape, dtype=q.dtype, device=q.device).masked_fill_(where, -torch.inf)


def _is_causal(step: Step, taken: tuple[Any, ...], q: Tensor, keys: Tensor) -> bool:
    """Whether a mask that is cut from a buffer lets each query see the keys up to its own place."""
    if step.cut < 0 or filling(step, taken) != -torch.inf:
        return False
    buffer, rows, columns = taken[:3]
    queries, length = q.shape[-2], keys.shape[-1]
    # Both from the first on: the mask is as large as the scores.
    if rows.start not in (None, 0) or columns.start not in (None, 0) or queries != length:
        return False
    if not rows.stop == columns.stop == length <= min(buffer.shape[-2:]):
        return False
    hides = "lower" if (step.name == "fill") == step.flips else "upper"
    if _is_near(buffer) and length <= _LOOKED_AT:
        is_one = buffer.numel() == buffer.shape[-2] * buffer.shape[-1]
        square = (length, length)  # cut by strides: slices take as long as all else here
        ones = _of_ones(hides, buffer.dtype).as_strided(square, (_LOOKED_AT, 1))
        return is_one and torch.equal(buffer.as_strided(square, buffer.stride()[-2:]), ones)
    return _triangle(buffer) == hides


@functools.cache
def _of_ones(part: str, dtype: torch.dtype) -> Tensor:
    """A triangle of ones on the CPU: "lower" with the diagonal, or "upper" without it."""
    ones = torch.ones(_LOOKED_AT, _LOOKED_AT, device="cpu")
    return (ones.tril() if part == "lower" else ones.triu(1)).to(dtype)


_triangles: Any = WeakIdKeyDictionary()


def _triangle(buffer: Tensor) -> str:
    """Which part of a square mask is not zero: "lower" with the diagonal, "upper" without it; "" for anything else.

    It is looked at again after it was written to.
    """
    if buffer.is_inference():
        return ""  # it does not tell whether it was written to
    state = buffer._version, buffer.data_ptr()
    known = _triangles.get(buffer)
    if known is None or known[0] != state:
        known = _triangles[buffer] = state, _found_triangle(buffer)
    found: str = known[1]
    return found


def _found_triangle(buffer: Tensor) -> str:
    size = buffer.shape[-1]
    if buffer.numel() != size * size or buffer.shape[-2] != size:
        return ""
    seen = buffer.detach().reshape(size, size) != 0
    lower = torch.ones_like(seen).tril()
    return "lower" if torch.equal(seen, lower) else "upper" if torch.equal(seen, ~lower) else ""


def _drops_nothing(piece: Any) -> bool:
    dropout = piece._modules.get("child_dropout")
    if dropout is not None and dropout.training and dropout.p > 0:
        return False
    return not any(step.name == "dropout" and step.value[1] and step.value[0] > 0 for step in piece._steps)


def _is_plain(*tensors: Tensor) -> bool:
    """Whether all are torch's own of one dtype, in no trace or transform. Autocast casts to one dtype before."""
    return (
        all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and len({tensor.dtype for tensor in tensors}) == 1
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()  # it would keep what was read of this call
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
