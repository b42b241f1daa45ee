"""Candidates for attention that is written out (:mod:`twinkle_tune.catalog.written_attention`).

What a piece's steps come to is read at each call: one factor, and one mask that is added to the scores. A fill is
added as zeros and what it fills in: with the least number of a dtype, rows that see nothing weigh all keys alike, and
with minus infinity they are NaN, both as in the original. torch's attention would give zeros for the latter.
"""

from __future__ import annotations

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
"""What is filled in hides a score if it is no more: added to scores of usual size it rounds to itself."""
_BEFORE, _MASKED, _AFTER = range(3)


class Read(NamedTuple):
    """What a call of the piece computes.

    Attributes:
        scale: what the products are multiplied by.
        mask: what is added to the scores then, broadcast to them, in the dtype of q; None for nothing.
        causal: whether instead a query sees the keys up to its own place, as many of them as of queries.
        values: of the keys.
        blind: which queries see nothing and get NaN; None for none.
    """

    scale: float
    mask: Tensor | None
    causal: bool
    values: Tensor
    blind: Tensor | None


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
    """Factors, then masks, then the softmax, then nothing that computes; casts where they change nothing."""
    at = _BEFORE
    for step in steps:
        if step.name in ("mul", "div") and at == _BEFORE:
            continue
        if step.name in ("add", "fill", "keep") and at in (_BEFORE, _MASKED):
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
    return made if read.blind is None else made.masked_fill(read.blind, torch.nan)


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
    values, blind = given[-1], None
    if not _is_plain(q, keys, values) or not _drops_nothing(piece):
        return None
    scale, mask, causal, place = 1.0, None, False, 0
    for step in piece._steps:
        taken = given[place : place + step.takes]
        place += step.takes
        if step.name in ("mul", "div"):
            factor = taken[0] if step.takes else step.value
            if type(factor) not in (int, float) or not factor:
                return None
            scale = scale * factor if step.name == "mul" else scale / factor
        elif step.name in ("fill", "keep") and not causal and mask is None and _is_causal(step, taken, q, keys):
            causal = True
        elif step.name in ("add", "fill", "keep"):
            added = _added(step, taken, q)
            if added is None or causal:
                return None
            mask = added if mask is None else mask + added
    if mask is not None:
        if mask.dim() > q.dim() or mask.dtype != q.dtype:
            return None
        blind = (mask == -torch.inf).all(-1, keepdim=True)
        if mask.device.type == "cpu":  # elsewhere asking would wait for the device
            if blind.any():
                return None
            blind = None
    return Read(scale, mask, causal and q.shape[-2] > 1, values, blind)


def _added(step: Step, taken: tuple[Any, ...], q: Tensor) -> Tensor | None:
    """What is added to the scores for a mask; None where that is not known to be the same."""
    if step.name == "add":
        return taken[0] if step.takes and isinstance(taken[0], Tensor) else None
    value, where = filling(step, taken), condition(step, taken)
    if type(value) not in (int, float) or value > _HIDES or where.dtype != torch.bool:
        return None
    where = where if step.name == "fill" else ~where
    # The least number of a wider dtype is none of q's.
    value = value if value == -torch.inf else max(value, torch.finfo(q.dtype).min)
    return torch.zeros(where.shape, dtype=q.dtype, device=q.device).masked_fill_(where, value)


def _is_causal(step: Step, taken: tuple[Any, ...], q: Tensor, keys: Tensor) -> bool:
    """Whether a mask that is cut from a buffer lets each query see the keys up to its own place."""
    if step.cut < 0 or filling(step, taken) != -torch.inf:
        return False
    buffer, rows, columns = taken[:3]
    queries, length = q.shape[-2], keys.shape[-1]
    # Both from the first on: the mask is as large as the scores.
    if rows.start not in (None, 0) or columns.start not in (None, 0) or queries != length:
        return False
    if not rows.stop == columns.stop == length <= buffer.shape[-1]:
        return False
    hides = "lower" if (step.name == "fill") == step.flips else "upper"
    return _triangle(buffer) == hides


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
    """Whether all are torch's own tensors of one dtype, in no transform. Autocast casts to one dtype before."""
    return (
        all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and len({tensor.dtype for tensor in tensors}) == 1
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
