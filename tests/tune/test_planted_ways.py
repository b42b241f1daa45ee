"""Ways of running the whole model that are planted: fast and wrong, or right and fast only as long as one looks."""

from __future__ import annotations

import copy
import operator
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategy.planted import compiled_by
from tests.today import of_today
from tests.tune.toy import QUICK
from twinkle_tune import kernelize_model, tune_model
from twinkle_tune.contest import model as model_stage
from twinkle_tune.kernel import Registry
from twinkle_tune.profile.schema import Profile
from twinkle_tune.strategy import STRATEGIES

X = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
ALL = ("compile", "compile blocks", "compile dynamic")


class Block(nn.Module):
    """Few operations that do something, one that does nothing, and a while where they are not compiled."""

    scale: Tensor

    def __init__(self, idle_s: float) -> None:
        super().__init__()
        self.idle_s, self.inner = idle_s, nn.Sequential(nn.Linear(8, 8))
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 8) to the same."""
        if self.idle_s and not torch.compiler.is_compiling():
            time.sleep(self.idle_s)  # operations instead would be traced again and again, which is what takes long
        return torch.tanh(self.inner(x * 1.0)) * self.scale


class Deep(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, layers: int = 2, idle_s: float = 2e-4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block(idle_s) for _ in range(layers))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 8) to the same."""
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, compiled_anew: None) -> None:
    """Few rounds, and nothing compiled before and after."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)


def lean(graph: Any) -> Callable[..., Any]:
    """The graph without what does nothing: right, and faster than the original."""
    for node in list(graph.graph.nodes):
        if node.target is operator.mul and node.args[1] == 1.0:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph.forward  # type: ignore[no-any-return]


def tuned(monkeypatch: pytest.MonkeyPatch, made: Callable[[Any], Callable[..., Any]], model: nn.Module) -> Profile:
    """A profile of a model under a planted compiler; the model is then as it was, to the bit."""
    compiled_by(monkeypatch, made)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        said = copy.deepcopy(model)(X)
    profile = tune_model(model, X, registry=Registry(), settings=QUICK, candidates=["original"], ways=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(X), said)
    return profile


def refusals(profile: Profile) -> dict[str, str]:
    """The causes for which ways were refused, by way: of none of them there is a figure, and none is applied."""
    assert profile.setups == ()
    assert not any(step.compiled_us for step in profile.compiled)
    return {step.way: step.cause for step in profile.compiled}


def sizes(profile: Profile) -> set[tuple[int, ...]]:
    """(B, S) of the calls for which ways are shown."""
    return {call.workload.tensors[0].shape[:2] for setup in profile.setups for call in setup.calls}


def test_a_right_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything planted: what the tests below see refused is refused for what they plant."""
    profile = tuned(monkeypatch, lean, Deep().eval())
    assert {step.cause for step in profile.compiled} == {""}
    assert sizes(profile) == {(2, 8), (2, 2), (4, 8), (2, 12)}


