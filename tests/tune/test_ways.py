"""Ways of running the whole model beside the original: figures, refusals, and who wins."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.capture.trace import trace_of
from tests.catalog.catalog_families import tiny
from tests.report import fabricate
from tests.tune.toy import QUICK
from twinkle_tune import load_profile, tune_model
from twinkle_tune.capture.held_out import Tried
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.contest import model as model_stage
from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.kernel import Registry
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.report.html import html_pieces
from twinkle_tune.report.markdown import markdown_text
from twinkle_tune.report.review import review
from twinkle_tune.report.terminal import SHORT_LINES, terminal_text
from twinkle_tune.report.ways import way_lines, way_plots
from twinkle_tune.terms import Terms
from twinkle_tune.tune.verdict import compiled_problems, compiled_text
from twinkle_tune.tune.way_contest import Hall, winner_of
from twinkle_tune.tune.ways import time_ways

WHOLE = ("compile", "compile dynamic")
"""Ways that compile the model as a whole."""
ALL = ("compile", "compile blocks", "compile dynamic")
STEP = CompiledStep(label="prefill 1x8", ratio=0.5, low=0.4, high=0.6, compile_s=20)


def test_the_compiled_model_is_timed_where_it_is_asked_for(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are in the profile, and survive saving."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), torch.randn(4, 8)
    without = tune_model(model, x, registry=Registry(), settings=QUICK, candidates=["original"])
    made = tune_model(model, x, registry=Registry(), settings=QUICK, candidates=["original"], ways=True)
    assert without.compiled == ()
    assert made.compiled[0].way == "compile"
    for step in made.compiled:
        assert (step.label, step.problem, len(step.original_us)) == (made.steps[0].label, "", len(step.compiled_us))
        assert step.low <= step.ratio <= step.high
        assert step.compile_s > 0
    assert load_profile(made.save(tmp_path / "p.json")) == made


def nobody(event: object) -> None:
    """Listens to nothing."""


def found_by(model: nn.Module, steps: Sequence[Step], mode: Mode, seconds: float) -> tuple[CompiledStep, ...]:
    """How each way fared in steps without others."""
    tried = [Tried(step=step, again=None, held_out=()) for step in steps]
    terms = Terms(mode=mode, device="cpu")
    hall = Hall(model=model, clock=clock_for("cpu"), terms=terms, seconds=seconds)
    return time_ways(hall, tried, nobody).compiled


def compiled_by(monkeypatch: pytest.MonkeyPatch, made: Callable[[Any], Callable[..., Any]]) -> None:
    """Let graphs be compiled to what is made of them."""
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **options: made(graph))


def tried(model: nn.Module) -> Profile:
    """A profile with the ways of compiling a model of width 8."""
    return tune_model(model, torch.randn(4, 8), registry=Registry(), settings=QUICK, candidates=["original"], ways=True)


def test_a_model_that_cannot_be_compiled_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason stands in the verdict for each way, and the run has not failed."""

    def refuses(graph: object) -> Callable[..., Any]:
        raise RuntimeError("no compiler found")

    compiled_by(monkeypatch, refuses)
    made = tried(nn.Linear(8, 8))
    assert [(step.problem, step.cause, step.original_us) for step in made.compiled] == [
        ("RuntimeError: no compiler found", "raised", ())
    ] * 2
    assert "compile failed (RuntimeError: no compiler found)" in compiled_text(made.compiled)
    assert made.setups == ()


