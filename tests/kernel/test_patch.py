"""Binding forwards to instances, and undoing it without a trace."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from tests.kernel.toys import Layer, Model, Norm, added, inputs, norms, plus_one, plus_two, registry
from twinkle_tune.errors import BindError, RegistrationError
from twinkle_tune.kernel import (
    Registry,
    kernelize_model,
    kernelize_report,
    kernelized,
    register_external_layer,
    register_layer_kernel,
    restore_model,
)
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.kernel.patch import Binding, bind_forward, binding_of, replaced_by_another, restore_forward
from twinkle_tune.kernel.plan import Plan

BINDING = Binding(slot="Norm", path="norm", candidate="impl:plus_one", rows="all")


def _state(model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    return [(path, dict(module.__dict__)) for path, module in model.named_modules()]


def test_restore_leaves_no_trace() -> None:
    """After kernelize and restore every instance has the keys, the forward and the outputs, bit by bit, of before."""
    model, x = Model(), inputs(5)
    before, forwards = _state(model), [type(m).forward for m in model.modules()]
    output = model(x)
    for _ in range(2):
        kernelize_model(model, mode="inference", device="cpu", registry=registry(plus_one))
        assert not torch.equal(model(x), output)
        restore_model(model)
    assert [(path, list(state)) for path, state in _state(model)] == [(path, list(state)) for path, state in before]
    assert [type(m).forward for m in model.modules()] == forwards
    assert torch.equal(model(x), output)
    assert str(kernelize_report(model)) == "nothing bound"
    restore_model(model)
    assert _state(model) == before


def test_kernelize_twice_is_as_once() -> None:
    """Kernelizing again replaces what was bound, also by less."""
    model = Model()
    for impls, shows in (((plus_one,), 1.0), ((plus_one, plus_two), 2.0), ((), 0.0)):
        kernelize_model(model, mode="inference", device="cpu", registry=registry(*impls))
        assert {added(module, 3) for module in norms(model).values()} == {shows}
    assert not kernelize_report(model).bound


def test_kernel_runs_with_the_instance() -> None:
    """A kernel reads the parameters of the instance that it is bound to, as they are when it runs."""
    model = Model(layers=1)
    kernelize_model(model, mode="inference", device="cpu", registry=registry(plus_one))
    norm = model.layers[0].narrow
    with torch.no_grad():
        norm.weight.fill_(0.0)
    assert torch.equal(norm(inputs(2)), torch.ones(2, 8))


def test_gradients_go_through() -> None:
    """A bound kernel takes part in the backward: parameters get the gradients of the kernel."""
    model = Model(layers=1).train()

    def doubled(self: Norm, x: torch.Tensor) -> torch.Tensor:
        return Norm.forward(self, x) * 2

    norm, x = model.layers[0].narrow, inputs(3)
    norm(x).sum().backward()
    assert norm.weight.grad is not None
    expected = norm.weight.grad * 2
    norm.weight.grad = None
    kernelize_model(model, mode="train", device="cpu", registry=registry(doubled))
    norm(x).sum().backward()
    assert torch.equal(norm.weight.grad, expected)


def test_bound_anew_a_compiled_model_runs_what_is_bound_now() -> None:
    """A compiled model runs the kernel bound now, also where one of the same code was before; each compiled once."""
    from torch._dynamo.utils import counters

    def adds(value: float) -> Any:
        return lambda self, x: x + value

    kernels = {value: registry(adds(value)) for value in (1.0, 2.0)}
    model, x = Norm(8), inputs(3)
    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        own = model(x)
        for _ in range(2):
            for value, its in kernels.items():
                kernelize_model(model, mode="inference", device="cpu", registry=its)
                assert torch.equal(compiled(x), x + value)
            restore_model(model)
            assert torch.equal(compiled(x), own)
    assert counters["stats"]["unique_graphs"] == 3


def test_what_a_compiled_kernel_writes_stands() -> None:
    """What a kernel appends to a list that it closes over is there after each call of the compiled model."""
    calls: list[int] = []

    def counting(self: Norm, x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return x + len(calls)

    model, x = Norm(8), inputs(3)
    kernelize_model(model, mode="inference", device="cpu", registry=registry(counting))
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for number in (1, 2, 3):
            assert torch.equal(compiled(x), x + number)
            assert len(calls) == number


def test_hooks_still_run() -> None:
    """Hooks that were there, and hooks that come later, run around a bound kernel."""
    norm, calls = Norm(8), []

    def after(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append("after")
        return output * 0

    norm.register_forward_pre_hook(lambda module, args: calls.append("before"))
    bind_forward(norm, plus_one, BINDING)
    norm.register_forward_hook(after)
    assert torch.equal(norm(inputs(2)), torch.zeros(2, 8))
    assert calls == ["before", "after"]


def test_deep_copy() -> None:
    """A deep copy of a kernelized model computes with its own weights, and is restored alone."""
    model = Model(layers=1)
    kernelize_model(model, mode="inference", device="cpu", registry=registry(plus_one))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.layers[0].narrow.weight.fill_(0.0)
    assert torch.equal(twin.layers[0].narrow(inputs(2)), torch.ones(2, 8))
    assert added(model.layers[0].narrow, 2) == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore_model(twin)
    assert "forward" not in twin.layers[0].narrow.__dict__
    assert torch.equal(twin.layers[0].narrow(inputs(2)), torch.zeros(2, 8))
    assert added(model.layers[0].narrow, 2) == 1.0


def test_state_dict_is_the_same() -> None:
    """A kernelized model's parameters have the names of before, and it moves to another dtype as before."""
    model = Model()
    names = list(model.state_dict())
    kernelize_model(model, mode="inference", device="cpu", registry=registry(plus_one))
    assert list(model.state_dict()) == names
    model.double()
    assert model(inputs(2).double()).dtype is torch.float64


