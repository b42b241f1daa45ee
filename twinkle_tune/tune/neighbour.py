"""A run that starts from another machine's profile: only what won there competes here. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from twinkle_tune.capture.capture import Observation
from twinkle_tune.cause import LASTING
from twinkle_tune.outcome import UNDECIDED, Selection
from twinkle_tune.profile.schema import Contest, Found, Profile
from twinkle_tune.profile.setup import CompiledStep, Setup, way_name
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
        winner = self._winner(observation)
        names = {ORIGINAL, ORIGINAL if winner is None else winner}
        found = tuple(candidate for candidate in entrants if candidate.name in names)
        # A winner that nobody has here (not registered, not installed) leaves its place to all others.
        return found if self.alone or (winner is not None and len(found) == len(names)) else tuple(entrants)

    def is_chosen(self, observation: Observation, entrants: Sequence[Candidate]) -> bool:
        """Whether nobody but the one that won a call there, in two races, competes for it with the original here.

        Then one race tells: nobody is chosen among several.
        """
        winner = self._winner(observation)
        return winner not in (None, ORIGINAL) and {each.name for each in entrants} == {ORIGINAL, winner}

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
        known = dict.fromkeys((each.way, attention, each.cache) for each in won for attention in ("", each.attention))
        return tuple(way_name(way, kernels=False, attention=other, cache=cache) for way, other, cache in known)

    def tries_kernels(self, label: str) -> bool:
        """Whether kernels compete inside of the way of a step: not where they had their turn there, and lost it."""
        won = [setup for setup in self.profile.setups if setup.label == label]
        return not won or any(setup.kernels for setup in won)

    def tries_sizes(self, label: str, ways: Sequence[CompiledStep]) -> bool:
        """Whether the way that won a step is tried at other sizes, too: most of the time of a run goes into that.

        A first run leaves it to a second one, which has the rest from the store. ``ways`` are what came of them.
        """
        return self.alone or any(way.label == label and way.measured for way in ways)

    def told(self, contests: Sequence[Contest], setups: Sequence[Setup] = (), left: Collection[str] = ()) -> str:
        """What was taken over, and what of it was confirmed by contests that were held here, and by ways that won.

        ``left`` are the steps whose ways were not tried at other sizes.
        """
        won = {(c.slot.target, c.workload.key): c.selection.winner for c in self.profile.winners}
        tried = [c for c in contests if (c.slot.target, c.workload.key) in won]
        same = [c for c in tried if c.selection.winner == won[c.slot.target, c.workload.key]]
        told = f"{self.whose}: {len(tried)} of its {len(won)} winners tried here, {len(same)} confirmed"
        there = {(setup.label, setup.way) for setup in self.profile.setups}
        here = {(setup.label, setup.way) for setup in setups}
        if not there:
            return told
        told = f"{told}; {len(there & here)} of its {len(there)} steps run in its way"
        sizes = {(setup.label, setup.way): len(setup.calls) for setup in self.profile.setups}
        fewer = [s for s in setups if s.label in left and len(s.calls) < sizes.get((s.label, s.way), 0)]
        return (
            f"{told}, {len(fewer)} at the inputs' sizes alone: the same command once more tries others"
            if fewer
            else told
        )

    def _winner(self, observation: Observation) -> str | None:
        """Who won a call there, the original too; None where that was not decided."""
        held = self._held(observation.slot.target, observation.workload.key)
        is_decided = held is not None and held.status not in UNDECIDED and held.is_whole
        return held.selection.winner if held is not None and is_decided else None

    def _held(self, target: str, key: str) -> Contest | None:
        found = (c for c in self.profile.contests if (c.slot.target, c.workload.key) == (target, key))
        return next(found, None)


def without_rivals(observation: Observation) -> Contest:
    """The contest of a call for which nobody competes with the original: it is not held."""
    kept = Selection(winner=ORIGINAL, reason=_NOBODY, status="nothing to gain")
    return observation.contest(Found(trials=(), selection=kept))
