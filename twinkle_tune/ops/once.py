"""A backward that cannot be differentiated again, and says so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates the ``backward`` of an autograd function: whoever goes back through what it gave gets an error.

    torch's ``once_differentiable`` says nothing where the incoming gradients require no gradient, as at the end of a
    model: a loss gets plain ones, though what comes out depends on its inputs. The part of a gradient penalty that
    goes through the loss would be missing in silence.
    """

    @functools.wraps(backward)
    def once(ctx: Any, *gradients: Any) -> Any:
        if torch.compiler.is_compiling():  # torch.compile says so itself
            return backward(ctx, *gradients)
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():  # the usual case: no create_graph=True
            return found
        several = found if isinstance(found, tuple) else (found,)
        made = tuple(_ended(each) for each in several)
        return made if isinstance(found, tuple) else made[0]

    return once


def _ended(gradient: Any) -> Any:
    if not isinstance(gradient, Tensor):
        return gradient
    return _Ends.apply(gradient.detach().requires_grad_())  # type: ignore[no-untyped-call]


class _Ends(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(
            "a gradient of gradients: got create_graph=True through a kernel that can be differentiated once, expected "
            "one that can be twice; run the original for it (restore_model(model))"
        )
