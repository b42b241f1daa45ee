"""Inductor's modes as ways of their own: for a CUDA device alone, with settings that nobody else's code has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategy.planted import COMPILING, Layers
from twinkle_tune.capture.held_out import tried_steps
from twinkle_tune.contest.model import ModelStage, Way
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.setups import WayIn, backend_of, way_layers
from twinkle_tune.measure.clock import CpuClock, clock_for
from twinkle_tune.mode import Mode
from twinkle_tune.profile.setup import CompiledStep
from twinkle_tune.source.inductor import Inductor
from twinkle_tune.strategy import on_cuda
from twinkle_tune.strategy.backend import IN_CPP, Backend
from twinkle_tune.strategy.compile_mode import MAX_AUTOTUNE, REDUCE_OVERHEAD, CompileMode
from twinkle_tune.strategy.compile_model import CompileModel
from twinkle_tune.terms import Terms
from twinkle_tune.tune.way_contest import Hall, WayContest

pytestmark = pytest.mark.usefixtures("compiled_anew")

MODES = pytest.mark.parametrize("mode", [REDUCE_OVERHEAD, MAX_AUTOTUNE], ids=lambda mode: mode.name)


@MODES
def test_the_installed_inductor_has_the_settings(mode: CompileMode) -> None:
    """Renamed in a later torch, they would be an error at the first call on a device."""
    assert {name for name, _ in mode.options} | IN_CPP.keys() <= set(torch._inductor.list_options())


@MODES
def test_without_a_cuda_device_it_says_why(mode: CompileMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one it fits; what overwrites its answers is for inference."""
    assert mode.why_not(Layers(), trains=False) == "it is for CUDA devices, and the model is on cpu"
    monkeypatch.setattr(on_cuda, "KIND", "cpu")
    assert mode.why_not(Layers(), trains=False) == ""
    assert mode.why_not(Layers(), trains=True) == ("it is for inference" if mode is REDUCE_OVERHEAD else "")


def bound(model: nn.Module, mode: Any) -> Backend:
    """Let a model run so, for every call."""
    backend = backend_of(gives_up=True, attention="")
    bind_plan(model, Plan(layers=way_layers(model, [WayIn(strategy=mode, backend=backend)])))
    return backend


def spied(monkeypatch: pytest.MonkeyPatch, made: Callable[[Any], Callable[..., Any]]) -> list[Any]:
    """Let graphs be compiled to what is made of them; gives the settings with which they were to be."""
    asked: list[Any] = []

    def compile_fx(graph: Any, inputs: Any, config_patches: Any = None) -> Callable[..., Any]:
        asked.append(config_patches)
        return made(graph)

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    return asked


