"""What every way of running a whole model that compiles it does alike."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.strategy.planted import COMPILING, Layers, compiled_by
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.setups import WayIn, way_layers
from twinkle_tune.strategy import STRATEGIES, Strategy
from twinkle_tune.strategy.backend import Backend

pytestmark = pytest.mark.usefixtures("compiled_anew")

X = torch.randn(4, 8)


@pytest.fixture(params=COMPILING, ids=lambda strategy: strategy.name)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    """Each of them."""
    found: Strategy = request.param
    return found


def bound(model: nn.Module, strategy: Strategy) -> Backend:
    """Let a model run so, for every call."""
    backend = Backend(gives_up=True)
    bind_plan(model, Plan(layers=way_layers(model, [WayIn(strategy=strategy, backend=backend)])))
    return backend


def test_it_computes_the_same_compiled(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made at the first call and none later; restored, the model is the original to the bit."""
    compiled_by(monkeypatch)
    model = Layers().requires_grad_(False)
    before = model(X)
    backend = bound(model, strategy)
    assert backend.graphs == 0
    for _ in range(3):
        torch.testing.assert_close(model(X), before)
    made = backend.graphs
    model(X)
    assert made == backend.graphs == (9 if strategy.name == "compile blocks" else 1)
    restore_model(model)
    assert torch.equal(model(X), before)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_copy_computes_with_its_own_weights(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is bound holds no module of the model that it was made for."""
    compiled_by(monkeypatch)
    model = Layers().requires_grad_(False)
    bound(model, strategy)
    model(X)
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.mul_(2)
    original = Layers().requires_grad_(False)
    original.load_state_dict(twin.state_dict())
    torch.testing.assert_close(twin(X), original(X))
    assert not torch.allclose(twin(X), model(X))


def test_its_errors_pass_through(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contest must see what the compiler raises."""

    def refuses(graph: object) -> None:
        raise RuntimeError("no compiler found")

    compiled_by(monkeypatch, refuses)  # type: ignore[arg-type]
    model = Layers()
    bound(model, strategy)
    with pytest.raises(Exception, match="no compiler found"):
        model(X)


def test_blocks_are_compiled_inside_of_their_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that somebody else calls (a checkpoint in a backward) runs its class's forward."""
    graphs = compiled_by(monkeypatch)
    (blocks,) = [strategy for strategy in STRATEGIES if strategy.name == "compile blocks"]
    model = Layers()
    bound(model, blocks)
    model.layers[0](X)
    assert not graphs
    model(X)
    assert len(graphs) == 9
    assert blocks.why_not(nn.Linear(2, 2), trains=True) == "the model repeats no block"
    assert blocks.why_not(model, trains=True) == ""
