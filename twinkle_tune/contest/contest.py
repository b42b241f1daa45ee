"""The one contest: load every candidate, judge it, race those that are right, and write down what came of each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from twinkle_tune.cause import Cause, cause_of
from twinkle_tune.contest import selected
from twinkle_tune.contest.events import RoundTimed, Tell, TrialRefused, TrialStarted
from twinkle_tune.contest.further import Timed, further_times
from twinkle_tune.contest.stage import C, Entrant, Stage
from twinkle_tune.contest.together import (
    Again,
    Right,
    Turn,
    agreed_clock,
    agreed_judge,
    agreed_rejection,
    agreed_turn,
    named,
)
from twinkle_tune.contest.watch import MeddledError, Watch, WatchedClock
from twinkle_tune.errors import SignatureError, TuneError, in_a_line, is_by_chance
from twinkle_tune.measure.chance import let_go
from twinkle_tune.measure.paired import Decision, PairedRounds
from twinkle_tune.measure.recheck import in_words, race_until_right
from twinkle_tune.measure.run import hold
from twinkle_tune.measure.state import StateWatch, device_state
from twinkle_tune.outcome import Measurement, Outcome, Phase, Rejection, Trial, Untimed
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject, Verdict
from twinkle_tune.peers import now_s
from twinkle_tune.profile.schema import Found
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.terms import Terms

Further = Literal["", "kept", "all"]
"""Whose further times are taken: nobody's, the original's where it stays ("kept"), the original's and the winner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A candidate that is right and can be timed."""

    entrant: Entrant
    peak_bytes: int | None
    verdict: Pass


def contest(
    stage: Stage[C],
    candidates: Sequence[C],
    terms: Terms,
    *,
    watch: Watch,
    tell: Tell,
    ends_s: float = math.inf,
    ready: Callable[[C], C] = lambda candidate: candidate,
    further: Further = "",
) -> Found:
    """Hold a contest. What goes wrong in a candidate is its rejection, in the original an error.

    Args:
        stage: where they perform.
        candidates: the original first.
        terms: of the run.
        watch: told who is at work.
        tell: told what happens.
        ends_s: of the monotonic clock: from then on no candidate has its turn, and the race ends, or soon after.
        ready: gives a candidate as it takes part: with its config, say.
        further: whose further times are taken after the race.
    """
    began_s = now_s()
    entered: list[C] = []
    outcomes: dict[str, _Ready | Rejection | Untimed] = {}
    for candidate in candidates:
        if candidate.name == ORIGINAL or now_s() < ends_s:
            tell(TrialStarted(candidate=candidate.name))
            entered.append(ready(candidate))
        else:
            entered.append(candidate)
        outcomes[candidate.name] = _turn(stage, entered[-1], watch, tell, ends_s)
    right = {name: found for name, found in outcomes.items() if isinstance(found, _Ready)}
    steps = {name: found.entrant.step for name, found in right.items()}
    clock = agreed_clock(WatchedClock(stage.clock, steps, watch))
    states: list[StateWatch] = []

    def told(race: PairedRounds) -> None:
        best, ratio = race.leader
        tell(RoundTimed(number=race.rounds, alive=len(race.alive), best=best, ratio=ratio))

    def race(names: Sequence[str]) -> tuple[Decision, Mapping[str, tuple[float, ...]]]:
        calls = {name: right[name].entrant.step for name in names}
        held = stage.race({name: right[name].peak_bytes for name in names}, terms)
        states.append(StateWatch(lambda: device_state(terms.device)))
        left_s = min(stage.race_s, max(stage.least_race_s, ends_s - now_s()))
        decision, times_us = hold(held, calls, clock, on_round=told, deadline_s=left_s, watch=states[-1])
        if not times_us.get(ORIGINAL):
            # Nobody to race against, or no time: the original's own time is wanted all the same.
            block_calls = clock.block_calls(calls[ORIGINAL])
            own = tuple(clock.burst_us(calls[ORIGINAL], block_calls) for _ in range(3))
            times_us = {**times_us, ORIGINAL: own}
        return decision, times_us

    again = {
        name: agreed_judge(name, _watched(name, found.entrant.again, watch))
        for name, found in right.items()
        if found.entrant.again
    }
    decision, times_us, wrong = race_until_right(tuple(right), race, again)
    for name, out in wrong.items():
        outcomes[name] = _refused(tell, name, Rejection(stage="parity", reason=out.reason, cause=out.cause))
        del right[name]
    ended: dict[str, Outcome] = {name: found for name, found in outcomes.items() if not isinstance(found, _Ready)}
    ended |= {name: _measured(found, name, times_us, decision, watch) for name, found in right.items()}
    # In the compile modes nobody has any: the call stands in another's block.
    timed = {} if stage.timed_on is not None else _timed(further, decision.winner, right, ended)
    timings = further_times(timed, terms.device, stage.clock, watch, began_s=began_s, ends_s=ends_s, seed=terms.seed)
    trials = tuple(_trial(stage, candidate, ended[candidate.name], watch) for candidate in entered)
    return Found(
        trials=trials,
        selection=selected.selection_of(decision, trials, terms.settings, terms.aim, stage.unjudged),
        conditions=tuple(filter(None, (state.conditions for state in states[-1:]))),
        timings=timings,
        timed_on=stage.timed_on,
    )


