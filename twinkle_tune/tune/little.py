"""What is too little to matter: contests that could save next to nothing of any step, and winners that do not.

Each is let go only while all that was let go could not add up to more than a hundredth of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from twinkle_tune.capture.capture import Observation
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Contest, Found
from twinkle_tune.profile.shares import original_us
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.choose import keep_original

LEAST = 0.003
"""Share of a step: what saves less of every step that calls it is let go."""
TOGETHER = 0.01
"""Share of a step that all that is let go could save together, at most."""
WORTH_MORE = 0.01
"""Share of a step that a winner must save for sizes that no step calls to be looked at, and for runners-up."""

Shares = Mapping[str, float]
"""By the label of a step: a share of its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Little:
    """What a run lets go. As it is made here, nothing.

    Attributes:
        step_us: microseconds of each step, by label.
        ours: ids of the observations for which candidates of the catalog compete and no others: what somebody
            registered is tried, however little it could save.
        not_held: ids of the observations for which no contest is held, with what it could save of a step at most.
        let_go: what could be saved of each step by what was let go so far.
    """

    step_us: Shares = field(default_factory=dict)
    ours: frozenset[int] = frozenset()
    not_held: Mapping[int, float] = field(default_factory=dict)
    let_go: dict[str, float] = field(default_factory=dict)

    def unheld(self, observation: Observation) -> Contest | None:
        """The contest that is not held, since it could save too little; None for any other."""
        most = self.not_held.get(id(observation))
        if most is None:
            return None
        reason = f"not tried: it could save at most {most:.2%} of a step, which is too little to matter"
        lost = Selection(winner=ORIGINAL, reason=reason, status="too little", most_saved=round(most, 6))
        return observation.contest(Found(trials=(), selection=lost))

    def is_little(self, observation: Observation, contest: Contest) -> bool:
        """Whether a contest has a winner that saves too little for its place."""
        if contest.selection.winner == ORIGINAL or id(observation) not in self.ours or not contest.seen:
            return False
        return _may_go(self.let_go, saved_of(contest, self.step_us, contest.selection.low))

    def decided(self, observation: Observation, contest: Contest) -> Contest:
        """The contest, or what is left of one whose winner is too little."""
        return self.without_winner(contest) if self.is_little(observation, contest) else contest

    def without_winner(self, contest: Contest) -> Contest:
        """A contest with the original in the place of a winner that is too little, which is let go from now on."""
        saved = saved_of(contest, self.step_us, contest.selection.low)
        _let_go(self.let_go, saved)
        most = max(saved.values())
        kept = keep_original(contest, f"it would save at most {most:.2%} of a step", "too little")
        return replace(kept, selection=replace(kept.selection, most_saved=round(most, 6)))

    def is_worth_more(self, observation: Observation, contest: Contest) -> bool:
        """Whether a winner saves so much that more work on it pays: other sizes, and a runner-up in its place."""
        if id(observation) not in self.ours or not contest.seen:
            return True
        return max(saved_of(contest, self.step_us, contest.selection.ratio).values()) >= WORTH_MORE


def little_of(
    ordered: Sequence[Observation], bounds: Mapping[int, Shares], ours: frozenset[int], step_us: Shares
) -> Little:
    """What a run lets go before any contest: those of ``ours`` that could save least.

    Args:
        ordered: the observations, those that can save most first.
        bounds: by id, what each could save of the steps that call it.
        ours: ids of those that may be let go.
        step_us: microseconds of each step, by label.
    """
    let_go: dict[str, float] = {}
    not_held: dict[int, float] = {}
    for observation in reversed(ordered):
        bound = bounds[id(observation)]
        if id(observation) in ours and bound and _may_go(let_go, bound):
            _let_go(let_go, bound)
            not_held[id(observation)] = max(bound.values())
    return Little(step_us=step_us, ours=ours, not_held=not_held, let_go=let_go)


def saved_of(contest: Contest, step_us: Shares, ratio: float) -> Shares:
    """What a contest saves of the steps that call it, at a ratio of times: by the larger of its two shares.

    They are the one that was seen while the model ran, and calls x the original's time, in training with the backward.
    """
    call_us = None if contest.block else original_us(contest)

    def spent(label: str, calls: int, share: float) -> float:
        return max(share, 0.0 if call_us is None else min(1.0, calls * call_us / step_us[label]))

    return {seen.step: spent(seen.step, seen.calls, seen.share) * (1 - ratio) for seen in contest.seen}


def _may_go(let_go: Shares, saved: Shares) -> bool:
    little = all(share < LEAST for share in saved.values())
    return little and all(let_go.get(label, 0.0) + share <= TOGETHER for label, share in saved.items())


def _let_go(let_go: dict[str, float], saved: Shares) -> None:
    for label, share in saved.items():
        let_go[label] = let_go.get(label, 0.0) + share
