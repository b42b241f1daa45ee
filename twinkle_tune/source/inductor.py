"""Inductor for a layer or function that stands among others: what it compiles can be differentiated as the original.

What torch.compile makes for training gives its buffers away in the backward, and so forbids ``retain_graph=True``, and
it has no second derivative. Who calls a layer's ``backward`` is the user's code, which asks nobody what is bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_COMPILED = "CompiledFunctionBackward"


class Inductor:
    """A backend of torch.compile. Buffers are not given away; with ``create_graph=True`` the original is run again."""

    compiler_name = "inductor"

    def __init__(self, **more: Any) -> None:
        """``more`` goes to inductor's ``compile_fx``."""
        self._more = more

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Compile one graph."""
        import torch._functorch.config as settings
        from torch._inductor.compile_fx import compile_fx

        made: Any
        if not torch.is_grad_enabled():
            made = compile_fx(graph, inputs, **self._more)
            return made  # type: ignore[no-any-return]
        # Asked when code is made, never when it runs: the user's own torch.compile keeps what it is set to.
        with settings.patch(donated_buffer=False):
            made = compile_fx(graph, inputs, **self._more)
        return _Twice(graph, made)


class _Twice:
    """A compiled graph whose backward, where it is to be differentiated itself, is the eager graph's."""

    def __init__(self, graph: torch.fx.GraphModule, compiled: Callable[..., Any]) -> None:
        self._graph, self._compiled = graph, compiled
        self._is_plain = self._is_told = False
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        devices = {"cpu", "cpu" if accelerator is None else accelerator.type}
        self._casts = [(d, torch.get_autocast_dtype(d)) for d in devices if torch.is_autocast_enabled(d)]

    def __call__(self, *args: Any) -> Any:
        if self._is_plain:
            return self._graph(*args)
        versions = None if self._is_told else _versions(args)
        outputs = self._compiled(*args)
        found = [(i, out) for i, out in enumerate(outputs) if isinstance(out, Tensor) and out.grad_fn is not None]
        if not found:
            return outputs
        node: Any = found[0][1].grad_fn
        if node.name() != _COMPILED or any(out.grad_fn is not node for _, out in found):
            # A view of what was compiled: which of its gradients is whose cannot be told.
            self._is_plain = True
            # What the call wrote (running statistics) is written once: then its outputs are those of compiled code.
            return self._graph(*args) if _versions(args) == versions else outputs
        if not self._is_told:
            _tell_nothing_is_given_away(node)
            self._is_told = True
        places = [(i, out.output_nr) for i, out in found]
        node.register_hook(_Hook(self, args, places))
        return outputs

    def gradients(
        self, args: Sequence[Any], places: Sequence[tuple[int, int]], incoming: Sequence[Tensor | None], node: Any
    ) -> list[Tensor | None]:
        """The gradients that the compiled backward's node owes its inputs, by the eager graph, differentiable."""
        edges: dict[tuple[Any, int], Tensor] = {}
        for arg in args:
            if isinstance(arg, Tensor) and arg.requires_grad:
                edge = torch.autograd.graph.get_gradient_edge(arg)
                edges[edge.node, edge.output_nr] = arg
        owed = [edges.get((function, number)) for function, number in node.next_functions]
        wanted = list({id(arg): arg for arg in owed if arg is not None}.values())
        with torch.enable_grad(), self._as_traced():
            outputs = self._graph(*args)
        given = [(outputs[i], incoming[number]) for i, number in places if incoming[number] is not None]
        made = torch.autograd.grad(
            [out for out, _ in given],
            wanted,
            [gradient for _, gradient in given],
            create_graph=True,
            allow_unused=True,
        )
        by_arg = {id(arg): gradient for arg, gradient in zip(wanted, made, strict=True)}
        return [None if arg is None else by_arg[id(arg)] for arg in owed]

    @contextlib.contextmanager
    def _as_traced(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for device, dtype in self._casts:
                stack.enter_context(torch.autocast(device, dtype=dtype))
            yield


def _versions(args: Sequence[Any]) -> list[int]:
    return [arg._version for arg in args if isinstance(arg, Tensor)]


def _tell_nothing_is_given_away(node: Any) -> None:
    # Made without, torch notes None, and takes that for buffers that are given away when it asks at the backward.
    noted = getattr(getattr(type(node), "_forward_cls", None), "metadata", None)
    if noted is not None and getattr(noted, "bw_donated_idxs", ()) is None:
        noted.bw_donated_idxs = []


class _Hook:
    """Runs after the compiled backward of one call; keeps its arguments as long as that may run."""

    __slots__ = ("_args", "_places", "_run", "_versions")

    def __init__(self, run: _Twice, args: Sequence[Any], places: Sequence[tuple[int, int]]) -> None:
        self._run, self._args, self._places = run, args, places
        self._versions = _versions(args)

    def __call__(self, made: Sequence[Tensor | None], incoming: Sequence[Tensor | None]) -> Any:
        if not torch.is_grad_enabled():
            if not torch._C._autograd._get_current_graph_task_keep_graph():
                self._args = ()
            return None
        if self._versions != _versions(self._args):
            raise RuntimeError(
                "an input of a compiled layer was modified by an inplace operation before a backward with "
                "create_graph=True; modify a copy of it"
            )
        node = torch._C._current_autograd_node()
        gradients = self._run.gradients(self._args, self._places, incoming, node)
        return tuple(was if new is None else new for was, new in zip(made, gradients, strict=True))
