"""How much of a step its slots cover, what their winners gained of it, and what is left.

After Amdahl's law ("Validity of the single processor approach to achieving large scale computing capabilities", AFIPS
1967): who makes a part of a whole faster saves at most that part. The parts are calls x median time, as reports show
them; they are no bound, because calls of their own do not take just the time that they take inside a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from twinkle_tune.catalog.block import BLOCK
from twinkle_tune.outcome import UNDECIDED
from twinkle_tune.profile.nested import called_in, parts_inside
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.profile.shares import step_us
from twinkle_tune.report.text import percent, reading

_STEPS_TOLD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Amdahl:
    """Shares of the original step's time, 0 to 1.

    Attributes:
        covered: inside the calls of its slots, a slot within another counted once, by the times of the calls.
        promised: what the winners save by their own ratios.
        gained: what was measured with all of them, negative for a loss; None where nothing was compared.
    """

    covered: float
    promised: float
    gained: float | None

    @property
    def left(self) -> float:
        """What still passes inside the slots, by the winners' own ratios."""
        return max(0.0, self.covered - self.promised)


def amdahl(profile: Profile, step: StepResult) -> Amdahl:
    """The shares of one step of a profile.

    A layer's slot inside another one is known by its path. A function that is called inside a layer's slot is not, and
    counts beside it. A slot that is the whole model covers nothing by itself.
    """
    here = [contest for contest in profile.contests if any(seen.step == step.label for seen in contest.seen)]
    parts = called_in(here, step.label)
    inside = parts_inside(parts)
    covered = min(1.0, sum(_share(c, step.label) * (1 - part) for c, part in zip(parts, inside, strict=True)))
    promised = sum(_share(contest, step.label) * (1 - contest.selection.ratio) for contest in here)
    gained = 1 - step.ratio if step.tuned_us else None
    # Calls that are timed one after the other find their caches warm: what was gained was there to be gained.
    return Amdahl(covered=max(covered, gained or 0.0) if covered else 0.0, promised=promised, gained=gained)


def amdahl_text(profile: Profile, step: StepResult) -> str:
    """The line of a report; "" where no slot was seen in the step."""
    found = amdahl(profile, step)
    if not found.covered:
        return ""
    # Where the step has no time of its own, as in an older profile, the shares of a training step are as seen.
    of = ", by the time of its forward alone" if profile.mode.trains and step_us(step) is None else ""
    covers = f"{percent(found.covered)} of this step is replaceable{of}."
    if found.gained is None:
        return f"{covers} The original runs in all of it." if decided(profile, step) == "all" else covers
    measured = reading(step.ratio, step.low, step.high)
    if profile.setups:
        return f"{covers} Measured on the whole model, run another way: {measured}."
    # Winners by memory may take more time than the originals.
    way = "faster" if found.promised >= 0 else "slower"
    predicted = f"Predicted from single slots: {percent(abs(found.promised))} {way}."
    return f"{covers} {predicted} Measured on the whole model: {measured}."


def outside_text(profile: Profile) -> str:
    """How much of the steps no kernel is offered for, and which parts that is; "" where no step is known.

    A block that is compiled as one holds parts of both kinds: it counts by its parts.
    """
    parts = replace(profile, contests=tuple(contest for contest in profile.contests if contest.slot.name != BLOCK))
    shares = [(step.label, 1 - amdahl(parts, step).covered) for step in profile.steps if not step.left_out]
    told = " and ".join(f"{percent(share)} of {label}" for label, share in shares[:_STEPS_TOLD])
    names = ", ".join(profile.model.unlooked)
    which = f": {names}." if names else f". Which parts these are: twinkle-tune list {profile.model.name}."
    return f"Not replaceable by themselves, about {told}{which}" if told else ""


def decided(profile: Profile, step: StepResult) -> Literal["all", "some", "none"]:
    """Of how many of the contests that a step calls the outcome is known; "all" where it calls none."""
    here = [c for c in profile.contests if any(seen.step == step.label for seen in c.seen)]
    known = sum(contest.status not in UNDECIDED for contest in here)
    if known == len(here):
        return "all"
    return "some" if known else "none"


def _share(contest: Contest, step: str) -> float:
    return sum(seen.share for seen in contest.seen if seen.step == step)
