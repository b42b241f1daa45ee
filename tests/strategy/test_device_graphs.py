"""A model's forward in device graphs, on a stand-in whose replays compute what was captured on the memory it had."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.fake_cuda import FakeDevice, replaying
from twinkle_tune.call.device_graph import DeviceGraphError
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.setups import WayIn, way_layers
from twinkle_tune.strategy import on_cuda
from twinkle_tune.strategy.backend import Backend, CompiledAnewError
from twinkle_tune.strategy.device_graphs import DeviceGraphs


class Small(nn.Module):
    """Two layers, and an argument that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.gain = nn.Linear(4, 4), nn.Linear(4, 4), 1.0

    def forward(self, x: Tensor, more: float = 0.0) -> dict[str, Any]:
        """(rows, 4) to the same, in a dictionary."""
        return {"y": self.second(torch.tanh(self.first(x))) * self.gain + more, "n": [x.shape[0]]}


class Kept:
    """A cache that stays where it is."""

    def __init__(self) -> None:
        self.sums, self.at = torch.zeros(3, 4), torch.tensor(0)


class Sums(nn.Module):
    """Writes each row into a cache of three, and gives all rows so far."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, cache: Any) -> Any:
        """(1, 4) to (4) and the cache."""
        cache.sums.index_copy_(0, cache.at.reshape(1), x * self.gain)
        cache.at.add_(1)
        return cache.sums.sum(0), cache


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device whose replays compute."""
    return replaying(monkeypatch)


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    """As a model infers."""
    with torch.no_grad():
        yield


def bound(model: nn.Module) -> Backend:
    """Let a model run so, for every call."""
    backend = Backend(gives_up=True)
    bind_plan(model, Plan(layers=way_layers(model, [WayIn(strategy=DeviceGraphs(), backend=backend)])))
    return backend


def rows(count: int) -> Tensor:
    """Other ones each time."""
    return torch.randn(count, 4)


def right(model: nn.Module, x: Tensor, **kwargs: Any) -> Tensor:
    """What the class's own forward gives."""
    answer: Tensor = type(model).forward(model, x, **kwargs)["y"]
    return answer


def test_each_shape_is_captured_once_and_replayed(device: FakeDevice) -> None:
    """Answers are the original's for new values; another shape or number has a graph of its own."""
    model = Small()
    backend = bound(model)
    for x, more in ((rows(2), 0.0), (rows(2), 0.0), (rows(3), 0.0), (rows(2), 0.5), (rows(3), 0.0), (rows(2), 0.5)):
        torch.testing.assert_close(model(x, more=more)["y"], right(model, x, more=more))
        assert model(x, more=more)["n"] == [x.shape[0]]
    assert backend.graphs == device.log.count("capture begins") == 3
    assert device.log.count("replay") == 12


def test_what_holds_for_the_process_is_part_of_a_shape(device: FakeDevice) -> None:
    """A replay computes as precisely, and casts, as when it was captured."""
    model = Small()
    backend, x = bound(model), rows(2)
    model(x)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if before == "highest" else "highest")
    try:
        model(x)
        assert backend.graphs == 2
    finally:
        torch.set_float32_matmul_precision(before)
    torch.set_autocast_enabled("cuda", True)
    try:
        model(x)
        assert backend.graphs == 3
    finally:
        torch.set_autocast_enabled("cuda", False)
    model(x)
    assert backend.graphs == 3


def test_an_answer_is_the_callers(device: FakeDevice) -> None:
    """No later call writes into it, and what the caller does with it reaches no later one."""
    model = Small()
    bound(model)
    x = rows(2)
    first = model(x)
    kept = first["y"].clone()
    model(rows(2))
    assert torch.equal(first["y"], kept)
    first["y"].zero_()
    first["n"].clear()
    again = model(x)
    assert torch.equal(again["y"], kept)
    assert again["n"] == [2]