@pytest.mark.parametrize(
    ("model", "made", "cause", "told"),
    [
        (
            nn.Linear(8, 8),
            lambda graph: lambda *args: tuple(each * 1.01 for each in graph.forward(*args)),
            "wrong",
            "is refused (point 2, outputs: the whole model's outputs came out 0.01 of",
        ),
        (
            nn.Dropout(),
            lambda graph: lambda *args: (torch.rand(3), graph.forward(*args))[1],
            "inconclusive",
            "cannot be checked (inconclusive: the model draws random numbers",
        ),
    ],
    ids=["wrong", "other draws"],
)
def test_a_compiled_model_that_is_wrong_is_refused(
    model: nn.Module, made: Callable[[Any], Callable[..., Any]], cause: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose outputs are off has no time, and the verdict says what is off; of other draws nothing can be told."""
    compiled_by(monkeypatch, made)
    steps = make_steps(model.train(), torch.randn(4, 8), Mode.INFERENCE, "cpu")
    found = found_by(model, steps, Mode.INFERENCE, 0.0)
    assert [(step.cause, step.compiled_us) for step in found] == [(cause, ())] * 2
    assert f"compile {told}" in compiled_text(found)


def untold_by_torch(model: nn.Module) -> dict[str, Any]:
    """All of a model but the mark that torch.compile leaves on parameters."""
    return {path: each for path, each in trace_of(model).items() if "_dynamo_static_input_type" not in path}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAIN])
def test_all_ways_compete_in_each_step_and_leave_no_trace(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of a tiny Llama, with dynamic shapes, and its blocks: each right, timed in the same rounds."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    compiled_by(monkeypatch, lambda graph: graph.forward)
    model, ids = tiny("llama"), torch.randint(3, 64, (1, 8))
    inputs = {"input_ids": ids} | ({"labels": ids} if mode.trains else {})
    steps = make_steps(model, inputs, mode, "cpu")
    before = untold_by_torch(model)
    found = found_by(model, steps, mode, 0.1)
    assert untold_by_torch(model) == before
    assert not any(each.problem for each in found)
    for step in steps:
        assert {each.way for each in found if each.label == step.label} >= {"compile", "compile blocks"}
    assert all(len(each.original_us) == len(each.compiled_us) >= 6 for each in found)


CALLS = [0]


def never_alike(x: Tensor) -> Tensor:
    """Has a number in its guards that is another at each call."""
    CALLS[0] += 1
    return x * 1.0 if f"{CALLS[0]}" else x


class Layer(nn.Module):
    """A block whose number stands in the guards of its code."""

    def __init__(self, number: int, *, breaks: bool = False) -> None:
        super().__init__()
        self.number, self.breaks, self.inner = number, breaks, nn.Sequential(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8) to the same."""
        if self.breaks:
            torch._dynamo.graph_break()
        return torch.tanh(self.inner(x)) * (1 + self.number / 10)


class Layers(nn.Module):
    """Nine blocks, and before them what a test plants."""

    def __init__(self, plant: Callable[[Tensor], Tensor] | None = None, *, breaks: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(number, breaks=breaks) for number in range(9))
        self.plant = plant

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 8) to the same."""
        x = x if self.plant is None else self.plant(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Skipped(nn.Linear):
    """Runs uncompiled whoever compiles it."""

    forward = torch.compiler.disable(nn.Linear.forward)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("make", "refused", "reason"),
    [
        (lambda: Layers(never_alike), WHOLE, "it is compiled anew at each call, though all are alike"),
        (
            lambda: Layers(breaks=True),
            ("compile", "compile blocks", "compile dynamic"),
            "one function of it was compiled 9 times in two calls",
        ),
        (lambda: Skipped(8, 8), WHOLE, "torch.compile ran it uncompiled: "),
    ],
    ids=["at each call", "beyond the limit", "skipped"],
)
def test_a_way_that_would_run_uncompiled_has_no_figure(
    make: Callable[[], nn.Module], refused: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled at each call, in more versions than torch.compile allows, or not at all; the rest is timed."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    compiled_by(monkeypatch, lambda graph: graph.forward)
    model = make()
    steps = make_steps(model, torch.randn(4, 8), Mode.INFERENCE, "cpu")
    found = found_by(model, steps, Mode.INFERENCE, 0.1)
    out = [step for step in found if step.way in refused]
    assert [(step.way, step.problem[: len(reason)], step.compiled_us) for step in out] == [
        (way, reason, ()) for way in refused
    ]
    assert all(step.compiled_us for step in found if step not in out)


def test_a_profile_from_before_there_were_ways_is_read(tmp_path: Path) -> None:
    """Its figures are of the model compiled as a whole. One way of a step twice is refused."""
    profile = replace(fabricate.normal(), compiled=(STEP,))
    path = profile.save(tmp_path / "p.json")
    text = path.read_text()
    older = tmp_path / "older.json"
    older.write_text(text.replace('"way": "compile",', "", 1))
    assert '"way"' not in older.read_text()
    assert load_profile(older) == profile
    with pytest.raises(ProfileError, match="compiled step prefill 1x8: got the way 'compile', expected each"):
        load_profile(replace(profile, compiled=(STEP, STEP)).save(tmp_path / "twice.json"))


def test_the_sentence() -> None:
    """The best way of each step with its interval, and the others in short."""
    assert compiled_text([]) == ""
    others = [replace(STEP, way="compile blocks", ratio=0.4, low=0.3, high=0.45, compile_s=1.0)]
    others += [replace(STEP, way="compile dynamic", problem="it is off", cause="wrong", compile_s=0.0)]
    slower = CompiledStep(label="d", ratio=1.1, low=0.9, high=1.2)
    assert compiled_text([STEP, *others, slower]) == (
        "Ways of running the whole model (compiling took 21 s): prefill 1x8: compile blocks 0.40 of the time "
        "(0.30 to 0.45), compile 0.50, compile dynamic is refused; d: compile 1.10 of the time (0.90 to 1.20, not "
        "clearly faster)."
    )
    assert list(compiled_problems([STEP, *others])) == ["prefill 1x8: compile dynamic is refused: it is off."]


def test_it_fits_a_screen() -> None:
    """However many steps and ways there are, and in place of other notes; the whole report has a table of all."""
    steps = [replace(STEP, label=f"prefill {n}x8", way=way) for n in range(8) for way in ("compile", "compile blocks")]
    profile = replace(fabricate.normal(), compiled=tuple(steps))
    short, whole = (terminal_text(profile, "p.json", width=80, full=full) for full in (False, True))
    assert len(short.splitlines()) <= SHORT_LINES
    assert "Ways of running it, time ÷ original in their contest (compiling took 320 s)" in short
    assert "prefill 0x8: compile 0.50, compile blocks 0.50" in short
    assert "Ways of running the whole model" in whole
    assert len(re.findall(r"prefill 7x8 +compile( blocks)? +0.500", whole)) == 2


def test_after_how_many_steps_a_way_has_paid() -> None:
    """Compiling took 2 s and a step of 10 ms takes half as long: 400 steps. Who is not clearly faster never pays."""
    way = replace(STEP, original_us=(9e3, 1e4, 3e4), ratio=0.5, low=0.4, high=0.6, compile_s=2.0)
    way = replace(way, original_peak_bytes=4096, compiled_peak_bytes=3072)
    unclear = replace(way, way="compile blocks", high=1.01)
    wrong = replace(way, way="compile dynamic", problem="it is off", cause="wrong")
    setup = Setup(label=STEP.label, way="compile", calls=(), model="")
    profile = replace(fabricate.normal(), compiled=(wrong, unclear, way), setups=(setup,))
    lines = list(way_lines(profile))
    assert [(line.way, line.runs, line.pays) for line in lines] == [
        ("compile blocks", False, "-"),
        ("compile", True, "400 steps"),
        ("compile dynamic", False, "-"),
    ]
    assert lines[2].ratio == "refused"
    assert [line.memory for line in lines] == ["3.00 KiB (0.750)"] * 2 + ["-"]
    (plot,) = way_plots(profile)
    assert [(row["name"], row["role"]) for row in plot.rows] == [
        ("compile blocks", "other"),
        ("compile", "winner"),
        ("original", "original"),
    ]
    for text in (markdown_text(profile), "".join(html_pieces(profile)), terminal_text(profile, "p.json", full=True)):
        assert "400 steps" in text
        assert "prefill 1x8: compile dynamic is refused: it is off." in text


@pytest.mark.parametrize(("calls", "won"), [(None, "b"), (1, None), (199, None), (201, "a"), (100_000, "b")], ids=str)
def test_a_number_of_calls_decides_by_all_of_their_time(calls: int | None, won: str | None) -> None:
    """a saves 5 of 10 ms and takes 1 s to compile, b 6 ms and 10 s: nothing pays in 199 calls, b in very many."""
    a = CompiledStep(label="f", way="a", original_us=(1e4,), ratio=0.5, low=0.4, high=0.6, compile_s=1.0)
    b = CompiledStep(label="f", way="b", original_us=(1e4,), ratio=0.4, low=0.3, high=0.5, compile_s=10.0)
    assert winner_of([a, b], calls) == won


@pytest.mark.parametrize(("calls", "ways", "told"), [(0, True, "at least 1"), (5, False, "without ways")])
def test_calls_that_mean_nothing_are_refused(calls: int, ways: bool, told: str) -> None:
    """Before anything is run."""
    with pytest.raises(TuneError, match=told):
        tune_model(nn.Linear(8, 8), torch.randn(4, 8), calls=calls, ways=ways)


def test_diff_names_the_ways() -> None:
    """Which way ran a step then and now stands beside what it gained."""
    before = fabricate.normal()
    label = before.steps[0].label
    after = replace(before, setups=(Setup(label=label, way="compile", calls=(), model="", kernels=True),))
    told = next(line for line in review(before, after, everything=True).steps if line.startswith(label))
    then, now = told.split(" → ")[:2]
    assert "compile" not in then
    assert now.startswith("compile + kernels, ")


def test_a_step_that_the_model_does_not_take_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What generation raises on this model is told of each way; the other step is timed."""
    compiled_by(monkeypatch, lambda graph: graph.forward)
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    model: Any = tiny("llama", num_hidden_layers=1)

    def refuses(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no text from me")

    model.generate = refuses
    steps = make_steps(model, {"input_ids": torch.randint(3, 64, (1, 8))}, Mode.INFERENCE, "cpu", growing=True)
    found = found_by(model, steps, Mode.INFERENCE, 0.0)
    generate = [step for step in found if step.label.startswith("generate")]
    assert [(step.way, step.cause) for step in generate] == [(way, "inconclusive") for way in ALL]
    assert all("does not take the step (ValueError: no text from me)" in step.problem for step in generate)
    assert all(step.compiled_us for step in found if step not in generate)
