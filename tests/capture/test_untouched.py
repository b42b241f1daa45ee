"""A run leaves no trace in a model: whatever kind of state a forward changes, it is put back, bit by bit."""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from tests.capture.trace import trace_of
from twinkle_tune.call.drawn import random_kept
from twinkle_tune.capture.step import make_steps
from twinkle_tune.capture.untouched import left_as_found
from twinkle_tune.mode import Mode


class Stateful(nn.Module):
    """A layer whose forward changes something of it."""

    def __init__(self, change: Callable[[Any], object], **attributes: object) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.change = [change]  # no attribute of its own: it is code
        self.register_buffer("table", torch.arange(4.0))
        self.codebook = nn.Parameter(torch.ones(4), requires_grad=False)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to (rows, 4)."""
        self.change[0](self)
        table: Any = self.table
        return self.linear(x) + self.codebook + table[:4]  # type: ignore[no-any-return]


def grows(m: Any) -> None:
    """A rotary table of remote code: the number beside the buffer says how long it is."""
    m.seen += 6
    m.table = torch.arange(4.0 + m.seen)


def quantised() -> Tensor:
    """A weight of whole numbers."""
    return torch.quantize_per_tensor(torch.arange(4.0), 0.5, 0, torch.qint8)


STATE: dict[str, tuple[Callable[[Any], object], dict[str, object]]] = {
    "a buffer": (lambda m: m.table.add_(1), {}),
    "a buffer by its data": (lambda m: m.table.data.add_(1), {}),
    "a replaced buffer": (lambda m: setattr(m, "table", m.table + 1), {}),
    "a table that grows": (grows, {"seen": 0}),
    "a parameter without gradient": (lambda m: m.codebook.data.mul_(0.9), {}),
    "exchanged memory": (lambda m: setattr(m.codebook, "data", torch.zeros(4)), {}),
    "a weight that is clamped": (lambda m: m.linear.weight.data.clamp_(max=0.0), {}),
    "minus zero": (lambda m: m.codebook.data.mul_(-0.0), {"codebook": nn.Parameter(torch.zeros(4), False)}),
    "a number": (lambda m: setattr(m, "calls", m.calls + 1), {"calls": 1000}),
    "a float, a bool, a text": (
        lambda m: m.__dict__.update(a=m.a * 0.5, b=not m.b, c=m.c + "x"),
        {"a": 1.5, "b": True, "c": "x"},
    ),
    "None that is filled": (lambda m: setattr(m, "cache", torch.ones(3)), {"cache": None}),
    "a new attribute": (lambda m: setattr(m, "made", torch.ones(3)), {}),
    "a new buffer": (lambda m: m.register_buffer("made", torch.ones(3)), {}),
    "a new module": (lambda m: m.add_module("late", nn.Linear(2, 2)), {}),
    "a dropped attribute": (lambda m: m.__dict__.pop("once", None), {"once": 3}),
    "a tensor that is no buffer": (lambda m: m.ema.mul_(0.9), {"ema": torch.ones(4)}),
    "a 0-d tensor": (lambda m: m.step.add_(1), {"step": torch.tensor(0)}),
    "a list": (lambda m: m.losses.append(torch.ones(1)), {"losses": [1.0]}),
    "nested containers": (lambda m: m.log["x"][0].append(m.log["n"]), {"log": {"x": ([1], 2), "n": 3}}),
    "an ordered window": (lambda m: m.window.append(1), {"window": deque([0, 0], maxlen=2)}),
    "a set": (lambda m: m.seen.add(len(m.seen)), {"seen": {0}}),
    "the order of keys": (lambda m: m.lru.update({"a": m.lru.pop("a")}), {"lru": {"a": 1, "b": 2}}),
    "an ordered dictionary": (
        lambda m: (m.lru.move_to_end("a"), m.lru.pop("b", None), m.lru.update(c=3)),
        {"lru": OrderedDict(a=1, b=2)},
    ),
    "an object of its own": (lambda m: m.state.__dict__.update(n=m.state.n + 1), {"state": SimpleNamespace(n=1)}),
    "an array": (lambda m: m.counts.__iadd__(1), {"counts": numpy.zeros(3)}),
    "a generator": (lambda m: torch.rand(1, generator=m.chance), {"chance": torch.Generator().manual_seed(3)}),
    "Python's generator": (lambda m: m.chance.random(), {"chance": random.Random(3)}),
    "numpy's generator": (lambda m: m.chance.random(), {"chance": numpy.random.default_rng(3)}),
    "sparse values": (lambda m: m.sparse.values().mul_(2), {"sparse": torch.eye(3).to_sparse_csr()}),
    "a tensor in a tensor": (lambda m: m.table.note.append(1), {}),
    "whether it takes a gradient": (lambda m: m.linear.bias.requires_grad_(False), {}),
}  # fmt: skip


def model_with(kind: str) -> nn.Module:
    """Two of the layers in a row, one of them tied."""
    torch.manual_seed(0)
    change, attributes = STATE[kind]
    layer = Stateful(change, **attributes)
    table: Any = layer.table
    table.note = []
    return nn.Sequential(layer, nn.Linear(4, 4))


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
@pytest.mark.parametrize("kind", STATE)
def test_a_step_leaves_no_trace(kind: str, mode: Mode) -> None:
    """Everything that can be reached from the model is after each of three runs what it was, to the bit."""
    model = model_with(kind).train(mode.trains)
    model[1].weight.grad = torch.ones(4, 4)  # type: ignore[index]
    before = trace_of(model)
    (step,) = make_steps(model, torch.ones(2, 4), mode, "cpu")
    for _ in range(3):
        step.run(model)
        assert trace_of(model) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", STATE)
def test_nothing_is_left_after_an_error(kind: str, error: type[BaseException]) -> None:
    """An error, or Ctrl-C, in the middle of anything leaves no trace either."""
    model = model_with(kind)
    before = trace_of(model)
    with contextlib.suppress(error), left_as_found(model):
        model(torch.ones(2, 4))
        raise error
    assert trace_of(model) == before


@pytest.mark.parametrize("kind", STATE)
def test_the_kinds_leave_a_trace(kind: str) -> None:
    """A run that nobody looks after changes each of these: what is compared sees it."""
    model = model_with(kind)
    before = trace_of(model)
    model(torch.ones(2, 4))
    assert trace_of(model) != before


def test_hooks_that_step_an_optimizer_do_not_run() -> None:
    """An optimizer in the backward takes no step in a training step of ours, and is there afterwards."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    steps: list[int] = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: steps.append(1))  # type: ignore[no-untyped-call]
    before = trace_of(model)
    (step,) = make_steps(model, torch.ones(2, 4), Mode.TRAIN, "cpu")
    step.run(model)
    assert not steps
    assert trace_of(model) == before
    model(torch.ones(2, 4)).sum().backward()
    assert len(steps) == 4


def test_every_stream_of_random_numbers_goes_on() -> None:
    """torch's, Python's and numpy's generators are where they were, also after an error."""
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), str(numpy.random.get_state())
    with contextlib.suppress(ZeroDivisionError), random_kept():
        torch.rand(3), random.random(), numpy.random.rand(3)
        raise ZeroDivisionError
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(numpy.random.get_state()))
