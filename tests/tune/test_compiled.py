"""torch.compile of the whole model beside the original: a figure, and no selection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.tune.toy import QUICK
from twinkle_tune import load_profile, tune_model
from twinkle_tune.capture.step import make_steps
from twinkle_tune.contest import model as model_stage
from twinkle_tune.kernel import Registry
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import CompiledStep
from twinkle_tune.terms import Terms
from twinkle_tune.tune.verdict import compiled_text
from twinkle_tune.tune.whole import time_compiled

STEP = CompiledStep(label="prefill 1x8", ratio=0.5, low=0.4, high=0.6, compile_s=20)


def test_the_compiled_model_is_timed_where_it_is_asked_for(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are in the profile and its verdict, survive saving, and select nothing."""
    monkeypatch.setattr(model_stage, "_ROUNDS", 20)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), torch.randn(4, 8)
    without = tune_model(model, x, registry=Registry(), settings=QUICK, candidates=["original"])
    made = tune_model(model, x, registry=Registry(), settings=QUICK, candidates=["original"], try_compile=True)
    assert without.compiled == ()
    (step,) = made.compiled
    assert (step.label, step.problem, len(step.original_us)) == (made.steps[0].label, "", len(step.compiled_us))
    assert step.low <= step.ratio <= step.high
    assert step.compile_s > 0
    assert "torch.compile of the whole original model" in made.verdict
    assert load_profile(made.save(tmp_path / "p.json")) == made
    assert not made.winners


def test_a_model_that_cannot_be_compiled_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason stands in the verdict, and the run has not failed."""

    class Refuses(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", lambda model: Refuses())
    made = tune_model(
        nn.Linear(8, 8), torch.randn(4, 8), registry=Registry(), settings=QUICK, candidates=["original"],
        try_compile=True,
    )  # fmt: skip
    (step,) = made.compiled
    assert step.problem == "RuntimeError: no compiler found"
    assert step.original_us == ()
    assert "cannot be compiled (RuntimeError: no compiler found)" in made.verdict


class Off(nn.Module):
    """What computes something else: a hundredth more, or with another draw of random numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.draws = model, isinstance(model, nn.Dropout)

    def forward(self, x: torch.Tensor) -> Any:
        """The model's result, off."""
        if self.draws:
            torch.rand(3)
        return self.model(x) if self.draws else self.model(x) * 1.01


@pytest.mark.parametrize(
    ("model", "cause", "told"),
    [
        (nn.Linear(8, 8), "wrong", "is refused (point 2, outputs: the whole model's outputs came out 0.01 of"),
        (nn.Dropout(), "inconclusive", "cannot be checked (inconclusive: the model draws random numbers"),
    ],
)
def test_a_compiled_model_that_is_wrong_is_refused(
    model: nn.Module, cause: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose outputs are off has no time, and the verdict says what is off; of other draws nothing can be told."""
    monkeypatch.setattr(torch, "compile", Off)
    steps = make_steps(model.train(), torch.randn(4, 8), Mode.INFERENCE, "cpu")
    found = time_compiled(model, steps, clock_for("cpu"), Terms(mode=Mode.INFERENCE, device="cpu"), seconds=0.0)
    (step,) = found
    assert (step.cause, step.compiled_us) == (cause, ())
    assert f"{step.label} {told}" in compiled_text(found)


def test_the_sentence() -> None:
    """It says what a step takes and what compiling took; the other mode is named only where it pays."""
    assert compiled_text([]) == ""
    assert compiled_text([STEP]) == (
        "torch.compile of the whole original model, which took 20 s: prefill 1x8 50.0% faster (2.00x). "
        "--mode compile profiles it."
    )
    slower = CompiledStep(label="d", ratio=1.1, low=0.9, high=1.2)
    assert "--mode" not in compiled_text([slower])
    assert "--mode" not in compiled_text([CompiledStep(label="d", high=0.5, problem="no compiler")])
