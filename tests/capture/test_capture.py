from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.capture.tiny_models import FAMILIES, function, layers, rotary, tiny, token_ids
from twinkle_tune.capture.capture import Capture, Observation, capture
from twinkle_tune.capture.look import look_at
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.errors import CaptureError, RegistrationError
from twinkle_tune.mode import Mode
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.workload import TensorSpec


class Methods:
    """A class whose methods are slots."""

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1

    @staticmethod
    def static(x: torch.Tensor) -> torch.Tensor:
        return x + 2

    @classmethod
    def of_class(cls, x: torch.Tensor) -> torch.Tensor:
        return x + 3


class Heir(Methods):
    """Inherits them all."""


class Block(nn.Module):
    """Calls its own function through its module, as models do."""

    def __init__(self, home: ModuleType) -> None:
        super().__init__()
        self.inner, self.home = nn.Linear(4, 4), home

    def forward(self, x: torch.Tensor, *, extra: Any = None) -> Any:
        return self.home.double(self.inner(x))


class Nest(nn.Module):
    """Blocks of one class with two widths of input, a layer that is never called, and nested arguments."""

    def __init__(self, home: ModuleType) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(home) for _ in range(3))
        self.unused = Block(home)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x, extra={"pair": (x, [number > 1])})
        return x


@pytest.fixture
def home() -> Iterator[ModuleType]:
    """A module with functions to be slots, importable while the test runs."""
    module = ModuleType("tests_capture_home")

    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def countdown(x: torch.Tensor, times: int) -> torch.Tensor:
        return x if times == 0 else module.countdown(x, times - 1)

    class AsLayer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3

    for member in (double, countdown):
        member.__module__ = module.__name__
        setattr(module, member.__name__, member)
    module.as_layer = AsLayer()  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def _observe(model: nn.Module, inputs: object, targets: list[Occurrence], mode: Mode = Mode.INFERENCE) -> Capture:
    return capture(model, make_steps(model, inputs, mode, "cpu"), targets, "cpu")


def _of(found: Capture, slot: str, step: str | None = None) -> list[Observation]:
    return [o for o in found.observations if o.slot.name == slot and (not step or step in [s.step for s in o.seen])]


def _calls(observation: Observation) -> dict[str, int]:
    return {seen.step: seen.calls for seen in observation.seen}