@pytest.mark.parametrize("strategy", [*COMPILING, REDUCE_OVERHEAD, MAX_AUTOTUNE], ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("grad", [False, True])
def test_inductor_is_told_the_settings(strategy: Any, grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own way, and no other's; that a CPU's are called from C++ is for inference."""
    asked = spied(monkeypatch, lambda graph: graph.forward)
    model = Layers()
    bound(model, strategy)
    with torch.set_grad_enabled(grad):
        model(torch.randn(4, 8))
    options = dict(getattr(strategy, "options", ())) | ({} if grad else IN_CPP)
    assert asked
    assert all(patches == (options or None) for patches in asked)


def test_what_cannot_be_called_from_cpp_is_called_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same code; what fails either way says why."""
    asked: list[Any] = []
    is_broken = False

    def compile_fx(graph: Any, inputs: Any, config_patches: Any = None) -> Callable[..., Any]:
        asked.append(config_patches)
        if config_patches or is_broken:
            raise NotImplementedError(f"{len(asked)} of 2")
        return graph.forward  # type: ignore[no-any-return]

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    model, x = nn.Tanh(), torch.randn(4, 8)
    backend = bound(model, CompileModel())
    with torch.no_grad():
        assert torch.equal(model(x), x.tanh())
    assert (asked, backend.graphs) == ([IN_CPP, None], 1)
    asked, is_broken = [], True
    with torch.no_grad(), pytest.raises(Exception, match="2 of 2"):
        model(torch.randn(5, 8))


@pytest.mark.parametrize(("grad", "calls"), [(False, 1), (True, 0)])
def test_a_cpus_answers_are_the_same_from_cpp(grad: bool, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled in earnest."""
    seen: list[bool] = []
    in_cpp = Inductor.__call__

    def call(self: Any, graph: Any, inputs: Any) -> Any:
        seen.append(self._more == {"config_patches": IN_CPP})
        return in_cpp(self, graph, inputs)

    monkeypatch.setattr(Inductor, "__call__", call)
    torch.manual_seed(0)
    model, x = Layers(2), torch.randn(4, 8)
    expected = model(x)
    bound(model, CompileModel())
    with torch.set_grad_enabled(grad):
        answers = [model(x) for _ in range(2)]
    assert sum(seen) == calls
    for answer in answers:
        torch.testing.assert_close(answer, expected)


def test_an_answer_of_recorded_code_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call writes where the last one's answer was; a part of an argument stays one."""
    places: list[Tensor] = []

    def recorded(graph: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            answer, same = graph.forward(*args)
            places.extend([] if places else [answer])
            return [places[0].copy_(answer), same]

        return run

    class Both(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x[:1]

    spied(monkeypatch, recorded)
    model, x = Both(8, 8), torch.randn(4, 8)
    backend = bound(model, REDUCE_OVERHEAD)
    with torch.no_grad():
        first, part = model(x)
        kept = first.clone()
        model(torch.randn(4, 8))
        assert torch.equal(first, kept)
        assert part.data_ptr() == x.data_ptr()
    assert backend.graphs == 1


def test_memory_of_recorded_code_is_not_known() -> None:
    """What it keeps between calls is in no peak of a call: no figure is better than one that is too small."""
    model, backend = Layers().eval(), backend_of(gives_up=True, attention="")
    (tried,) = tried_steps(model, torch.randn(4, 8), Mode.INFERENCE, "cpu")
    way = Way(name="x", source="compile", runner=model, plan=Plan(), backend=backend)
    stage = ModelStage(model, tried.step, CpuClock(), seed=0, seconds=0.0)

    def call() -> object:
        return model(torch.randn(4, 8))

    stage._placing.ways[call] = way
    known = stage.clock.peak_bytes(call)
    assert known is not None
    backend.held_bytes = 1000
    assert stage.clock.peak_bytes(call) == known + 1000
    backend.options = dict(REDUCE_OVERHEAD.options)
    assert stage.clock.peak_bytes(call) is None


@pytest.mark.parametrize(
    ("high", "left_s", "tried"),
    [(0.9, math.inf, True), (0.9, 200.0, True), (0.9, 140.0, False), (1.1, math.inf, False)],
)
def test_many_forms_are_tried_only_where_compiling_pays(
    high: float, left_s: float, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where compiled code is clearly faster, and ten times what it took to compile is left."""
    monkeypatch.setattr(on_cuda, "KIND", "cpu")
    monkeypatch.setattr("twinkle_tune.tune.way_contest.time.monotonic", lambda: 1000.0)
    asked: list[str] = []

    def timed(self: Any, names: Sequence[str], **_: Any) -> dict[str, Any]:
        asked.extend(names)
        for name in names:
            top = high if name == "compile" else 1.2
            self.found.append(CompiledStep(label="f", way=name, ratio=0.8, low=0.5, high=top, compile_s=15.0))
        return {}

    monkeypatch.setattr(WayContest, "_timed", timed)
    monkeypatch.setattr(WayContest, "_look_again", lambda self: None)
    monkeypatch.setattr(WayContest, "_is_right_again", lambda self, way: True)
    model, terms = Layers().eval(), Terms(mode=Mode.INFERENCE, device="cpu")
    (each,) = tried_steps(model, torch.randn(4, 8), Mode.INFERENCE, "cpu")
    hall = Hall(model=model, clock=clock_for("cpu"), terms=terms, seconds=9.0, ends_s=1000.0 + left_s)
    WayContest(hall, each.step, None).won()
    assert asked[:4] == ["device graphs", "compile", "compile blocks", "compile reduce-overhead"]
    assert ("compile max-autotune" in asked) is tried