def test_a_replay_reads_the_weights_where_they_are(device: FakeDevice) -> None:
    """A weight that is written to is seen; one that is exchanged, or given other memory, is captured anew."""
    model = Small()
    backend = bound(model)
    model(x := rows(2))
    model.first.weight.mul_(2)
    torch.testing.assert_close(model(x)["y"], right(model, x))
    assert backend.graphs == 1
    changes: list[Callable[[], object]] = [
        lambda: setattr(model.first, "weight", nn.Parameter(torch.randn(4, 4))),
        lambda: setattr(model.second.bias, "data", torch.randn(4)),
        lambda: setattr(model, "second", nn.Linear(4, 4)),
        lambda: setattr(model, "gain", 3.0),
        lambda: setattr(model.first, "forward", lambda x: x),
    ]
    for count, change in enumerate(changes, start=2):
        model(x)
        change()
        if count != 4:  # a layer exchanged: the root that stands runs the original
            torch.testing.assert_close(model(x)["y"], right(model, x))


def test_a_model_that_is_never_the_same_is_given_up(device: FakeDevice) -> None:
    """To capture at each call costs more than it saves."""
    model = Small()
    backend = bound(model)

    def calls() -> None:
        for number in range(20):
            model.gain = float(number)
            model(rows(2))

    with pytest.raises(DeviceGraphError, match="was another than before 8 times"):
        calls()
    assert backend.graphs == 8


def test_a_cache_that_stays_is_written_to_as_by_the_original(device: FakeDevice) -> None:
    """The warm calls of a capture leave no trace in it; each cache has a graph, which is gone with it."""
    model = Sums()
    backend = bound(model)
    for number in (1, 2):
        cache, plain = Kept(), Kept()
        for _ in range(3):
            x = rows(1)
            answer, same = model(x, cache)
            torch.testing.assert_close(answer, Sums.forward(model, x, plain)[0])
            assert same is cache
            assert torch.equal(cache.at, plain.at)
        assert backend.graphs == number
    gone = weakref.ref(cache)
    del cache, same
    gc.collect()
    assert gone() is None
    assert len(graphs_of(model)) == 0


def test_a_cache_whose_memory_was_exchanged_is_captured_anew(device: FakeDevice) -> None:
    """Its graph writes where it was captured."""
    model, cache = Sums(), Kept()
    backend = bound(model)
    model(rows(1), cache)
    cache.sums, cache.at = torch.zeros(3, 4), torch.tensor(0)
    answer, _ = model(x := rows(1), cache)
    torch.testing.assert_close(answer, x[0])
    assert backend.graphs == 2


class Grows(nn.Linear):
    """Makes a list that it is given longer."""

    def forward(self, x: Tensor, cache: Any) -> Tensor:  # type: ignore[override]
        """(rows, 4) to the same."""
        cache.parts = torch.cat([cache.parts, x])
        return super().forward(cache.parts)


class Counts(nn.Linear):
    """Counts its calls in Python."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to the same."""
        self.calls += 1
        return super().forward(x)


class Writes(nn.Linear):
    """Writes into a weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to the same."""
        self.bias.add_(1)
        return super().forward(x)


class WritesInto(nn.Linear):
    """Writes into its argument."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to the same."""
        return super().forward(x.add_(1))


class Draws(nn.Linear):
    """Draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to the same."""
        return super().forward(x) + torch.rand(4)


class Waits(nn.Linear):
    """Goes one way or the other by a value."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to the same."""
        return super().forward(x) if x.sum().item() > 1e9 else super().forward(-x)


class Gives(nn.Linear):
    """Gives a part of what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 4) to (2, 4)."""
        return x[:2]


class Growing:
    """A cache that grows."""

    def __init__(self) -> None:
        self.parts = torch.zeros(0, 4)