def _states(model: nn.Module) -> list[dict[str, Any]]:
    """Every module's attributes, and what its containers hold, in their order."""
    return [
        {name: list(v.items()) if isinstance(v, dict) else v for name, v in m.__dict__.items()} for m in model.modules()
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_language_models_are_seen_in_both_phases(family: str) -> None:
    """Prefill and decode of a real architecture: layers of one shape are one observation with its count."""
    model = tiny(family)
    norms = layers(model, "Norm", "LayerNorm" if family == "phi" else "RMSNorm")
    mlps = layers(model, "MLP", "MLP")
    found = _observe(model, token_ids(2, 6), [norms, mlps, rotary(model)])
    labels = ["prefill 2x6", "decode 2x6"]
    assert [label for label, _ in found.step_us] == labels
    assert all(us > 0 for _, us in found.step_us)
    assert found.uncalled == ()
    for label, length in zip(labels, (6, 1), strict=True):
        (mlp,) = _of(found, "MLP", label)
        assert mlp.instances == ("model.layers.0.mlp", "model.layers.1.mlp")
        assert _calls(mlp) == {label: 2}
        assert mlp.workload.tensors[0].shape == (2, length, 32)
        assert sum(_calls(o)[label] for o in _of(found, "Norm", label)) == len(norms.instances)
        rotated = _of(found, rotary(model).slot.name, label)
        assert sum(_calls(o)[label] for o in rotated) == 2
        assert all(o.instances == () and o.module is None for o in rotated)
        assert all(o.workload.tensors[0].shape[2] == length for o in rotated)


@pytest.mark.parametrize("family", FAMILIES)
def test_language_models_are_seen_in_training(family: str) -> None:
    """In a train step the workloads carry gradients and grad mode, and no gradient is left on the model."""
    model = tiny(family).train()
    found = _observe(model, token_ids(2, 5), [layers(model, "MLP", "MLP"), rotary(model)], Mode.TRAIN)
    (mlp,) = _of(found, "MLP")
    assert _calls(mlp) == {"train 2x5": 2}
    assert mlp.workload.tensors[0].requires_grad
    assert mlp.call.args[0].is_leaf
    assert mlp.workload.context.grad
    assert mlp.workload.context.training
    assert all(p.grad is None for p in model.parameters())


def test_the_call_is_what_the_forward_receives(home: ModuleType) -> None:
    """Nested arguments and keywords are recorded as the bound forward gets them, with their values."""
    model, x = Nest(home), torch.randn(2, 4)
    found = _observe(model, x, [layers(model, "Block", "Block")])
    first, last = sorted(_of(found, "Block"), key=lambda o: o.instances)
    assert first.instances == ("blocks.0", "blocks.1")
    assert last.instances == ("blocks.2",)
    assert first.module is model.blocks[0]
    assert torch.equal(first.call.args[0], x)
    assert torch.equal(first.call.kwargs["extra"]["pair"][0], x)
    assert last.call.kwargs["extra"]["pair"][1] == [True]
    replayed: Any = first.module
    assert torch.equal(replayed(*first.call.args, **first.call.kwargs), model.blocks[0](x))


def test_what_is_never_called_is_listed(home: ModuleType) -> None:
    """Instances and functions that no step called are listed by slot and path."""
    model = Nest(home)
    targets = [layers(model, "Block", "Block"), function("tests_capture_home:countdown")]
    assert _observe(model, torch.ones(2, 4), targets).uncalled == (
        "Block unused",
        "tests_capture_home.countdown",
    )


def test_inside_names_the_slots_around(home: ModuleType) -> None:
    """A nested slot knows, over all its calls, which instances and functions of other slots were running."""
    model = Nest(home)
    targets = [
        layers(model, "Block", "Block"),
        layers(model, "Linear", "Linear"),
        function("tests_capture_home:double"),
    ]
    found = _observe(model, torch.ones(2, 4), targets)
    (linear,) = _of(found, "Linear")
    (double,) = _of(found, "tests_capture_home.double")
    blocks = ("blocks.0", "blocks.1", "blocks.2")
    assert linear.inside == double.inside == blocks
    assert linear.instances == tuple(f"{block}.inner" for block in blocks)
    assert all(block.inside == () for block in _of(found, "Block"))


def test_shares_add_up(home: ModuleType) -> None:
    """A slot that sleeps most of the step has most of its time; the slot around it has at least as much."""

    def slow(x: torch.Tensor) -> torch.Tensor:
        torch.ones(400_000).sort()
        return x

    home.double = slow  # type: ignore[attr-defined]
    model = Nest(home)
    found = _observe(model, torch.ones(2, 4), [layers(model, "Block", "Block"), function("tests_capture_home:double")])
    inner = sum(seen.share for o in _of(found, "tests_capture_home.double") for seen in o.seen)
    outer = sum(seen.share for o in _of(found, "Block") for seen in o.seen)
    assert 0.5 < inner <= outer <= 1.0


def test_recursion_is_counted_and_timed_once(home: ModuleType) -> None:
    """A function that calls itself is seen at each call, and its share stays within the step."""

    class Recursive(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return home.countdown(x, 3)  # type: ignore[no-any-return]

    found = _observe(Recursive(), torch.ones(2, 4), [function("tests_capture_home:countdown")])
    assert [sum(_calls(o).values()) for o in found.observations] == [1, 1, 1, 1]
    assert sum(seen.share for o in found.observations for seen in o.seen) <= 1.0
    assert all(o.inside == () for o in found.observations)


def test_a_slot_that_observing_itself_uses() -> None:
    """A function that copying the arguments makes use of is recorded for the model's calls only."""

    class Allocates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + torch.empty_strided((4,), (1,)).zero_()  # type: ignore[no-any-return]

    model, x, before = Allocates(), torch.ones(2, 4), torch.empty_strided
    targets = [layers(model, "Linear", "Linear"), function("torch:empty_strided")]
    found = capture(model, [Step(label="forward", run=lambda m: m(x), look=lambda m: look_at(m(x)))], targets, "cpu")
    (observation,) = _of(found, "torch.empty_strided")
    assert _calls(observation) == {"forward": 1}
    assert torch.empty_strided is before


@pytest.mark.parametrize("owner", [Methods, Heir])
@pytest.mark.parametrize("method", ["plain", "static", "of_class"])
def test_methods_bind_as_before(owner: type[Methods], method: str) -> None:
    """Methods of each kind, inherited or not, are observed and put back as the same objects."""

    class Caller(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            on_object: torch.Tensor = getattr(owner(), method)(x)
            return on_object if method == "plain" else on_object + getattr(owner, method)(x)

    before = dict(vars(owner))
    x = torch.ones(2, 4)
    expected = Caller()(x)
    steps = make_steps(Caller(), x, Mode.INFERENCE, "cpu")
    outputs: list[Any] = []
    kept = replace(steps[0], label="kept", run=lambda model: outputs.append(steps[0].run(model)))
    found = capture(Caller(), [kept], [function(f"{__name__}:{owner.__name__}.{method}")], "cpu")
    assert dict(vars(owner)) == before
    assert all(torch.equal(output, expected) for output in outputs)
    (observation,) = found.observations
    assert _calls(observation) == {"kept": 1 if method == "plain" else 2}
    first = observation.call.args[0]
    assert {
        "plain": isinstance(first, owner),
        "static": isinstance(first, torch.Tensor),
        "of_class": first is owner,
    }[method]


def test_a_module_in_a_functions_place(home: ModuleType) -> None:
    """A module object that is used as a function is observed like one, and is the same object afterwards."""
    as_layer = home.as_layer

    class Caller(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return home.as_layer(x)  # type: ignore[no-any-return]

    found = _observe(Caller(), torch.ones(2, 4), [function("tests_capture_home:as_layer")])
    assert _calls(found.observations[0]) == {"forward": 1}
    assert home.as_layer is as_layer
    assert "forward" not in as_layer.__dict__


@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_as_before(raises: bool) -> None:
    """Attributes, hooks, forwards, functions, flags and gradients stay, also when the model raises."""
    model = tiny("qwen3").train()
    norms = layers(model, "Norm", "RMSNorm")
    bound: Any = norms.instances[0][1]
    bound.forward = bound.forward
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    step = make_steps(model, token_ids(), Mode.TRAIN, "cpu")[0]
    runs: list[int] = []

    def run(module: nn.Module) -> object:
        runs.append(1)
        if raises and len(runs) > 4:  # the recording run
            module.get_submodule("model.norm")(torch.ones(1, 1, 32), "one too many")
        return step.run(module)

    home = sys.modules[type(model).__module__]
    before, function_before = _states(model), vars(home)["apply_rotary_pos_emb"]
    target = [norms, layers(model, "MLP", "MLP"), rotary(model)]
    if raises:
        with pytest.raises(CaptureError, match="step 'train 1x1': the model raised TypeError") as caught:
            capture(model, [Step(label="train 1x1", run=run, look=lambda m: look_at(run(m)))], target, "cpu")
        assert isinstance(caught.value.__cause__, TypeError)
    else:
        capture(model, [Step(label="train 1x1", run=run, look=lambda m: look_at(run(m)))], target, "cpu")
    assert vars(home)["apply_rotary_pos_emb"] is function_before
    assert str(_states(model)) == str(before)
    assert all(a.keys() == b.keys() for a, b in zip(_states(model), before, strict=True))
    assert [m for m in model.modules() if "forward" in m.__dict__] == [bound]
    assert torch.equal(first.grad, torch.ones_like(first))


def test_autocast_is_part_of_the_workload() -> None:
    """A capture under autocast says the dtype, and is another workload than one without."""
    model = nn.Sequential(nn.Linear(4, 4))
    targets = [layers(model, "Linear", "Linear")]
    plain = _observe(model, torch.ones(2, 4), targets).observations[0].workload
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = _observe(model, torch.ones(2, 4), targets).observations[0].workload
    assert (plain.context.autocast, cast.context.autocast) == ("", "bfloat16")
    assert plain.key != cast.key


def test_several_points_share_a_workload() -> None:
    """A workload that two points call is one observation that is seen in both, with a share for each."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    found = _observe(model, [torch.ones(2, 4), torch.ones(2, 4)], [layers(model, "Linear", "Linear")])
    (observation,) = found.observations
    assert _calls(observation) == {"forward": 2, "forward #2": 2}
    assert all(0 < seen.share <= 1 for seen in observation.seen)
    assert isinstance(observation.workload.args[0], TensorSpec)


def test_widths_of_one_class_are_apart() -> None:
    """Two norms of one class with different widths are two observations; tied instances are one place."""
    tied = nn.LayerNorm(4)
    model = nn.Sequential(tied, nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4), tied)
    found = _observe(model, torch.ones(2, 4), [layers(model, "Norm", "LayerNorm")])
    seen = sorted((o.instances, sum(_calls(o).values())) for o in found.observations)
    assert seen == [(("0",), 2), (("2",), 1)]


def test_recomputation_in_backward_is_counted() -> None:
    """With gradient checkpointing the forward runs again in the backward, and is counted as it runs."""

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return checkpoint(self.part, x, use_reentrant=False)

    model = Checkpointed()
    found = _observe(model, torch.ones(2, 4), [layers(model, "Linear", "Linear")], Mode.TRAIN)
    assert sum(_calls(o)["train"] for o in found.observations) == 2


def test_an_unknown_function_is_an_error() -> None:
    """A function slot whose target does not exist is refused by name, and the model is left alone."""
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RegistrationError, match="no_such"):
        _observe(model, torch.ones(2, 4), [layers(model, "Linear", "Linear"), function("math:no_such")])
    assert "forward" not in model[0].__dict__


def test_a_compiled_model_is_observed() -> None:
    """Slots inside a compiled model are seen as they are without compilation, and it stays compiled."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    compiled: Any = torch.compile(model, backend="eager")
    found = _observe(compiled, torch.ones(2, 4), [layers(compiled, "Linear", "Linear")], Mode.COMPILE)
    (observation,) = found.observations
    assert observation.instances == ("_orig_mod.0", "_orig_mod.1")
    assert _calls(observation) == {"forward": 2}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_capture_on_cuda() -> None:
    """On CUDA the recorded tensors are there, and the shares of the slots lie between 0 and 1."""
    model = tiny("qwen3").to("cuda")
    steps = make_steps(model, token_ids(), Mode.INFERENCE, "cuda")
    found = capture(model, steps, [layers(model, "MLP", "MLP"), rotary(model)], "cuda")
    assert all(o.call.args[0].is_cuda for o in found.observations)
    assert all(0 < seen.share < 1 for o in found.observations for seen in o.seen)
