"""A run that starts from another machine's profile: only what won there competes here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twinkle_tune.capture.capture import Observation
from twinkle_tune.cause import LASTING
from twinkle_tune.outcome import UNDECIDED, Selection
from twinkle_tune.profile.schema import Contest, Found, Profile
from twinkle_tune.profile.setup import Setup, way_name
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.strategy import STRATEGIES

_NOBODY = "not tried: nothing but the original won it in the profile that the run starts from"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A profile of the same model from elsewhere.

    Attributes:
        profile: the profile.
        whose: whose it is ("friends/profiles at commit 0123456789ab").
        alone: whether only its winners are tried: nobody competes for a call, or a step, that it did not decide, or
            whose winner nobody has here. Else everybody does there.
    """

    profile: Profile
    whose: str
    alone: bool = False

    def only(self, observation: Observation, entrants: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """The original and what won there; for a call that was not decided there everybody, or nobody."""
        held = self._held(observation.slot.target, observation.workload.key)
        is_decided = held is not None and held.status not in UNDECIDED and held.is_whole
        names = {ORIGINAL, held.selection.winner} if held is not None and is_decided else {ORIGINAL}
        found = tuple(candidate for candidate in entrants if candidate.name in names)
        # A winner that nobody has here (not registered, not installed) leaves its place to all others.
        return found if self.alone or (is_decided and len(found) == len(names)) else tuple(entrants)

    def ways(self, label: str) -> tuple[str, ...] | None:
        """The way of running a step that won there, and the same with another attention; () where none did.

        None where all compete: unless its winners are tried alone, in a step in which none competed there, one was out
        for a reason of that machine or moment, or one won that nobody has here.
        """
        tried = [way for way in self.profile.compiled if way.label == label]
        won = [setup for setup in self.profile.setups if setup.label == label]
        if not self.alone:
            if not tried or any(way.cause not in LASTING for way in tried):
                return None
            if any(setup.way not in {strategy.name for strategy in STRATEGIES} for setup in won):
                return None
        names = ((setup.way, way_name(setup.way, kernels=False, attention=setup.attention)) for setup in won)
        return tuple(dict.fromkeys(name for both in names for name in both))

    def tries_kernels(self, label: str) -> bool:
        """Whether kernels compete inside of the way of a step: not where they had their turn there, and lost it."""
        won = [setup for setup in self.profile.setups if setup.label == label]
        return not won or any(setup.kernels for setup in won)

    def told(self, contests: Sequence[Contest], setups: Sequence[Setup] = ()) -> str:
        """What was taken over, and what of it was confirmed by contests that were held here, and by ways that won."""
        won = {(c.slot.target, c.workload.key): c.selection.winner for c in self.profile.winners}
        tried = [c for c in contests if (c.slot.target, c.workload.key) in won]
        same = [c for c in tried if c.selection.winner == won[c.slot.target, c.workload.key]]
        told = f"{self.whose}: {len(tried)} of its {len(won)} winners tried here, {len(same)} confirmed"
        there = {(setup.label, setup.way) for setup in self.profile.setups}
        here = {(setup.label, setup.way) for setup in setups}
        return f"{told}; {len(there & here)} of its {len(there)} steps run in its way" if there else told

    def _held(self, target: str, key: str) -> Contest | None:
        found = (c for c in self.profile.contests if (c.slot.target, c.workload.key) == (target, key))
        return next(found, None)


def without_rivals(observation: Observation) -> Contest:
    """The contest of a call for which nobody competes with the original: it is not held."""
    kept = Selection(winner=ORIGINAL, reason=_NOBODY, status="nothing to gain")
    return observation.contest(Found(trials=(), selection=kept))
