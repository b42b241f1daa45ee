"""A call of a model that is as one before it: the short way to the way in which it runs.

A call of a small model takes a few milliseconds, after which the processor's caches are cold, and all that forms are
asked costs several times what it costs in a loop of its own. So of a call that differs in nothing but values from one
that was asked about, no form is asked again. It is looked whether its arguments are of the same names, kinds and sizes,
the model and the process as they were, and indices within the embedding.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from twinkle_tune.kernel.going import Case
from twinkle_tune.kernel.measured import casts_to
from twinkle_tune.kernel.setup_calls import Asked, are_between, indices_of, versions_of
from twinkle_tune.kernel.watched import Watched

_PLAIN = frozenset({bool, int, float, str, type(None)})


class Again:
    """A call that was asked about in full.

    Attributes:
        case: in which it ran.
    """

    __slots__ = (
        "_autocast", "_device", "_grad", "_indices", "_kinds", "_model", "_names", "_rows", "_training", "_watched",
        "case",
    )  # fmt: skip

    def __init__(
        self,
        model: nn.Module,
        watched: Watched,
        case: Case,
        asked: Asked,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        rows: int | None,
    ) -> None:
        """Of a call that may come again (:func:`again_of`), with arguments as of it."""
        self.case = case
        self._model, self._watched = weakref.ref(model), watched
        self._training, self._grad = model.training, torch.is_grad_enabled()
        values = (*kwargs.values(), *args)
        self._names, self._kinds = tuple(kwargs), _kinds_of(values)
        self._device = next((v.device.type for v in values if isinstance(v, Tensor)), "cpu")
        self._autocast = casts_to(self._device)
        found = () if rows is None else tuple(indices_of(asked.given))
        self._indices = [(i, least) for name, least in found for i, v in enumerate(values) if v is asked.given[name]]
        self._rows = rows or 0

    def goes_on(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[object, ...] | None:  # fmt: skip
        """The state before a call (:meth:`Asked.state`) that is as this one; None for any other call."""
        values = (*kwargs.values(), *args)
        if (
            self._model() is not model
            or tuple(kwargs) != self._names
            or _kinds_of(values) != self._kinds
            or model.training is not self._training
            or torch.is_grad_enabled() is not self._grad
            or torch.is_autocast_enabled(self._device) is not bool(self._autocast)
            or (self._autocast and casts_to(self._device) != self._autocast)
            or forward_ad._current_level >= 0
            or torch._C._are_functorch_transforms_active()
            or not self._watched.is_as_it_was()
            or not all(are_between(values[i], least, self._rows) for i, least in self._indices)
        ):
            return None
        return None, *versions_of(values)


def again_of(
    model: nn.Module,
    watched: Watched,
    cases: Sequence[Case],
    case: Case,
    asked: Asked,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    rows: int | None,
) -> Again | None:
    """What tells that a call comes again; None where more than sizes and plain values would have to be asked.

    Args:
        model: the model.
        watched: what it is made of.
        cases: of ways that may run.
        case: the one in which the call runs.
        asked: the call.
        args, kwargs: its arguments.
        rows: of the model's embedding; None where it has none.
    """
    state = None if case.form is None else case.form.state
    # With gradients on that nobody wants, each parameter would have to be asked.
    if asked.cached is not None or state is None or state.grad is not torch.is_grad_enabled():
        return None
    values = (*args, *kwargs.values())
    if not all(type(value) in _PLAIN or _is_dense(value) for value in values):
        return None
    if sum(map(_is_dense, values)) != sum(map(_is_dense, asked.given.values())):
        return None  # a name is given twice: the call is about to fail
    if any(each.way != case.way and _differ_in_gradients(each, case) for each in cases):
        return None
    found = Again(model, watched, case, asked, args, kwargs, rows)
    return found if torch.amp.is_autocast_available(found._device) else None


def _kinds_of(values: Iterable[Any]) -> list[tuple[object, ...]]:
    return [_kind_of(v) if type(v) is Tensor else (type(v), v) for v in values]


def _kind_of(value: Tensor) -> tuple[object, ...]:
    # One that is nested has no shape.
    return (Tensor, None) if value.is_nested else (Tensor, value.dtype, value.shape, value.device, value.layout)


def _is_dense(value: object) -> bool:
    """Whether a value is a tensor that has a shape."""
    return type(value) is Tensor and not value.is_nested


def _differ_in_gradients(other: Case, case: Case) -> bool:
    """Whether a call may be of both forms: by what the weights want, which is not looked at again."""
    return other.form is None or case.form is None or other.form.state.grad is not case.form.state.grad
