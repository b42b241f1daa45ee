"""Kernels beside a way of running the whole model: they step aside in it, or run in it, and run everywhere else."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.strategy.planted import COMPILING, Layers, compiled_by
from tests.today import by_day
from twinkle_tune.kernel.kernelize import bind_plan, kernelize_report, restore_model
from twinkle_tune.kernel.patch import Binding
from twinkle_tune.kernel.plan import Plan, with_ways
from twinkle_tune.kernel.setup_calls import call_of
from twinkle_tune.kernel.setups import WayIn, digest_of_model, way_layers
from twinkle_tune.profile.setup import Setup
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.strategy import STRATEGIES, Strategy
from twinkle_tune.strategy.backend import Backend

X, OTHER = torch.randn(4, 8), torch.randn(3, 8)
TANH = Slot(name="tanh", kind=SlotKind.FUNCTION, target="tests.kernel.test_aside:squash")


def squash(x: Tensor) -> Tensor:
    """A function of the process, (rows, 8) to the same."""
    return torch.tanh(x)


class Net(Layers):
    """Blocks, and a layer and a function outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(nn.Linear(8, 8))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """(rows, 8) to the same."""
        return squash(self.last(super().forward(x, scale)))


def linear(self: nn.Linear, x: Tensor) -> Tensor:
    """Another result, so that it shows."""
    return nn.functional.linear(x, self.weight, self.bias) + 1.0


@pytest.fixture(params=COMPILING, ids=lambda strategy: strategy.name)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    """Each of them."""
    found: Strategy = request.param
    return found


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs run as they are; nothing is compiled before and after; no gradients."""
    compiled_by(monkeypatch)
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def kernels_of(model: nn.Module, *, function: bool) -> Plan:
    """Other results for every Linear, and for the function."""
    layers = tuple(
        (module, linear, Binding(slot="Linear", path=path, candidate="plus one", rows="all"))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    )
    binding = Binding(slot="tanh", path="", candidate="twice", rows="all")
    functions = ((TANH, lambda x: torch.tanh(x) * 2.0, binding),) if function else ()
    return Plan(layers=layers, functions=functions)


def bound(model: nn.Module, strategy: Strategy, *, kernels: bool, function: bool = False) -> Backend:
    """A way for calls like that of ``X``, and kernels."""
    calls = (call_of(model, (X,), {}),)
    name = strategy.name
    setup = Setup(label="forward 4x8", way=name, calls=calls, model=digest_of_model(model), kernels=kernels)
    backend = Backend(gives_up=False)
    ways = way_layers(model, [WayIn(strategy=strategy, backend=backend, setups=[setup], kernels=kernels)])
    bind_plan(model, with_ways(kernels_of(model, function=function), ways))
    return backend


@pytest.mark.parametrize("function", by_day([False, True], 2))
@pytest.mark.parametrize("kernels", [False, True], ids=["originals inside", "kernels inside"])
def test_in_the_way_those_run_with_which_it_won(strategy: Strategy, kernels: bool, function: bool) -> None:
    """For calls that were shown the originals or the kernels inside; for all others the kernels; nothing anew."""
    model = Net().eval()
    before = model(X)
    bind_plan(model, kernels_of(model, function=function))
    inside, outside = model(X), model(OTHER)
    restore_model(model)
    assert not torch.allclose(before, inside)
    backend = bound(model, strategy, kernels=kernels, function=function)
    for _ in range(2):
        torch.testing.assert_close(model(X), inside if kernels else before)
        torch.testing.assert_close(model(OTHER), outside)
    graphs = backend.graphs
    assert graphs
    model(X)
    model(OTHER)
    assert backend.graphs == graphs
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(X), inside if kernels else before)
    torch.testing.assert_close(twin(OTHER), outside)
    restore_model(model)
    assert torch.equal(model(X), before)
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_report_says_which_run_inside(strategy: Strategy) -> None:
    """A way with kernels is called so."""
    model = Net().eval()
    bound(model, strategy, kernels=True)
    assert kernelize_report(model).bound[0].candidate == f"{strategy.name} + kernels"


def test_where_both_stand_the_way_does() -> None:
    """A kernel of a module that the way itself binds is kept out, and the report says why."""
    model = Net().eval()
    strategy = next(each for each in STRATEGIES if each.name == "compile blocks")
    way = WayIn(strategy=strategy, backend=Backend(gives_up=False))
    block = next(part for part in model.modules() if type(part).__name__ == "Layer")
    kernel = (block, linear, Binding(slot="Block", path="layers.0", candidate="mine", rows="all"))
    plan = with_ways(Plan(layers=(kernel,)), way_layers(model, [way]))
    assert kernel not in plan.layers
    assert [(kept.slot, kept.reason) for kept in plan.kept] == [
        ("Block layers.0", "a way of running the whole model stands there")
    ]