def _foreign(module: nn.Module) -> Any:
    """Replace an instance's forward as other libraries do."""
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs) + 100

    module.forward = forward
    return forward


def test_foreign_forward_is_not_touched() -> None:
    """An instance whose forward somebody else replaced keeps it, with a warning; without fallback that is an error."""
    model = Model(layers=1)
    foreign = _foreign(model.layers[0].narrow)
    known = registry(plus_one)
    with pytest.warns(UserWarning, match=r"Norm layers.0.narrow: its forward was replaced on the instance by another"):
        kernelize_model(model, mode="inference", device="cpu", registry=known)
    assert model.layers[0].narrow.forward is foreign
    assert added(model.layers[0].wide, 2) == 1.0
    restore_model(model)
    assert model.layers[0].narrow.forward is foreign
    with pytest.raises(RegistrationError, match=r"its forward was replaced on the instance by another"):
        kernelize_model(model, mode="inference", device="cpu", registry=known, use_fallback=False)
    with pytest.raises(BindError, match=r"Norm norm: its forward was replaced on the instance by .*forward; kernelize"):
        bind_forward(model.layers[0].narrow, plus_one, BINDING)


def test_foreign_forward_on_top() -> None:
    """A forward that somebody put over ours is left alone when we restore, with a warning, and still works."""
    model = Model(layers=1)
    known = registry(plus_one)
    kernelize_model(model, mode="inference", device="cpu", registry=known)
    foreign = _foreign(model.layers[0].narrow)
    assert replaced_by_another(model.layers[0].narrow)
    with pytest.warns(UserWarning, match=r"Norm layers.0.narrow: its forward was replaced by somebody else after"):
        restore_model(model)
    assert model.layers[0].narrow.forward is foreign
    assert binding_of(model.layers[0].narrow) is None
    assert binding_of(model.layers[0].wide) is None
    assert added(model.layers[0].narrow, 2) == 101.0


def test_restoring_what_is_not_bound() -> None:
    """Restoring an instance that is not bound changes nothing, a foreign forward included."""
    norm = Norm(8)
    restore_forward(norm)
    assert "forward" not in norm.__dict__
    foreign = _foreign(norm)
    restore_forward(norm)
    assert norm.forward is foreign


