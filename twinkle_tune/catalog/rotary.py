"""Rotary position embedding: functions of q, k, cos and sin that turn halves of each head against each other.

With the halves a, b of a head (or of its first part, as wide as cos): (a, b) * cos + (-b, a) * sin. For functions that
turn neighbouring columns against each other there is our own kernel alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.catalog import liger, op_calls, triton, triton_functions
from twinkle_tune.catalog.probe import generator, holds, random_like, same
from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

Rotate = Callable[[Tensor, Tensor, Tensor, Tensor, int], Any]
_TRAILING = {("unsqueeze_dim",): False, ("position_ids", "unsqueeze_dim"): True}
"""Names of the parameters after q, k, cos, sin; whether position_ids (long without use) is one."""


def is_rotary(parameters: list[inspect.Parameter]) -> bool:
    """Whether a function with these parameters is by its form a rotary embedding of q and k."""
    return [p.name for p in parameters[:4]] == ["q", "k", "cos", "sin"]


def contestants(function: Callable[..., Any], parameters: list[inspect.Parameter], device: str) -> list[Candidate]:
    """Candidates for a rotary function that turns halves, or neighbours; none where a probe finds neither."""
    trailing = tuple(p.name for p in parameters[4:])
    if trailing not in _TRAILING:
        return []
    takes_positions = _TRAILING[trailing]
    if not holds(lambda: turns(function, rotate)):
        return _of_neighbours(function, takes_positions, device)
    form = partial(as_function, takes_positions=takes_positions, narrow=holds(lambda: casts_back(function)))
    found = [
        Candidate(name="torch.rotary", source=ImplSource(kind="torch", impl=form(rotate))),
        Candidate(
            name="torch.rotary_inplace",
            source=ImplSource(kind="torch", impl=form(rotate_in_place)),
            modes=frozenset({Mode.INFERENCE}),
        ),
    ]
    if liger.offered(device):
        found.append(liger.candidate(form(rotate_by_liger)))
    if triton.offered(device):
        make = triton_functions.rotary(False, rotate, form)
        found.append(triton.candidate(make, "rope", call_of=op_calls.of_rope(False)))
    return found


def _of_neighbours(function: Callable[..., Any], takes_positions: bool, device: str) -> list[Candidate]:
    if not triton.offered(device) or not holds(lambda: turns(function, rotate_neighbours)):
        return []

    def original(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> Any:
        return function(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)

    form = partial(as_function, takes_positions=takes_positions)
    make = triton_functions.rotary(True, original, form)
    return [triton.candidate(make, "rope", call_of=op_calls.of_rope(True))]


def as_function(rotate: Rotate, takes_positions: bool, narrow: bool = False) -> Callable[..., Any]:
    """A function with the parameters of the original.

    Args:
        narrow: whether the results get the dtypes of q and k, where cos and sin are wider.
    """
    turn = _cast_back(rotate) if narrow else rotate
    if takes_positions:

        def with_positions(
            q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Any = None, unsqueeze_dim: int = 1
        ) -> Any:
            return turn(q, k, cos, sin, unsqueeze_dim)

        return with_positions

    def without_positions(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        return turn(q, k, cos, sin, unsqueeze_dim)

    return without_positions


def _cast_back(rotate: Rotate) -> Rotate:
    def cast(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
        turned_q, turned_k = rotate(q, k, cos, sin, unsqueeze_dim)
        return turned_q.to(q.dtype), turned_k.to(k.dtype)

    return cast


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
    """The minus moves from the heads to sin, which is smaller; left is a roll and a fused multiply-add."""
    half = sin.shape[-1] // 2
    signed_sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1).unsqueeze(unsqueeze_dim)
    cos = cos.unsqueeze(unsqueeze_dim)
    return _whole(q, cos, signed_sin, _rolled), _whole(k, cos, signed_sin, _rolled)


def rotate_in_place(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
    """As :func:`rotate`, each half added onto the product with cos; q and k themselves are only read.

    Where gradients are on, as :func:`rotate`.
    """
    if torch.is_grad_enabled():
        return rotate(q, k, cos, sin, unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _whole(q, cos, sin, _added), _whole(k, cos, sin, _added)


def rotate_by_liger(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> Any:
    """Liger's kernel, which knows one layout: heads (batch, heads, sequence, width)."""
    if unsqueeze_dim == 1 and q.dim() == 4:
        return liger.rotate(q, k, cos, sin)
    return rotate(q, k, cos, sin, unsqueeze_dim)


def rotate_neighbours(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
    """The same of columns 2i and 2i + 1: the formula that is looked for, no candidate."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    q_turned, k_turned = (torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) for x in (q, k))
    return q * cos + q_turned * sin, k * cos + k_turned * sin


def _whole(x: Tensor, cos: Tensor, sin: Tensor, turned: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    wide = cos.shape[-1]
    if wide == x.shape[-1]:
        return turned(x, cos, sin)
    return torch.cat((turned(x[..., :wide], cos, sin), x[..., wide:]), dim=-1)


def _rolled(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def _added(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return turned


def turns(function: Callable[..., Any], formula: Rotate) -> bool:
    """On q (1, 2, 3, 8), k (1, 1, 3, 8): whether it computes the formula, heads before sequence."""
    source = generator()
    q, k = random_like((1, 2, 3, 8), source), random_like((1, 1, 3, 8), source)
    cos, sin = random_like((1, 3, 8), source), random_like((1, 3, 8), source)
    given, expected = function(q.clone(), k.clone(), cos, sin), formula(q, k, cos, sin, 1)
    return isinstance(given, tuple) and len(given) == 2 and all(map(same, given, expected))


def casts_back(function: Callable[..., Any]) -> bool:
    """Whether q and k in bfloat16 stay so with cos and sin in float32."""
    source = generator()
    q, cos = random_like((1, 2, 3, 8), source).bfloat16(), random_like((1, 3, 8), source)
    given = function(q, q.clone(), cos, cos.clone())
    return [each.dtype for each in given] == [torch.bfloat16] * 2
