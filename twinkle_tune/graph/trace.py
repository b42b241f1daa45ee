"""A module's forward as a graph of torch.fx, with its children as single nodes.

torch.fx's own tracer patches nn.Module for the whole process while it traces, and takes no forward with ``**kwargs``.
Here the class's forward runs on a twin of the module whose children are stand-ins that write down their calls: nothing
but the twin is touched. The graph is that of one form of calls (:mod:`twinkle_tune.graph.form`), so that what is None
and what is a plain value is known, and arguments by name are just more arguments.
"""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from twinkle_tune.errors import GraphError, in_a_line
from twinkle_tune.graph.form import Dims, Form, Given
from twinkle_tune.graph.names import Whole, methods_with_stand_ins, none_whole, with_stand_ins
from twinkle_tune.graph.process import check_asks_nothing, draws_nothing
from twinkle_tune.graph.sizes import length_of
from twinkle_tune.graph.watched import Read, Watched, is_watched, note, watching

_BOUND = frozenset({"forward", "_old_forward", "_twinkle_tune_binding"})
"""What of an instance its twin goes without: forwards that somebody bound to it."""

ITSELF = "__self__"
"""Target of a get_attr node that is the module itself."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traced:
    """A forward as a graph.

    Attributes:
        module: whose forward it is; call_module and get_attr nodes name its parts by their paths in it.
        graph: with a placeholder for each argument of the form, plain ones too.
        read: what its forward read beside tensors: the graph is for a module where it still stands so.
    """

    module: nn.Module
    graph: fx.Graph
    read: Read = field(default_factory=dict)


def trace(module: nn.Module, form: Form, whole: Whole = none_whole) -> Traced:
    """The forward of a module's class, for calls of one form. The module stays as it is.

    Args:
        whole: which functions that it calls are one node, looked up by their names at each call.

    Raises:
        GraphError: it cannot be one graph: it decides by values, sets attributes, or gives what a graph cannot give.
    """
    if isinstance(module, fx.GraphModule):
        return Traced(module=module, graph=module.graph)
    forward = type(module).forward
    graph = fx.Graph()
    tracer = _Tracer(graph)
    read: Read = {}
    twin, before = _twin(module, tracer, read, whole)
    tracer.twin = twin
    try:
        check_asks_nothing(forward, type(module))
        args, kwargs = _arguments(tracer, forward, form)
        with draws_nothing():
            graph.output(tracer.result(with_stand_ins(forward, whole)(twin, *args, **kwargs)))
    except Exception as error:  # whatever a stranger's code raises on stand-ins: there is no graph of it
        raise GraphError(_why_not(module, error)) from error
    for node in [n for n in graph.nodes if n.op == "get_attr" and not n.users]:
        graph.erase_node(node)
    if twin.__dict__.keys() != before.keys() or any(twin.__dict__[n] is not v for n, v in before.items()):
        raise GraphError(_cannot(module, "its forward sets attributes of the module"))
    return Traced(module=module, graph=graph, read=read)


def trace_function(function: Callable[..., Any]) -> Traced:
    """A function of tensors as a graph, each of its parameters a placeholder.

    Raises:
        GraphError: it cannot be one graph.
    """
    graph, name = fx.Graph(), getattr(function, "__qualname__", repr(function))
    tracer = _Tracer(graph)
    try:
        names = [p.name for p in required_of(function)]
        given = (tracer.create_proxy("placeholder", n, (), {}) for n in names)
        graph.output(tracer.result(with_stand_ins(function, none_whole)(*given)))
    except Exception as error:
        raise GraphError(f"{name}: cannot be one graph: {_where(error)}") from error
    return Traced(module=nn.Module(), graph=graph)


def required_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function that have no default.

    Raises:
        GraphError: it does not tell (a function of torch's that is written in C).
    """
    try:
        return [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    except ValueError as error:
        raise GraphError(f"{function}: it does not tell its parameters; write a function that calls it") from error


def _arguments(tracer: _Tracer, forward: Callable[..., Any], form: Form) -> tuple[list[Any], dict[str, Any]]:
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [*named[: len(form.args)], *(f"args_{i}" for i in range(len(form.args) - len(named)))]

    def made(name: str, value: Any) -> Any:
        proxy = tracer.create_proxy("placeholder", name, (), {})
        if isinstance(value, Dims):
            proxy.node.meta["dims"] = value.count
        return proxy if isinstance(value, (Given, Dims)) else value

    args = [made(name, value) for name, value in zip(names, form.args, strict=True)]
    return args, {name: made(name, value) for name, value in form.kwargs}


def _twin(module: nn.Module, tracer: _Tracer, read: Read, whole: Whole) -> tuple[Any, dict[str, Any]]:
    twin = object.__new__(watching(type(module), read, (_Proxy, _Stand, Watched)))
    stands = {n: None if child is None else _Stand(child, n, tracer, read) for n, child in module._modules.items()}
    own = {
        name: Watched(value, name, read) if is_watched(value) else value
        for name, value in module.__dict__.items()
        if name not in _BOUND
    }
    tensors = {
        kind: {n: None if t is None else tracer.attribute(n) for n, t in module.__dict__[kind].items()}
        for kind in ("_parameters", "_buffers")
    }
    twin.__dict__.update(own, _modules=stands, **tensors)
    twin.__dict__.update(methods_with_stand_ins(twin, type(module), whole))
    return twin, dict(twin.__dict__)


class _Proxy(fx.Proxy):
    """Raises where it is asked what it is: torch.fx's would be no tensor, and the forward would go another way."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise GraphError("it asks for the class of an argument, a parameter or a result")

    def __getattr__(self, name: str) -> Any:
        if name == "shape":  # torch.fx's own would forget what is known of it when it is iterated
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name)

    def __len__(self) -> int:
        length = length_of(self.node)
        return super().__len__() if length is None else length


_RESULTS = (_Proxy, bool, int, float, str, type(None))


class _Tracer(fx.proxy.GraphAppendingTracer):
    """Reads parameters and buffers by name; another tensor is none that a graph could hold.

    Attributes:
        twin: what the forward runs on; given to a function, it is the module itself.
    """

    twin: Any = None

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A node, as the forward gets it."""
        return _Proxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The items of a shape, or of a part of one, whose length is known by the form of the call."""
        length, items = length_of(obj.node), operator.getitem
        if length is None:
            return super().iter(obj)
        return iter([self.create_proxy("call_function", items, (obj, place), {}) for place in range(length)])

    def attribute(self, name: str) -> Any:
        """A parameter or buffer, by its path in the module."""
        return self.create_proxy("get_attr", name, (), {})

    def create_arg(self, a: Any) -> Any:
        """An argument of a node."""
        if type(a) is _Proxy:
            return a.node
        if a is self.twin and a is not None:
            return self.create_node("get_attr", ITSELF, (), {})
        if isinstance(a, Tensor):
            raise GraphError("it computes with a tensor that is neither given nor a parameter or buffer")
        return super().create_arg(a)

    def result(self, value: Any) -> Any:
        """What the forward gave, as the argument of the output node."""
        for part in _leaves(value):
            if type(part) not in _RESULTS and not isinstance(part, (fx.Proxy, Tensor)):
                raise GraphError(f"it gives a {type(part).__qualname__}")
        return self.create_arg(value)


def _leaves(value: Any) -> Iterator[Any]:
    if type(value) in (tuple, list):
        for item in value:
            yield from _leaves(item)
    elif type(value) is dict:
        yield from _leaves(list(value.values()))
    else:
        yield value


class _Stand:
    """In a child's place: its call is a node, its parts are stand-ins too, and what else is asked of it is noted."""

    def __init__(self, child: Any, path: str, tracer: _Tracer, read: Read) -> None:
        self._child, self._path, self._tracer, self._read = child, path, tracer, read

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.create_proxy("call_module", self._path, args, kwargs)

    def _part(self, child: Any, name: object) -> Any:
        return _Stand(child, f"{self._path}.{name}", self._tracer, self._read)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._child, name)
        if isinstance(value, nn.Module):
            return self._part(value, name)
        if isinstance(value, Tensor) and (name in self._child._parameters or name in self._child._buffers):
            return self._tracer.attribute(f"{self._path}.{name}")
        if is_watched(value):
            return Watched(value, f"{self._path}.{name}", self._read)
        note(self._read, self._path, name, value)
        return value

    def __getitem__(self, index: Any) -> Any:
        return self._part(self._child[index], index)

    def __iter__(self) -> Iterator[Any]:
        return (self._part(child, name) for name, child in self._child.named_children())

    def __len__(self) -> int:
        return len(self._child)


def _cannot(module: nn.Module, why: str) -> str:
    return f"{type(module).__qualname__}: cannot be one graph: {why}"


def _why_not(module: nn.Module, error: Exception) -> str:
    return _cannot(module, str(error) if isinstance(error, GraphError) else _where(error))


def _where(error: Exception) -> str:
    """The error, and the line of the traced code that it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    ours = [f for f in frames if f.filename != __file__]
    place = f" (line {ours[-1].lineno} of {ours[-1].filename.rpartition('/')[2]}: {ours[-1].line})" if ours else ""
    return f"{in_a_line(error, 160)}{place}"
