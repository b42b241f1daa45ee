"""A function is the whole process's, its winner one model's: who feels it, also in threads and in the backward."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.kernel.toys import function_contest, function_registry, profile
from twinkle_tune import kernelize_model, kernelize_report, restore_model
from twinkle_tune.catalog.functions import parameters_of
from twinkle_tune.kernel.functions import original_function

NAME = "my_pkg_owned"
TARGET = f"{NAME}:scale"


@pytest.fixture(autouse=True)
def module() -> Iterator[ModuleType]:
    """A module whose function is replaced."""
    made = ModuleType(NAME)
    exec("def scale(x, by=2.0):\n    return x * by\n", made.__dict__)
    sys.modules[NAME] = made
    yield made
    del sys.modules[NAME]


def times_three(x: torch.Tensor, by: float = 2.0) -> torch.Tensor:
    """A kernel that shows, and saves another number of tensors for the backward."""
    return x * x.new_full((), 3.0, requires_grad=x.requires_grad)


class Inner(nn.Module):
    """Calls the function, as an attention its rotary."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        """Scaled."""
        return sys.modules[NAME].scale(self.linear(x))


class Block(nn.Module):
    """A layer of layers, checkpointed from outside, from inside, or as a bare function."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.inner, self.how = nn.Sequential(Inner()), how

    def forward(self, x: torch.Tensor) -> Any:
        """Through the inner layer."""
        if self.how == "inside":
            return checkpoint(self.inner, x, use_reentrant=False)
        if self.how == "function":
            return checkpoint(lambda y: sys.modules[NAME].scale(y), self.inner[0](x), use_reentrant=False)
        return self.inner(x)


class Stack(nn.Module):
    """Two blocks."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.blocks, self.how = nn.ModuleList(Block(how) for _ in range(2)), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (4, 8) to (4, 8)."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.how == "reentrant") if self.how in _OUTSIDE else block(x)
        return x


_OUTSIDE = ("outside", "reentrant")


class Alone(nn.Module):
    """A model of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        """Scaled."""
        return sys.modules[NAME].scale(self.linear(x))


MODELS = {"stack": Stack, "alone": Alone, "inner": Inner}
X = torch.ones(4, 8)


def _bind(model: nn.Module, *, grad: bool = False) -> nn.Module:
    known = function_registry(NAME, "scale", times_three)
    x = X.clone().requires_grad_(grad)
    contest = function_contest(TARGET, original_function(TARGET), (x,), "impl:times_three", known)
    return kernelize_model(model, profile=profile([contest]), registry=known, use_fallback=False)


def _same(one: nn.Module, other: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(one(X), other(X))


@pytest.mark.parametrize("name", MODELS)
def test_another_model_does_not_feel_it(name: str) -> None:
    """A model that was never kernelized computes bit for bit as before while another of its class is kernelized."""
    model, other = MODELS[name](), MODELS[name]()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        before = other(X)
        _bind(model)
        assert torch.equal(other(X), before)
        assert not torch.equal(model(X), before)
        assert int(sys.modules[NAME].scale(X)[0, 0]) == 3  # of no module: whoever bound it first
        restore_model(model)
        assert torch.equal(model(X), before)


def test_threads_do_not_mix_models() -> None:
    """Two models called in turn by eight threads give their own results each time."""
    model, other = Stack(), Stack()
    other.load_state_dict(model.state_dict())
    _bind(model)
    with torch.no_grad():
        expected = {id(m): m(X) for m in (model, other)}
    wrong: list[object] = []

    def call() -> None:
        with torch.no_grad():
            for _ in range(50):
                wrong.extend(m for m in (model, other) if not torch.equal(m(X), expected[id(m)]))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    restore_model(model)


@pytest.mark.parametrize("how", ["outside", "reentrant", "inside", "function"])
@pytest.mark.parametrize("kernelized", [True, False])
def test_checkpointing_runs_the_same_again(how: str, kernelized: bool) -> None:
    """What a backward runs once more, outside of the model's forward, is what ran before: of the owner and of others.

    torch refuses a region that saves another number of tensors the second time, as the kernel's would.
    """
    model, owner = Stack(how), Stack()
    _bind(model if kernelized else owner, grad=True)
    x = X.clone().requires_grad_()
    out = model(x)
    out.sum().backward()
    assert x.grad is not None
    if not kernelized:
        plain = X.clone().requires_grad_()
        _plain(model)(plain).sum().backward()
        assert plain.grad is not None
        assert how == "function" or torch.equal(x.grad, plain.grad)


def _plain(model: Stack) -> Stack:
    """The same weights, without checkpointing and without kernels."""
    twin = Stack()
    twin.load_state_dict(model.state_dict())
    return twin


def test_a_copy_keeps_its_functions() -> None:
    """A copy has the kernels while it lives, whatever becomes of the first, and its report says what is so."""
    model, plain = Stack(), Stack()
    plain.load_state_dict(model.state_dict())
    _bind(model)
    twin = copy.deepcopy(model)
    restore_model(model)
    assert _same(model, plain)
    assert not _same(twin, plain)
    del model
    assert not _same(twin, plain)
    assert [b.slot for b in kernelize_report(twin).bound] == [f"{NAME}.scale"]
    restore_model(twin)
    assert _same(twin, plain)
    assert not kernelize_report(twin).bound


def test_a_function_that_was_replaced_is_told() -> None:
    """Where somebody replaces the function after it was bound, the report says that the kernel does not run."""
    model = _bind(Alone())
    ours = sys.modules[NAME].scale
    sys.modules[NAME].scale = lambda x, by=2.0: x  # type: ignore[attr-defined]
    (kept,) = kernelize_report(model).kept
    assert "was replaced by someone else" in kept.reason
    assert not kernelize_report(model).bound
    sys.modules[NAME].scale = ours  # type: ignore[attr-defined]
    restore_model(model)


def test_autocast_that_was_not_measured() -> None:
    """Under autocast a function that was measured without is the original's."""
    model, plain = Alone(), Alone()
    plain.load_state_dict(model.state_dict())
    _bind(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _same(model, plain)
    restore_model(model)


def test_compiled_models_do_not_mix() -> None:
    """Compiled, the owner has the kernel in one graph, and another model of its class has none."""
    torch.compiler.reset()
    model, other = Stack(), Stack()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        before = other(X)
        _bind(model)
        bound = model(X)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(X), bound)
        assert torch.equal(torch.compile(other, backend="eager", fullgraph=True)(X), before)
    restore_model(model)


def test_a_bound_function_is_recognised_by_the_next_model() -> None:
    """What stands in a function's place has its parameters, by which slots are found: a second model is bound, too."""
    model = Alone()
    _bind(model)
    there = sys.modules[NAME].scale
    assert [each.name for each in parameters_of(there)] == ["x", "by"]
    restore_model(model)