@pytest.mark.parametrize("error", [1e-4, pytest.param(1e-2, marks=pytest.mark.slow)])
def test_who_is_wrong_in_one_of_32_layers_is_refused(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the seventeenth, by so much of its output."""
    count = [0]

    def wrong(graph: Any) -> Callable[..., Any]:
        for node in [node for node in graph.graph.nodes if node.target is torch.tanh]:
            count[0] += 1
            if count[0] % 32 == 17:
                with graph.graph.inserting_after(node):
                    off = graph.graph.call_function(operator.mul, (node, 1 + error))
                for user in [user for user in node.users if user is not off]:
                    user.replace_input_with(node, off)
        return lean(graph)

    profile = tuned(monkeypatch, wrong, Deep(32, 0.0).eval())
    assert refusals(profile) == dict.fromkeys(ALL, "wrong")
    assert all("the whole model's outputs came out" in step.problem for step in profile.compiled)


@pytest.mark.parametrize(
    ("is_slow", "shown", "beyond"),
    of_today(
        [
            (lambda batch, length: (batch, length) != (2, 8), {(2, 8)}, [(2, 2), (4, 8), (2, 12), (2, 5)]),
            (lambda batch, length: length > 8, {(2, 8), (2, 2), (4, 8)}, [(2, 12), (2, 9)]),
            (lambda batch, length: batch > 2, {(2, 8), (2, 2), (2, 12)}, [(4, 8)]),
        ],
        3,
    ),
)
def test_who_is_slow_beyond_what_was_measured_does_not_run_there(
    is_slow: Callable[[int, int], bool],
    shown: set[tuple[int, int]],
    beyond: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sizes at which it loses are not among those for which it is shown, and there the original runs."""
    ran: list[tuple[int, ...]] = []

    def uneven(graph: Any) -> Callable[..., Any]:
        fast = lean(graph)

        def run(*args: Any) -> Any:
            (x,) = (arg for arg in args if isinstance(arg, Tensor) and arg.dim() == 3)
            ran.append(tuple(x.shape[:2]))
            if is_slow(*ran[-1]):
                time.sleep(0.03)
            return fast(*args)

        return run

    model = Deep().eval()
    profile = tuned(monkeypatch, uneven, model)
    assert sizes(profile) == shown
    asked = [torch.randn(*size, 8) for size in beyond]
    with torch.no_grad():
        said = [model(x) for x in asked]
        kernelize_model(model, profile=profile)
        ran.clear()
        assert all(torch.equal(model(x), answer) for x, answer in zip(asked, said, strict=True))
        assert not ran
        torch.testing.assert_close(model(X), said_by_original(model))
        assert ran


def said_by_original(model: nn.Module) -> Tensor:
    """What the model's class says to X."""
    answer: Tensor = type(model).forward(model, X)
    return answer


@pytest.mark.parametrize("name", ["layers.1.inner.0.weight", "layers.1.scale"])
def test_who_writes_into_the_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight, a buffer: what it computes meanwhile is right, and the model's tensor is another afterwards."""
    model = Deep().eval()
    tensor = model.state_dict()[name]

    def writes(graph: Any) -> Callable[..., Any]:
        fast = lean(graph)

        def run(*args: Any) -> Any:
            found = fast(*args)
            tensor.mul_(1.001)
            return found

        return run

    profile = tuned(monkeypatch, writes, model)
    assert refusals(profile) == dict.fromkeys(ALL, "wrong")
    assert all(f"it writes into the model's {name}" in step.problem for step in profile.compiled)


class Counted(Deep):
    """Adds up what it is given, in a buffer."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 8) to the same."""
        self.total.add_(x.mean((0, 1)))
        return super().forward(x)


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_what_the_original_writes_must_be_written_alike(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that every call adds to: right by a way that does it, wrong where it comes out off."""
    model = Counted().eval()
    total = model.total

    def adds(graph: Any) -> Callable[..., Any]:
        fast = lean(graph)

        def run(*args: Any) -> Any:
            found = fast(*args)
            total.mul_(1 + error)
            return found

        return run

    profile = tuned(monkeypatch, adds, model)
    if not error:
        assert profile.setups
    else:
        assert refusals(profile) == dict.fromkeys(ALL, "wrong")
        assert all("the whole model's state came out" in step.problem for step in profile.compiled)


CALLS = [0]


class Anew(Deep):
    """Has a number in its guards that is another at each call."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 8) to the same."""
        CALLS[0] += 1
        return super().forward(x) if f"{CALLS[0]}" else x


def test_who_is_compiled_anew_at_each_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With that reason; its blocks do not know the number, and may win."""
    profile = tuned(monkeypatch, lean, Anew().eval())
    anew = [step for step in profile.compiled if step.problem]
    assert {step.way for step in anew} == {"compile", "compile dynamic"}
    assert all(step.problem == "it is compiled anew at each call, though all are alike" for step in anew)
    assert {setup.way for setup in profile.setups} <= {"compile blocks"}


@pytest.mark.parametrize("call", [1, 4, 50])
def test_who_raises_at_one_of_its_calls_is_refused(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, while it is judged, and while it is timed: with what it raised."""

    def raises(graph: Any) -> Callable[..., Any]:
        fast, calls = lean(graph), [0]

        def run(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] >= call:
                raise RuntimeError("planted")
            return fast(*args)

        return run

    profile = tuned(monkeypatch, raises, Deep().eval())
    assert refusals(profile) == dict.fromkeys(ALL, "raised")
    assert all("RuntimeError: planted" in step.problem for step in profile.compiled)


class OfLength(Deep):
    """Has its input's length in its guards."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, 8) to the same."""
        return super().forward(x) if f"{x.shape[1]}" else x


def test_who_is_compiled_anew_at_each_length_runs_at_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths between those that were held out would each be compiled: there the original runs."""
    monkeypatch.setattr(
        "twinkle_tune.tune.way_contest.STRATEGIES", [each for each in STRATEGIES if each.name == "compile"]
    )
    model = OfLength().eval()
    profile = tuned(monkeypatch, lean, model)
    assert sizes(profile) == {(2, 8)}
    torch._dynamo.reset()
    graphs = compiled_by(monkeypatch, lean)
    kernelize_model(model, profile=profile)
    with torch.no_grad():
        for length in (8, 2, 3, 5, 9, 12, 8):
            model(torch.randn(2, length, 8))
    assert len(graphs) == 1
