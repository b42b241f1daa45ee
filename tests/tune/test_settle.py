"""What the whole model is timed for, and how often: the rules of settling, on steps whose times are a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from torch import nn

from tests.report import fabricate
from tests.tune.test_choose import contest
from twinkle_tune.kernel import Registry
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.clock import CpuClock
from twinkle_tune.profile.schema import Contest, Profile, Seen, StepResult
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune import settle
from twinkle_tune.tune.events import nobody


@dataclass(frozen=True)
class Named:
    """A step that is never run."""

    label: str


@dataclass
class Script:
    """The ratio of each step by the slots whose winners it calls; ``timed`` is what was asked for, in order."""

    ratios: Mapping[tuple[str, str], float]
    timed: list[tuple[str, str]] = field(default_factory=list)

    def __call__(
        self, model: nn.Module, steps: Sequence[Named], profile: Profile, *rest: object, **options: object
    ) -> tuple[StepResult, ...]:
        """In the place of ``time_steps``."""
        return tuple(self._result(step.label, profile) for step in steps)

    def _result(self, label: str, profile: Profile) -> StepResult:
        called = "+".join(sorted(c.slot.name for c in profile.winners if any(seen.step == label for seen in c.seen)))
        if not called:
            return StepResult(label=label)
        self.timed.append((label, called))
        ratio = self.ratios[label, called]
        return StepResult(
            label=label, original_us=(100.0,), tuned_us=(100.0 * ratio,), ratio=ratio, low=ratio, high=ratio
        )


def settled(monkeypatch: pytest.MonkeyPatch, script: Script, *contests: Contest) -> Profile:
    """The profile of these contests, with the script for the whole model, which agrees."""
    monkeypatch.setattr(settle, "time_steps", script)
    monkeypatch.setattr(settle, "disagreement", lambda *question: "")
    monkeypatch.setattr(settle, "plan_profile", lambda *question: Plan())
    labels = dict.fromkeys(seen.step for each in contests for seen in each.seen)
    whole = settle.Whole(
        model=nn.Identity(),
        steps=cast(Any, tuple(Named(label) for label in labels)),
        clock=CpuClock(),
        registry=Registry(),
        tell=nobody,
        seed=0,
    )
    return whole.settled(replace(fabricate.empty(), contests=contests))


def won(slot: str, *, share: float = 0.1, step: str = "prefill") -> Contest:
    """A contest that a kernel won by a fifth, in one step."""
    made = contest(slot, original_us=100.0, ratio=0.8, step=step)
    return replace(made, seen=(Seen(step=step, calls=1, share=share),))


def test_a_step_whose_winners_stayed_is_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The winner of one step is taken back; the other step keeps the times that it has."""
    script = Script({("prefill", "A"): 0.9, ("decode", "B"): 1.1})
    found = settled(monkeypatch, script, won("A"), won("B", step="decode"))
    assert [each.selection.winner for each in found.contests] == ["fast", ORIGINAL]
    assert [step.ratio for step in found.steps] == [0.9, 1.0]
    assert script.timed == [("prefill", "A"), ("decode", "B")]


def test_who_promises_next_to_nothing_gives_way_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two winners the one that saves 0.1% of a slow step is taken back untimed; with the other it is fast."""
    script = Script({("prefill", "A+B"): 1.01, ("prefill", "A"): 0.95})
    found = settled(monkeypatch, script, won("A"), won("B", share=0.005))
    assert [each.selection.winner for each in found.contests] == ["fast", ORIGINAL]
    assert "with it the whole step 'prefill' took 1.010" in found.contests[1].selection.reason
    assert script.timed == [("prefill", "A+B"), ("prefill", "A")]


def test_who_promises_much_is_timed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two that should show in the step is timed by itself, and the one that does not gain is taken back."""
    script = Script({("prefill", "A+B"): 1.01, ("prefill", "A"): 1.02, ("prefill", "B"): 0.95})
    found = settled(monkeypatch, script, won("A"), won("B"))
    assert [each.selection.winner for each in found.contests] == [ORIGINAL, "fast"]
    assert script.timed == [("prefill", "A+B"), ("prefill", "A"), ("prefill", "B"), ("prefill", "B")]
