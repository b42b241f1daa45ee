"""A generation that goes on: the short way to the way in which its next step runs.

A generation asks once a token, beside a step that leaves the processor's caches cold, where all that forms are asked
costs four times what it costs in a loop of its own. So where a cache that was asked about comes back, longer, no more
is looked at than what compiled code does not look at itself. Its own guards see another module, size or dtype and
compile anew, which is right, if slow; the next generation is asked in full again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from twinkle_tune.kernel.generation import Generation, beginning
from twinkle_tune.kernel.setup_calls import CACHE, Asked, Form, are_between, indices_of, versions_of
from twinkle_tune.kernel.watched import Watched
from twinkle_tune.strategy.backend import Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A way, and the form of the calls for which it runs; None for every call.

    Attributes:
        call: the forward.
        way: its name.
        steps_aside: whether kernels that are bound inside give way to the originals.
        form: as said.
        cache: the cache that generations have in it; "" for the one that they make by themselves. Else only a call that
            begins one is of the form.
        most: with such a cache, tokens of the longest generation that was shown.
        backend: compiles, or captures, what runs.
    """

    call: Callable[..., Any]
    way: str
    steps_aside: bool
    form: Form | None
    cache: str = ""
    most: int = 0
    backend: Backend | None = None

    def fits(self, model: nn.Module, asked: Asked) -> bool:
        if self.cache and (asked.cached != 0 or "input_ids" not in asked.given or self.begins(model) is None):
            return False
        return self.form is None or self.form.fits(model, asked)

    def begins(self, model: nn.Module) -> Generation | None:
        """The generation that a call begins on a cache of this way; None where it is no such call."""
        found = beginning(model)
        if found is None or self.form is None:
            return found
        return None if found.gives_cache or found.tokens > self.most else found


class Going:
    """A generation one of whose steps was asked about in full.

    Attributes:
        case: in which its steps run.
    """

    __slots__ = ("_bounds", "_cache", "_grad", "_indices", "_model", "_names", "_rows", "_types", "_watched", "case")

    def __init__(
        self,
        model: nn.Module,
        watched: Watched,
        case: Case,
        kwargs: Mapping[str, Any],
        bounds: tuple[int, int],
        indices: Sequence[tuple[str, int]],
        rows: int,
    ) -> None:
        """Of a step.

        Args:
            model: that ran it.
            watched: what the model is made of.
            case: in which it ran.
            kwargs: its arguments.
            bounds: how many tokens its cache holds, and may hold.
            indices: names of arguments that are indices of an embedding, and the least index that is right.
            rows: of the embedding.
        """
        self.case = case
        self._model, self._watched = weakref.ref(model), watched
        self._names, self._types = tuple(kwargs), tuple(map(type, kwargs.values()))
        self._grad = torch.is_grad_enabled()
        self._cache, self._bounds = weakref.ref(kwargs[CACHE]), bounds
        self._indices, self._rows = [(name, kwargs[name].shape, least) for name, least in indices], rows

    def goes_on(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[object, ...] | None:  # fmt: skip
        """The state before a call (:meth:`Asked.state`) that is its next step; None for any other call."""
        cache: Any = self._cache()
        if (
            args
            or kwargs.get(CACHE) is not cache
            or cache is None
            or self._model() is not model
            or tuple(kwargs) != self._names
            or tuple(map(type, kwargs.values())) != self._types
            or model.training
            or torch.is_grad_enabled() is not self._grad
            or forward_ad._current_level >= 0
            or self._watched.has_hooks()
            or not self._watched.has_its_forwards()
        ):
            return None
        cached, (last, most) = int(cache.get_seq_length()), self._bounds
        if not last < cached <= most:
            return None
        for name, shape, least in self._indices:
            indices = kwargs[name]
            if indices.shape != shape or not are_between(indices, least, self._rows):
                return None
        self._bounds = cached, most
        return cached, *versions_of(kwargs.values())


def going_of(
    model: nn.Module,
    watched: Watched,
    cases: Sequence[Case],
    case: Case,
    asked: Asked,
    kwargs: Mapping[str, Any],
    rows: int | None,
) -> Going | None:
    """What a step begins, or goes on with; None where the next one will have to be asked in full.

    Args:
        model: the model.
        watched: what it is made of.
        cases: of ways that may run.
        case: the one in which the step runs.
        asked: the step.
        kwargs: its arguments by name.
        rows: of the model's embedding; None where it has none.
    """
    if asked.cached is None or case.form is None or case.form.cached is None or model.training:
        return None
    tensors = [value for value in asked.given.values() if isinstance(value, Tensor)]
    if (
        not asked.given.keys() <= kwargs.keys()  # by position, or apart
        or any(type(tensor) is not Tensor for tensor in tensors)
        or not hasattr(kwargs[CACHE], "__weakref__")
    ):
        return None
    alike = (c.form for c in cases if c.way != case.way and c.form is not None and c.form.is_alike(model, asked))
    begins = [form.cached[0] - 1 for form in alike if form.cached is not None and form.cached[0] > asked.cached]
    bounds = asked.cached, min((case.form.cached[1], *begins))
    indices = () if rows is None else tuple(indices_of(asked.given))
    return Going(model, watched, case, kwargs, bounds, indices, rows or 0)