@pytest.mark.parametrize(
    ("kind", "caches", "why"),
    [
        (Grows, [Growing()], "a cache that grows"),
        (Counts, [], "notes something in the model in Python"),
        (Writes, [], "writes into the model's weights"),
        (WritesInto, [], "writes into a tensor that it is given"),
        (Draws, [], "draws random numbers"),
        (Waits, [], "cannot be captured in a CUDA graph: RuntimeError: CUDA error: operation"),
        (Gives, [], "is a view of, what it was given"),
    ],
)
def test_what_a_replay_could_not_do_is_refused(device: FakeDevice, kind: Any, caches: list[Any], why: str) -> None:
    """With the reason; every call that is answered is answered right, and nothing is run twice that is seen."""
    model = kind(4, 4).requires_grad_(False)
    plain, others = copy.deepcopy(model), copy.deepcopy(caches)
    bound(model)

    def calls() -> None:
        for _ in range(9):
            x = rows(3)
            torch.manual_seed(0)
            expected = plain(x.clone(), *others)
            torch.manual_seed(0)
            assert torch.equal(model(x, *caches), expected)
            assert getattr(model, "calls", 0) == getattr(plain, "calls", 0)

    with pytest.raises(DeviceGraphError, match=why):
        calls()
    assert device.stream.name == "default"
    assert device.allocating_to == []


def test_what_it_is_not_for(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, and tensors of another device; within somebody's own capture the original runs."""
    model = Small()
    backend = bound(model)
    with pytest.raises(DeviceGraphError, match="gradients are on"), torch.enable_grad():
        model(rows(2))
    with pytest.raises(DeviceGraphError, match="argument 0 is on meta"):
        model(torch.empty(2, 4, device="meta"))
    device.is_capturing = True
    torch.testing.assert_close(model(x := rows(2))["y"], right(model, x))
    assert backend.graphs == 0


def test_without_a_cuda_device_it_says_why() -> None:
    """Where the model is decides, and that it is somewhere."""
    way, model = DeviceGraphs(), Small()
    assert way.why_not(model, trains=False) == "it is for CUDA devices, and the model is on cpu"
    assert way.why_not(nn.Identity(), trains=False) == "the model has no weights that say on which device it is"
    model.second.to("meta")
    assert way.why_not(model, trains=False) == "the model is on several devices (cpu and meta)"


def test_a_graph_for_training_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay has no backward."""
    monkeypatch.setattr(on_cuda, "KIND", "cpu")
    assert DeviceGraphs().why_not(Small(), trains=False) == ""
    assert "no backward" in DeviceGraphs().why_not(Small(), trains=True)


def test_too_many_shapes_are_refused(device: FakeDevice) -> None:
    """A contest's steps are alike: what is captured at each call has no figure."""
    model = Small()
    backend = bound(model)
    backend.most = 2
    shapes = (rows(count) for count in range(1, 5))
    with pytest.raises(CompiledAnewError, match="anew"):
        list(map(model, shapes))
    assert backend.graphs == 3


def test_copied_and_restored(device: FakeDevice) -> None:
    """A copy captures its own; restored, the model has no forward and nobody holds a graph."""
    model = Small()
    bound(model)
    model(rows(2))
    twin = copy.deepcopy(model)
    twin.first.weight.mul_(3)
    torch.testing.assert_close(twin(x := rows(2))["y"], right(twin, x))
    (graph,) = graphs_of(model).values()
    gone = weakref.ref(graph)
    del graph
    for each in (model, twin):
        restore_model(each)
        assert "forward" not in vars(each)
    assert gone() is None


def test_memory_of_graphs_is_counted(device: FakeDevice) -> None:
    """What the allocator reserved within the capture, and the inputs' copies."""

    class Takes(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            device.allocate(1000 if device.is_capturing else 0)
            return super().forward(x)

    model = Takes(4, 4)
    backend = bound(model)
    model(rows(2))
    assert backend.held_bytes == 1000 + 2 * 4 * 4


def graphs_of(model: nn.Module) -> dict[Any, Any]:
    """Those that are kept of a model."""
    record: Any = vars(model)["forward"].__self__
    (case,) = record.call._cases
    found: dict[Any, Any] = case.call._of[model].graphs
    return found
