"""The race: paired rounds of the original and its challengers until it is clear which one wins.

A pure state machine: it says who is to be timed next, is fed the times, and decides. "Faster" is the share
of time saved: 2% faster takes at most 0.98 of the time. With the default settings, after counted round n:

- n = 3, 4: who was over 25% slower than the leader in every round leaves as hopeless.
- n >= 5: a challenger is accepted whose median saves 2%, on the evidence of signs: the e-value of the rounds that
  it won by over 1% (half the gain asked for, so that a small lasting bias, as of memory placement, proves
  nothing) reaches 100 times the number of challengers.
- who has not saved 2% in nearly all rounds leaves as futile; who is not 1% faster than the leader in nearly
  all rounds leaves as indifferent, and from round 6 also who is slower than it without any overlap.
- The race ends when nobody is left (the original stays), when one is left and accepted, or after 60 rounds; from
  round 8 also when nobody is accepted, and of all that are left the rounds to come would hardly prove it
  (:func:`~twinkle_tune.measure.statistics.is_out_of_reach`): too noisy to tell, and the original stays.

Rounds pair the original with each challenger, so drift of the machine cancels; the order within a round is
random, so that between equals the sign of a round is a fair coin. That is all the evidence rests on, since it is
all that the race itself sees to: a clock that makes every first burst of a round slow leaves the coin fair, and
would let one of two equals lie apart from the other in 1 of 64 contests of six rounds. Paired interleaving as in
Google Benchmark's random interleaving; for the e-value see
:func:`~twinkle_tune.measure.statistics.sign_e_value`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from twinkle_tune.measure.paired import Decision, PairedRounds
from twinkle_tune.measure.settings import FIRST_ACCEPT, RaceSettings
from twinkle_tune.measure.statistics import is_out_of_reach, sign_e_value
from twinkle_tune.slot import ORIGINAL

__all__ = ["Decision", "Race", "RaceSettings"]

_HOPELESS_ROUNDS = (3, 4)
"""Rounds after which a challenger far behind leaves: later the finer rules see to it."""
_FIRST_SEPARATION = 6
_FIRST_FORECAST = 8
_DROP_EVIDENCE = 20
"""E-value at which a challenger leaves. A wrong drop costs speed, never correctness, so 5% is enough."""


class Race(PairedRounds):
    """The original against its challengers.

    Ask :meth:`next_order` who is to be timed and in which order, time them, :meth:`feed` the times; repeat
    until :attr:`finished`. A challenger is accepted on evidence that it saves time, at an error rate that
    holds over all challengers and however often one looks; the accepted race on among themselves until one
    is left.
    """

    def __init__(self, challengers: Sequence[str], settings: RaceSettings | None = None, *, seed: int = 0) -> None:
        """Line up.

        Args:
            challengers: names, each once, "original" not among them.
            settings: None for the defaults.
            seed: of the random order within the rounds.

        Raises:
            ValueError: a name occurs twice, or is the original's.
        """
        self.settings = settings if settings is not None else RaceSettings()
        super().__init__(challengers, self.settings.warmup_rounds, seed)
        self._proven: set[str] = set()
        self._logs: dict[str, list[float]] = {name: [] for name in challengers}
        self._settle()

    @property
    def leader(self) -> tuple[str, float]:
        """The winner, or the best so far of the original and those alive; and its median ratio."""
        if self._decision is not None:
            name = self._decision.winner
            return name, 1.0 if name == ORIGINAL else math.exp(self._median(name))
        if self.rounds == 0 or not self._alive:
            return ORIGINAL, 1.0
        best = min(self._alive, key=self._median)
        ratio = math.exp(self._median(best))
        return (best, ratio) if ratio < 1 else (ORIGINAL, 1.0)

    def _look(self, times_us: Mapping[str, float]) -> None:
        for name, time_us in times_us.items():
            if name != ORIGINAL:
                self._logs[name].append(math.log(time_us / times_us[ORIGINAL]))
        self._drop_hopeless()
        self._accept()
        self._drop_futile()
        self._drop_indifferent()

    def stop(self, why: str) -> None:
        """End the race now, unless it is over: the best accepted challenger wins, else the original.

        Args:
            why: what ended it ("out of time budget after 12 rounds").
        """
        if not self.finished:
            self._finish(self._best_accepted(), why, stopped=True)

    def _accepted(self, name: str) -> bool:
        # Evidence once given stays valid, yet a winner must also look like one at the end.
        return name in self._proven and self._median(name) <= math.log1p(-self.settings.min_gain)

    def _best_accepted(self) -> str | None:
        return min(filter(self._accepted, self._alive), key=self._median, default=None)

    def _drop_hopeless(self) -> None:
        if self.rounds not in _HOPELESS_ROUNDS:
            return
        leader, ratio = self.leader
        its_us, far = self._times_us[leader], 1 + self.settings.hopeless
        for name in self.alive:
            pairs = zip(self._times_us[name], its_us, strict=True)
            if all(mine_us > far * time_us for mine_us, time_us in pairs):
                times = math.exp(self._median(name)) / ratio
                whom = "the original" if leader == ORIGINAL else f"the leader {leader}"
                # As reports say it: beyond twice as slow people count in times.
                told = f"{times - 1:.0%} slower than" if times < 2 else f"{times:.3g} times as slow as"
                self._drop(name, f"{told} {whom} after {self.rounds} rounds")

    def _accept(self) -> None:
        if self.rounds < FIRST_ACCEPT:
            return
        for name in self._alive:
            if sign_e_value(self._won(name), self.rounds) >= self._enough:
                self._proven.add(name)

    def _won(self, name: str) -> int:
        """The rounds that it won by over half the gain asked for."""
        won_by = math.log1p(-self.settings.min_gain / 2)
        return sum(log < won_by for log in self._logs[name])

    @property
    def _enough(self) -> float:
        """The evidence that gets one accepted: the error rate is shared by all that entered."""
        return len(self._entered) / self.settings.error_rate

    def _is_hidden(self, name: str) -> bool:
        """Whether the rounds that are left would hardly tell that it is faster, if it is."""
        known = name in self._proven or self.rounds < _FIRST_FORECAST
        return not known and is_out_of_reach(
            self._won(name), self.rounds, self.settings.max_rounds, self._enough
        )  # fmt: skip

    def _drop_futile(self) -> None:
        needed = math.log1p(-self.settings.min_gain)
        for name in self.alive:
            failed = sum(log > needed for log in self._logs[name])
            if sign_e_value(failed, self.rounds) >= _DROP_EVIDENCE:
                self._drop(name, f"not {_percent(self.settings.min_gain)} faster in {failed} of {self.rounds} rounds")

    def _drop_indifferent(self) -> None:
        leader = min(self._alive, key=self._median, default=ORIGINAL)
        for name in self.alive:
            # One that has won must not give way to one that may yet lose.
            if name != leader and (self._accepted(leader) or not self._accepted(name)):
                reason = self._indifferent_to(leader, name)
                if reason:
                    self._drop(name, reason)

    def _indifferent_to(self, leader: str, name: str) -> str:
        zone, rounds = self.settings.indifference, self.rounds
        fastest_us, slowest_leader_us = min(self._times_us[name]), max(self._times_us[leader])
        if rounds >= _FIRST_SEPARATION and fastest_us > (1 + zone) * slowest_leader_us:
            return f"slower than {leader} by more than {_percent(zone)} in all {rounds} rounds"
        needed = math.log1p(-zone)
        pairs = zip(self._logs[name], self._logs[leader], strict=True)
        failed = sum(mine - its > needed for mine, its in pairs)
        if sign_e_value(failed, rounds) >= _DROP_EVIDENCE:
            return f"not {_percent(zone)} faster than {leader} in {failed} of {rounds} rounds"
        return ""

    def _settle(self) -> None:
        if self.finished:
            return
        if not self._alive:
            self._finish(None, self._why_none())
        elif len(self._alive) == 1 and self._accepted(self._alive[0]):
            self._finish(self._alive[0], "")
        elif self.rounds >= self.settings.max_rounds:
            winner = self._best_accepted()
            why = "" if winner else f"no clear winner after {self.rounds} rounds"
            self._finish(winner, why, unclear=winner is None)
        elif all(self._is_hidden(name) for name in self._alive):
            gain, rounds = _percent(self.settings.min_gain), self.rounds
            self._finish(None, f"too noisy to tell {gain} here: no clear winner after {rounds} rounds", unclear=True)

    def _why_none(self) -> str:
        if not self._entered:
            return "there was no candidate to race against the original"
        if len(self._failed) == len(self._entered):
            return "no candidate could be timed"
        return f"no candidate was at least {_percent(self.settings.min_gain)} faster"

    def _finish(self, winner: str | None, why: str, *, stopped: bool = False, unclear: bool = False) -> None:
        if winner is None:
            reason = why
        else:
            gain = 1 - math.exp(self._median(winner))
            reason = f"{gain:.1%} faster than the original (median of {self.rounds} rounds)"
            reason += f"; {why}" if why else ""
        for name in self.alive:
            if name != winner:
                self._drop(name, f"undecided: {why}" if stopped and winner is None else self._why_not(name, winner))
        left = tuple((name, self._left[name]) for name in self._entered if name != winner)
        self._decision = Decision(
            winner=winner or ORIGINAL,
            reason=reason,
            left=left,
            rounds=self.rounds,
            failed=tuple(self._failed),
            causes=tuple(self._failed.values()),
            stopped=stopped,
            unclear=unclear,
        )

    def _why_not(self, name: str, winner: str | None) -> str:
        if winner is not None and self._accepted(name):
            return f"not clearly faster than {winner} after {self.rounds} rounds"
        gain = _percent(self.settings.min_gain)
        return f"not clearly {gain} faster than the original after {self.rounds} rounds"

    def _median(self, name: str) -> float:
        return median(self._logs[name]) if self._logs[name] else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