class SameForward(Norm):
    """A subclass with its parent's forward."""


class OtherForward(Norm):
    """A subclass that computes something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Minus x."""
        return -x


def test_subclasses() -> None:
    """A subclass with its parent's forward takes its parent's kernel, one with another forward does not."""
    register_external_layer(Norm, "Norm")
    register_layer_kernel("Norm", layer_impl=plus_one, device="cpu")
    model = nn.ModuleList([SameForward(8), OtherForward(8)])
    kernelize_model(model, mode="inference", device="cpu")
    assert added(model[0], 2) == 1.0
    assert torch.equal(model[1](inputs(2)), -inputs(2))
    assert "forward" not in model[1].__dict__


def test_all_or_nothing() -> None:
    """Where binding one instance fails, the others are as before: unbound, or bound to what was bound before."""
    model = Model()
    found = norms(model)
    plan = Plan(layers=tuple((module, plus_two, BINDING) for module in found.values()))
    kernelize_model(model, mode="inference", device="cpu", registry=registry(plus_one))
    last = list(found.values())[-1]
    restore_forward(last)
    foreign = _foreign(last)
    report = kernelize_report(model)
    assert [b.path for b in report.bound] == list(found)[:-1]
    with pytest.raises(BindError, match="its forward was replaced"):
        bind_plan(model, plan)
    assert [added(module, 2) for module in found.values()] == [1.0, 1.0, 1.0, 100.0]
    assert kernelize_report(model) == report
    assert last.forward is foreign
    restore_model(model)
    with pytest.raises(BindError):
        bind_plan(model, plan)
    assert ["forward" in module.__dict__ for module in found.values()] == [False, False, False, True]


def test_shared_instance() -> None:
    """An instance that stands at two places is bound once and restored once."""
    model = Layer()
    model.again = model.narrow
    kernelize_model(model, mode="inference", device="cpu", registry=registry(plus_one))
    assert [b.path for b in kernelize_report(model).bound] == ["narrow", "wide"]
    restore_model(model)
    assert added(model.narrow, 2) == 0.0


def test_context_manager() -> None:
    """Within kernelized(...) the kernels are bound; after it, also after an error, the originals are back."""
    model, known = Model(), registry(plus_one)
    with kernelized(model, mode="inference", device="cpu", registry=known) as bound:
        assert bound is model
        assert added(model.layers[0].narrow, 2) == 1.0
    assert added(model.layers[0].narrow, 2) == 0.0

    def fail() -> None:
        with kernelized(model, mode="inference", device="cpu", registry=known):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert added(model.layers[0].narrow, 2) == 0.0


def test_report() -> None:
    """The report says which kernel is bound to which instance, and reads as one line each."""
    model = Model(layers=1)
    kernelize_model(model, mode="inference", device="cpu", registry=registry(plus_one))
    assert str(kernelize_report(model)).splitlines() == [
        "bound  Norm layers.0.narrow: impl:plus_one (rows: all; unchecked)",
        "bound  Norm layers.0.wide: impl:plus_one (rows: all; unchecked)",
    ]


def test_a_pickled_model_comes_back_with_its_originals() -> None:
    """A kernelized model can be pickled; what is loaded computes with the originals, says so, and can be kernelized."""
    registry = Registry()
    register_external_layer(nn.Linear, "Linear", registry=registry)
    register_layer_kernel("Linear", layer_impl=half_linear, device="cpu", registry=registry)
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)
    before = model(x)
    kernelize_model(model, registry=registry)
    loaded = pickle.loads(pickle.dumps(model))
    assert torch.equal(model(x), before / 2)
    assert torch.equal(loaded(x), before)
    assert not kernelize_report(loaded).bound
    kernelize_model(loaded, registry=registry)
    assert torch.equal(loaded(x), before / 2)
    restore_model(loaded)
    assert torch.equal(loaded(x), before)


def half_linear(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Half of what a Linear gives: wrong, so that it is seen to run."""
    return nn.functional.linear(x, self.weight, self.bias) / 2
