"""The model's forward captured in device graphs, one for each shape, and replayed: no launch costs the host time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from twinkle_tune.call.device_graph import DeviceGraphError
from twinkle_tune.strategy.backend import MOST_AGAIN, Backend
from twinkle_tune.strategy.base import Call, Running
from twinkle_tune.strategy.graphed import Graphed, Parted, Watched, parted, put_back
from twinkle_tune.strategy.held import Held
from twinkle_tune.strategy.on_cuda import why_not_on_cuda

_MOVED = (
    f"in {MOST_AGAIN} calls in a row what it was given held other memory afterwards, or counted in Python: a cache "
    "that grows; a replay writes where it was captured, as into a static cache"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGraphs:
    """The model's forward as a CUDA graph for each shape of a call, without gradients.

    Nothing is traced: what runs inside (originals, or kernels) runs as it is while it is captured.
    """

    name: str = "device graphs"
    instead_of: str = ""
    after: str = ""
    traces_all: bool = False

    def why_not(self, model: nn.Module, *, trains: bool) -> str:
        """As :meth:`Strategy.why_not`: they are of a CUDA device, on which all of the model must be."""
        return why_not_on_cuda(model) or ("a graph that is replayed has no backward" if trains else "")

    def running(self, model: nn.Module, backend: Backend, traced: Callable[[Call], Call]) -> Running:
        """As :meth:`Strategy.running`; ``backend`` counts the graphs."""
        return Running(root=_Root(type(model).forward, backend))


@dataclass(slots=True)
class _Captured:
    """What was captured of one model.

    Attributes:
        device: that it is on.
        held: what it held when that began.
        graphs: by the key of a call.
        why_not: why it has no graph any more; "" where it may.
        begun: how often it was begun, for the model was another than before.
        moved: calls in a row after which an object that they were given was not what it was.
    """

    device: torch.device
    held: Held
    graphs: dict[Any, Graphed] = field(default_factory=dict)
    why_not: str = ""
    begun: int = 1
    moved: int = 0


class _Root:
    """The forward: a replay, or what captures one. It holds no model."""

    def __init__(self, original: Call, backend: Backend) -> None:
        self._original, self._backend = original, backend
        self._of: weakref.WeakKeyDictionary[nn.Module, _Captured] = weakref.WeakKeyDictionary()

    def __call__(self, model: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            raise DeviceGraphError("gradients are on: a graph that is replayed has no backward")
        if torch.cuda.is_current_stream_capturing() or torch._C._len_torch_dispatch_stack():
            return self._original(model, *args, **kwargs)  # somebody captures, or counts, what it runs
        own = self._own(model)
        call = parted(args, kwargs, own.device)
        if why_not := own.why_not or call.why_not:
            raise DeviceGraphError(why_not)
        graph = own.graphs.get(call.key)
        if graph is not None and not graph.is_for(call):
            del own.graphs[call.key]
            graph = None
        return self._first(model, own, call) if graph is None else graph(call)

    def _own(self, model: nn.Module) -> _Captured:
        own = self._of.get(model)
        if own is not None and (own.why_not or own.held.is_same()):
            return own
        begun = 1 if own is None else own.begun + 1
        if own is not None:
            own.graphs.clear()
        first = next(chain(model.parameters(), model.buffers()))
        own = self._of[model] = _Captured(device=first.device, held=Held(model), begun=begun)
        if begun > MOST_AGAIN:
            own.why_not = f"the model was another than before {MOST_AGAIN} times: each time all is captured anew"
        return own

    def _first(self, model: nn.Module, own: _Captured, call: Parted) -> Any:
        """The first call of a shape: watched, captured, and answered by the graph."""
        run = partial(self._original, model)
        watched = Watched(run, own.held, call, own.device)
        own.moved = own.moved + 1 if watched.moved else 0
        why_not = watched.why_not or (_MOVED if own.moved >= MOST_AGAIN else "")
        if why_not:
            own.why_not = why_not  # said at the next call: this one is over, and answered
            own.graphs.clear()
        if why_not or watched.moved or not self._backend.may_make():
            return watched.answer
        put_back(watched.before)
        made = Graphed(run, own.held, call, own.device, watched.before)
        for each in call.objects:
            weakref.finalize(each, own.graphs.pop, call.key, None).atexit = False
        self._backend.held_bytes += made.held_bytes
        own.graphs[call.key] = made
        return made(call)
