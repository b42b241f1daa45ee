"""torch.compile for one contestant alone: apart from all others, and counted."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch

from twinkle_tune.errors import TuneError
from twinkle_tune.source.inductor import Inductor

MOST_AGAIN = 8
"""Compilations anew at calls that are alike before we give up, as torch.compile does by default."""
MOST_BOUND = 64
"""Versions of one function in a bound model. Those of a prompt and of one token, with and without a mask, of one row
and of several, of one length and of any, are more than torch.compile's eight. Calls that were not shown make none."""
IN_CPP: dict[str, object] = {"cpp_wrapper": True}
"""Inductor's setting by which compiled code calls its kernels from C++; by default Python does, once a kernel."""
_numbers = itertools.count()
_takes_limit = "recompile_limit" in inspect.signature(torch.compile).parameters


class CompiledAnewError(TuneError):
    """A contestant is compiled again and again at calls that are alike."""


class Backend:
    """Inductor, for one contestant alone.

    Where it stands in for an original on a CPU, without gradients, its code calls kernels from C++ (:data:`IN_CPP`).

    torch.compile keeps compiled code by code object and compares the backend: where a graph breaks, the functions
    inside are compiled by themselves, and those the contestants share. An object of its own keeps them apart there
    too, and counts each one's graphs, which torch's own counters do not tell apart.

    Attributes:
        graphs: how many were made.
        options: inductor's settings that are other than its usual ones.
        held_bytes: of the device's memory that is reserved for them between calls, as far as it is known.
    """

    compiler_name = "inductor"

    def __init__(self, *, gives_up: bool, stands_in: bool = False, breaks: bool = True) -> None:
        """For one contestant.

        Args:
            gives_up: whether it raises where code is compiled again and again; else it then stays uncompiled.
            stands_in: whether it is in the place of an original that others call, so that its backward must be as the
                original's (:mod:`twinkle_tune.source.inductor`); else it is as the user's own torch.compile.
            breaks: whether a function may become several graphs, with code of Python's between them.
        """
        self.graphs = self.held_bytes = 0
        self.options: dict[str, object] = {}
        self.breaks = breaks
        self.most: int | None = None
        self._gives_up, self._stands_in = gives_up, stands_in

    @property
    def records(self) -> bool:
        """Whether what it makes is recorded in CUDA graphs, whose answers the next call overwrites."""
        return self.options.get("triton.cudagraphs") is True

    @property
    def is_bound(self) -> bool:
        """Whether it compiles for a user's model, where it is in the place of the original."""
        return self._stands_in and not self._gives_up

    def may_make(self) -> bool:
        """Count one more graph; whether it is to be made, or what it is of runs as it is."""
        self.graphs += 1
        if self.most is None or self.graphs <= self.most:
            return True
        if self._gives_up:
            raise CompiledAnewError(
                f"it was compiled anew {MOST_AGAIN} times at calls that are alike, expected once; torch.compile "
                "would run it uncompiled"
            )
        return False

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        """Compile one graph."""
        from torch._inductor.compile_fx import compile_fx

        if not self.may_make():
            return graph.forward
        made: Any = (
            self._made(graph, inputs) if self._stands_in else compile_fx(graph, inputs, **_patches(self.options))
        )
        return _Owned(made) if self.records else made

    def _made(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        if not torch.is_grad_enabled() and all(_is_on_cpu(value) for value in inputs):
            # Where inductor has no C++ for a function, say, what Python calls is the same code, or tells why not.
            with suppress(Exception):
                return Inductor(**_patches(IN_CPP | self.options))(graph, inputs)
        return Inductor(**_patches(self.options))(graph, inputs)


def _patches(options: Mapping[str, object]) -> dict[str, Any]:
    return {"config_patches": dict(options)} if options else {}


def _is_on_cpu(value: object) -> bool:
    return not isinstance(value, torch.Tensor) or value.device.type == "cpu"


class _Owned:
    """Compiled code whose answers are the caller's: copied, but for what is a part of its inputs."""

    def __init__(self, made: Callable[..., Any]) -> None:
        self._made = made

    def __call__(self, *args: Any) -> Any:
        outputs = self._made(*args)
        given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        return [
            out.clone() if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given else out
            for out in outputs
        ]


def compiled(call: Callable[..., Any], backend: Backend, dynamic: bool | None) -> Callable[..., Any]:
    """A call under torch.compile, apart from all others."""
    more: dict[str, Any] = {"recompile_limit": MOST_BOUND} if backend.is_bound and _takes_limit else {}
    made: Callable[..., Any] = torch.compile(
        renamed(call), backend=backend, dynamic=dynamic, fullgraph=not backend.breaks, **more
    )
    return made


def renamed(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own around a call, so that torch.compile keeps what it knows of the contestants apart.

    Compiled code is kept by code object; which sizes were seen to change, by the function's name and line.
    """

    def contestant(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    contestant.__code__ = contestant.__code__.replace(co_name=f"contestant_{next(_numbers)}")
    return contestant
