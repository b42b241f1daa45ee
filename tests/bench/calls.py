"""What a call through a bound forward costs: against the original's call, with the same code behind both."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor, nn

from tests.bench.figure import Figure
from twinkle_tune.kernel.dispatch import Choice, Rule, family_of, tensor_dispatcher
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.kernel.forward import Winner
from twinkle_tune.kernel.measured import Measured
from twinkle_tune.kernel.owner import Owner, running
from twinkle_tune.kernel.patch import Binding, bind_forward, restore_forward
from twinkle_tune.kernel.setup_calls import call_of
from twinkle_tune.kernel.setups import WayIn, way_layers
from twinkle_tune.profile.setup import Setup
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.strategy.base import Call, Running
from twinkle_tune.workload import observe

_BINDING = Binding(slot="s", path="", candidate="c", rows="all")


class _Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class _Parts(nn.Module):
    """A layer with the submodules of a gated MLP, which does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(8, 8) for _ in range(3))
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return x


class _Deep(nn.Module):
    """The modules of a decoder of 28 layers, 423 of them; they do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        self.layers = nn.ModuleList(nn.ModuleList(nn.Identity() for _ in range(14)) for _ in range(28))

    def forward(self, ids: Tensor) -> Tensor:
        return ids

    def get_input_embeddings(self) -> nn.Module:
        return self.embed


@dataclass(frozen=True)
class _AsItIs:
    """A way of running a model that is the model's own."""

    name: str = "as it is"
    instead_of: str = ""
    after: str = ""
    traces_all: bool = False

    def why_not(self, model: nn.Module, *, trains: bool) -> str:
        return ""

    def running(self, model: nn.Module, backend: Backend, traced: Callable[[Call], Call]) -> Running:
        return Running(root=type(model).forward)


def way_cost() -> Figure:
    """A model of 423 modules in a way, at a call for which the way is shown, with the original behind it."""
    return _way("a way of running a model of 423 modules, per call", torch.zeros(1, 1, dtype=torch.int64), goal=100_000)


def no_way_cost() -> Figure:
    """The same at a call for which no way is shown, which the original answers."""
    ids = torch.zeros(1, 7, dtype=torch.int64)
    return _way("a call of that model for which no way is shown, per call", ids, goal=10_000)


def _way(name: str, ids: Tensor, goal: float) -> Figure:
    bound, original = _Deep().eval(), _Deep().eval()
    with torch.no_grad():
        shown = call_of(bound, (torch.zeros(1, 1, dtype=torch.int64),), {})
        setups = [Setup(label="forward", way="as it is", calls=(shown,), model="")]
        way = WayIn(strategy=_AsItIs(), backend=Backend(gives_up=False, stands_in=True), setups=setups, kernels=True)
        (layer,) = way_layers(bound, [way])
        bind_forward(*layer)
        samples = _paired_ns(lambda: bound(ids), lambda: original(ids))
    restore_forward(bound)
    return Figure(name=name, unit="ns", samples=samples, goal=goal)


def straight_cost() -> Figure:
    """A layer with a registered kernel, which is for every call, against its original.

    The goal was 20 ns when the module's own method was bound. Such a module would be freed by the cyclic collector
    alone; what is left is a weak reference that is asked, and a frame of Python's around the kernel.
    """
    return _layer("a registered kernel, per call", _Nothing, _Nothing.forward, goal=100)


def measured_cost() -> Figure:
    """A layer with a profile's winner, for one dtype, gradients off and autocast off, against its original.

    Not the 20 ns of once: what torch takes to answer the three questions (the figure below) is a multiple of that by
    itself. The goal is that figure, measured in the same minute, and what a registered kernel may cost.
    """
    asked = questions_cost().median
    figure = _layer("a profile's single winner, per call", _Nothing, _measured(_Nothing()))
    return replace(figure, goal=round(asked + 100))


def questions_cost() -> Figure:
    """What torch takes to say whether gradients are on, whether autocast is, and a tensor's dtype: nothing bound."""
    x = torch.zeros(4, 8)
    asked, empty = _questions(x), _empty(x)
    return Figure(
        name="the three questions to torch that a profile's winner asks (gradients, autocast, dtype), by themselves",
        unit="ns",
        samples=_paired_ns(asked, empty),
    )


def guarded_cost() -> Figure:
    """A profile's winner of a layer with four submodules, which are looked at in each call, against its original."""
    name = "a profile's winner of a layer with four submodules, per call"
    return _layer(name, _Parts, _measured(_Parts()), goal=1000)