def _turn(stage: Stage[C], candidate: C, watch: Watch, tell: Tell, ends_s: float) -> _Ready | Rejection | Untimed:
    """Load, call and judge one candidate; once more where that failed by chance."""
    left_s = ends_s - now_s()
    if candidate.name != ORIGINAL and left_s <= stage.needs_s(candidate):
        return selected.not_tried(stage.no_time if left_s > 0 else selected.NOT_TRIED)
    mine: list[_Ready | Rejection | Untimed | None] = []

    def attempt(*, is_last: bool) -> Turn:
        mine.append(_attempt(stage, candidate, watch, is_last=is_last))
        match mine[-1]:
            case _Ready(peak_bytes=peak_bytes):
                return Right(peak_bytes=peak_bytes)
            case None:
                return Again()
            case Rejection() as rejection:
                return named(rejection)
            case untimed:
                return untimed

    found = agreed_turn(candidate.name, partial(attempt, is_last=False))
    if isinstance(found, Again):
        let_go()
        found = agreed_turn(candidate.name, partial(attempt, is_last=True))
    if isinstance(found, Rejection):
        _refused(tell, candidate.name, found)
    meddled: Rejection | None = None
    try:
        watch.ends(candidate.name)
    except MeddledError as error:
        meddled = named(Rejection(stage="timing", reason=str(error), cause="meddled"))
    meddled = agreed_rejection(candidate.name, meddled)
    if isinstance(found, Rejection):
        return found
    if meddled is not None:
        return _refused(tell, candidate.name, meddled)
    if isinstance(found, Untimed):
        return found
    ready = mine[-1]
    assert isinstance(found, Right)
    assert isinstance(ready, _Ready)
    return replace(ready, peak_bytes=found.peak_bytes)


def _attempt(stage: Stage[C], candidate: C, watch: Watch, *, is_last: bool) -> _Ready | Rejection | Untimed | None:
    """None where it failed by chance and is not the last. The original is not judged: it is held against itself."""
    phase: Phase = "load"

    def begins(next_phase: Phase) -> None:
        nonlocal phase
        watch.begins(candidate.name, next_phase)
        phase = next_phase

    verdict: Verdict = Pass(figures=(), deterministic=True)
    try:
        entrant = stage.enter(candidate, begins)
        if isinstance(entrant, Rejection):
            return entrant
        if entrant.judge is not None:
            begins("parity")
            verdict = entrant.judge()
            begins("timing")
        peak_bytes = stage.clock.peak_bytes(entrant.step) if isinstance(verdict, Pass) else None
    except SignatureError as error:
        return Rejection(stage="signature", reason=str(error), cause="unfit")
    except Exception as error:
        if not is_last and is_by_chance(error):
            return None
        # Anything can come out of a stranger's code. Only the original's failures are the run's.
        if candidate.name == ORIGINAL:
            raise
        reason = str(error) if isinstance(error, TuneError) else f"raised {in_a_line(error)}"
        return Rejection(stage=phase, reason=reason, cause=_cause_at(error, phase))
    match verdict:
        case Reject():
            return Rejection(stage="parity", reason=in_words(verdict), cause="wrong")
        case Inconclusive():
            return Rejection(stage="parity", reason=f"inconclusive: {verdict.reason}", cause=verdict.cause)
    if entrant.interpreted:
        return selected.interpreted()
    return _Ready(entrant=entrant, peak_bytes=peak_bytes, verdict=verdict)


def _cause_at(error: Exception, phase: Phase) -> Cause:
    if isinstance(error, MeddledError):
        return "meddled"
    cause = cause_of(error)
    # Our own errors of loading say what is missing.
    return "unavailable" if phase == "load" and cause == "raised" and isinstance(error, TuneError) else cause


def _refused(tell: Tell, name: str, rejection: Rejection) -> Rejection:
    tell(TrialRefused(candidate=name, stage=rejection.stage, reason=rejection.reason, cause=rejection.cause))
    return rejection


def _watched(name: str, judge: Callable[[], Verdict], watch: Watch) -> Callable[[], Verdict]:
    def judged() -> Verdict:
        watch.begins(name, "parity")
        verdict = judge()
        watch.ends(name)
        return verdict

    return judged


def _measured(
    ready: _Ready, name: str, times_us: Mapping[str, tuple[float, ...]], decision: Decision, watch: Watch
) -> Outcome:
    if name in decision.failed or not times_us.get(name):
        return selected.not_timed(name, decision)
    graph_breaks, recompilations = ready.entrant.counted()
    return Measurement(
        times_us=tuple(round(t, 4) for t in times_us[name]),
        first_call_us=round(ready.entrant.first_call_us, 1),
        peak_bytes=ready.peak_bytes,
        parity=selected.rounded(ready.verdict.figures),
        deterministic=ready.verdict.deterministic,
        notes=(*ready.entrant.notes, *ready.verdict.notes, *watch.noticed(name)),
        left_race=dict(decision.left).get(name, ""),
        graph_breaks=graph_breaks,
        recompilations=recompilations,
    )


def _timed(
    further: Further, winner: str, right: Mapping[str, _Ready], ended: Mapping[str, Outcome]
) -> dict[str, Timed]:
    """Whose further times are to be taken."""
    names = (ORIGINAL,) if winner == ORIGINAL and further else (ORIGINAL, winner) if further == "all" else ()
    return {
        name: Timed(step=right[name].entrant.step, hot_us=outcome.median_us, forward=right[name].entrant.forward)
        for name in names
        if isinstance(outcome := ended[name], Measurement)
    }


def _trial(stage: Stage[C], candidate: C, outcome: Outcome, watch: Watch) -> Trial:
    watch.begins(candidate.name, "load")
    trial = stage.trial(candidate, outcome)
    with contextlib.suppress(MeddledError):  # it was put back, and the trial is over
        watch.ends(candidate.name)
    return trial
