"""The calls of modules that come from outside of any module: what a script calls by itself.

``nn.Module.__call__`` is replaced once, while anybody listens, and put back once: to change it for each call would cost
far more than the calls. Nothing else is touched, no hook registered, no module marked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn
from torch.fx import Proxy
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

_function_modes: Callable[[], list[Any]] = _get_current_function_mode_stack
_plain: Callable[..., Any] = nn.Module.__call__


class Listens(Protocol):
    """Who is told of a call."""

    def called(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], None] | None:
        """A call of a module is about to begin.

        Returns:
            What is to be called when the module calls the first part of itself; None for nothing.
        """


class _Inside(threading.local):
    """Whether this thread is within a module's call, and who wants to look at the first call inside."""

    is_so = False
    looks: Callable[[], None] | None = None


_inside = _Inside()
_listeners: list[Listens] = []
_plain_register: Callable[..., None] = nn.Module.register_parameter
_expecting: list[Callable[[], None]] = []


def listen(listener: Listens) -> None:
    """Tell somebody of each outermost call from now on, in every thread of the process."""
    _listeners.append(listener)
    if nn.Module.__call__ is _plain:
        nn.Module.__call__ = _call  # type: ignore[method-assign]


def unlisten(listener: Listens) -> None:
    """Tell them no more; who is not told already is passed over. The last one leaves torch as it was."""
    if listener in _listeners:
        _listeners.remove(listener)
    # Where somebody else has replaced it meanwhile, theirs stays, and ours below it does nothing.
    if not _listeners and nn.Module.__call__ is _call:
        nn.Module.__call__ = _plain  # type: ignore[method-assign]


def expect_weights(told: Callable[[], None]) -> None:
    """Tell somebody of each parameter that a module gets from now on: a model is being built."""
    _expecting.append(told)
    if nn.Module.register_parameter is _plain_register:
        nn.Module.register_parameter = _register  # type: ignore[method-assign, assignment]


def expect_no_weights(told: Callable[[], None]) -> None:
    """Tell them no more. The last one leaves torch as it was."""
    if told in _expecting:
        _expecting.remove(told)
    if not _expecting and nn.Module.register_parameter is _register:
        nn.Module.register_parameter = _plain_register  # type: ignore[method-assign]


def _register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
    _plain_register(module, name, param)
    if not torch.compiler.is_compiling():
        for told in tuple(_expecting):
            told()


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if torch.compiler.is_compiling():
        return _plain(module, *args, **kwargs)
    if _inside.is_so:
        if _inside.looks is not None:
            looks, _inside.looks = _inside.looks, None
            looks()
        return _plain(module, *args, **kwargs)
    if not _listeners or is_apart(module, args, kwargs):
        return _plain(module, *args, **kwargs)
    _inside.is_so = True
    try:
        wanted = [listener.called(module, args, kwargs) for listener in tuple(_listeners)]
        _inside.looks = _all_of([each for each in wanted if each is not None])
        return _plain(module, *args, **kwargs)
    finally:
        _inside.is_so, _inside.looks = False, None


def _all_of(looks: list[Callable[[], None]]) -> Callable[[], None] | None:
    def all_look() -> None:
        for each in looks:
            each()

    return all_look if looks else None


def is_apart(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is none of a script's own: a backward runs a part again, something is traced, transformed or
    counted op by op, or the module is a copy that DataParallel made for one call.
    """
    return (
        torch._C._current_graph_task_id() != -1
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or any(not isinstance(mode, DeviceContext) for mode in _function_modes())
        or torch._C._functorch.peek_interpreter_stack() is not None
        or getattr(module, "_is_replica", False)
        or any(isinstance(value, Proxy) for value in (*args, *kwargs.values()))
    )