def layer_dispatch_cost() -> Figure:
    """A layer that dispatches by row count, over three measured ranges, against its original."""
    first, second, third = (Choice(candidate=name) for name in "abc")
    ranges = ((1, 1, first), (16, 128, second), (512, 2048, third))
    rules = [Rule(low=low, high=high, winner=winner) for low, high, winner in ranges]
    calls = dict.fromkeys((first, second, third), _Nothing.forward)
    call = tensor_dispatcher(rules, calls, _Nothing.forward)
    return _layer("a layer's shape dispatcher, per call", _Nothing, _measured(_Nothing(), call), rows=1024, goal=1000)


def function_dispatch_cost() -> Figure:
    """A model's function slot with a rotary's four tensors, by family and row count, against the function itself."""

    def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return q

    args = (torch.zeros(1, 4, 16, 8), torch.zeros(1, 2, 16, 8), torch.zeros(1, 16, 8), torch.zeros(1, 16, 8))
    found = family_of(observe("bench:rotary", args, {}), "cpu")
    assert found is not None
    family = replace(found, steps=((1, 1, rotary), (64, 4096, rotary)))
    model = _Nothing()
    owner = Owner(model)
    dispatch = function_dispatcher([family], rotary, owner=owner, others=_nobody_else)
    token = running.set(owner)
    try:
        with torch.no_grad():
            samples = _paired_ns(lambda: dispatch(*args), lambda: rotary(*args))
    finally:
        running.reset(token)
    return Figure(name="a function's dispatcher (4 tensors), per call", unit="ns", samples=samples, goal=1000)


def norm_share() -> Figure:
    """An RMSNorm of a tiny model on one row, its own forward bound as a profile's winner, over the unbound layer."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    bound, original, x = Qwen3RMSNorm(64), Qwen3RMSNorm(64), torch.randn(1, 1, 64)
    bind_forward(bound, _measured(original, x=x), _BINDING)
    with torch.no_grad():
        assert torch.equal(bound(x), original(x))
        pairs = _paired_blocks(lambda: bound(x), lambda: original(x), calls=2000, rounds=31)
    return Figure(
        name="an RMSNorm of a tiny model on 1 row with itself bound as the winner, over the unbound layer",
        unit="of its time", samples=tuple(mine / its for mine, its in pairs), goal=1.1,
    )  # fmt: skip


def _nobody_else(*_: object) -> object:
    raise AssertionError("the call is the owner's")


def _measured(layer: nn.Module, call: Callable[..., object] | None = None, x: Tensor | None = None) -> Winner:
    """A call, or the layer's own forward, as a profile's winner on one tensor with gradients and autocast off."""
    with torch.no_grad():
        workload = observe("bench:layer", (torch.zeros(4, 8) if x is None else x,), {})
    return Winner((call or type(layer).forward, Measured.of([workload], layer)))


def _layer(
    name: str, kind: type[nn.Module], call: Callable[..., object], rows: int = 4, goal: float | None = None
) -> Figure:
    bound, original, x = kind(), kind(), torch.zeros(1, rows, 8)
    bind_forward(bound, call, _BINDING)
    with torch.no_grad():
        samples = _paired_ns(lambda: bound(x), lambda: original(x))
    restore_forward(bound)
    return Figure(name=name, unit="ns", samples=samples, goal=goal)


def _questions(x: Tensor) -> Callable[[], object]:
    gradients_are_on, autocast_is_on = torch.is_grad_enabled, torch._C._is_any_autocast_enabled
    dtype = x.dtype
    return lambda: x.dtype is dtype and not gradients_are_on() and not autocast_is_on()


def _empty(x: Tensor) -> Callable[[], object]:
    return lambda: x


def _paired_ns(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, ...]:
    """What ``one`` takes longer than ``other``, nanoseconds a call; the medians of many short blocks, nine times.

    A block of some 100 µs is short enough to fall between what else the machine does.
    """
    nine = [_paired_blocks(one, other, calls=200, rounds=201) for _ in range(9)]
    return tuple(median(mine - its for mine, its in pairs) for pairs in nine)


def _paired_blocks(
    one: Callable[[], object], other: Callable[[], object], *, calls: int, rounds: int
) -> list[tuple[float, float]]:
    """Nanoseconds a call of both; blocks in random order, paired by round."""
    chance = random.Random(0)

    def block_ns(call: Callable[[], object]) -> float:
        began = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return (time.perf_counter_ns() - began) / calls

    block_ns(one), block_ns(other)
    pairs = []
    gc.disable()
    try:
        for _ in range(rounds):
            times = {id(call): block_ns(call) for call in chance.sample((one, other), 2)}
            pairs.append((times[id(one)], times[id(other)]))
    finally:
        gc.enable()
    return pairs
