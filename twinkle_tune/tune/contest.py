"""A contest in this process: load every candidate, judge it, race those that are right."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from twinkle_tune.catalog.block import BLOCK
from twinkle_tune.errors import SignatureError, TuneError, in_a_line, is_by_chance
from twinkle_tune.interpreted import interpreted
from twinkle_tune.measure.chance import let_go
from twinkle_tune.measure.clock import Clock
from twinkle_tune.measure.race import Decision, Race
from twinkle_tune.measure.recheck import in_words, race_until_right
from twinkle_tune.measure.rounds import Rounds
from twinkle_tune.measure.run import hold
from twinkle_tune.measure.state import StateWatch, device_state
from twinkle_tune.outcome import Measurement, Outcome, Rejection, Stage, Trial, Untimed
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject, Verdict
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.source.compiled import graphs_made, why_uncompiled
from twinkle_tune.source.hub import commit_of, place_of
from twinkle_tune.source.tried import config_of
from twinkle_tune.tune import selected
from twinkle_tune.tune.arena import Arena, Step, as_observed
from twinkle_tune.tune.compiling import renamed, uncapped
from twinkle_tune.tune.events import Listener, RoundTimed, TrialStarted
from twinkle_tune.tune.further import Timed, further_times
from twinkle_tune.tune.refused import cause_at, refuse
from twinkle_tune.tune.task import Task, Unwatched, Watch, WatchedClock, digest_of
from twinkle_tune.tune.tuned import Configs, Origin
from twinkle_tune.tune.watch import HereWatch, MeddledError

_LOAD: Stage = "load"


class InProcess:
    """Runs contests in this process: a candidate that ends the process ends the run.

    In a worker process, a ``watch`` sees to it that somebody knows whose doing that was.
    """

    def __init__(self, watch: Watch | None = None, configs: Configs | None = None) -> None:
        self._watch_of = HereWatch if watch is None else lambda task: watch
        self._watch: Watch = Unwatched()
        self._configs = Configs() if configs is None else configs

    def run(self, task: Task, listener: Listener) -> Contest:
        """Run a contest to its end; what goes wrong in a candidate is a rejection, in the original an error."""
        observation, ends_s, began_s = task.observation, _end_of(task), time.monotonic()
        self._watch = self._watch_of(task)
        with as_observed(observation.workload.context, task.terms.device), uncapped(compiles=task.terms.mode.compiles):
            self._watch.begins(ORIGINAL, "parity")
            arena = Arena(task)
            self._watch.ends(ORIGINAL)
            outcomes: dict[str, _Ready | Rejection | Untimed] = {}
            entered: list[tuple[Candidate, Origin]] = []
            for candidate in task.candidates:
                entered.append(self._entered(candidate, arena, listener, ends_s))
                outcomes[candidate.name] = self._prepared(entered[-1][0], arena, listener, ends_s)
            steps = {name: found for name, found in outcomes.items() if isinstance(found, _Ready)}
            clock = WatchedClock(arena.clock, {name: found.step for name, found in steps.items()}, self._watch)
            watches: list[StateWatch] = []
            decision, times_us, wrong = race_until_right(
                tuple(steps),
                lambda names: _race(task, {name: steps[name] for name in names}, clock, listener, ends_s, watches),
                {name: self._again(name, found.judged_again) for name, found in steps.items() if found.judged_again},
            )
            for name, out in wrong.items():
                outcomes[name] = refuse(listener, name, "parity", out.reason, out.cause)
                del steps[name]
            measured = {
                name: _measured(found, name, times_us, decision, arena.counted(found.step), self._watch.noticed(name))
                for name, found in steps.items()
            }
            timed = _timed(task, decision.winner, steps, measured, arena)
            timings = further_times(
                timed, task.terms.device, arena.clock, self._watch, began_s=began_s, ends_s=ends_s, seed=task.terms.seed
            )
        ended = {name: measured.get(name) or _not_ready(found) for name, found in outcomes.items()}
        trials = tuple(self._trial(c, origin, ended[c.name], arena) for c, origin in entered)
        return observation.contest(
            trials,
            selected.selection_of(decision, trials, task.terms.settings, task.terms.aim, arena.nobody_judged),
            conditions=tuple(filter(None, (watch.conditions for watch in watches[-1:]))),
            timings=timings,
            timed_on=arena.timed_on,
        )

    def confirm(self, task: Task, listener: Listener) -> Contest:
        """As :meth:`run`: with inputs in other places, and code compiled anew."""
        return self.run(task, listener)

    @property
    def elsewhere(self) -> str:
        """In this process there is but other memory."""
        return "in other memory"

    def _entered(
        self, candidate: Candidate, arena: Arena, listener: Listener, ends_s: float
    ) -> tuple[Candidate, Origin]:
        if candidate.name != ORIGINAL and time.monotonic() >= ends_s:
            return candidate, Origin()
        listener(TrialStarted(candidate=candidate.name))
        return self._configs.entered(
            candidate, arena.task, arena.clock, self._watch, trains=arena.trains, ends_s=ends_s
        )

    def _prepared(
        self, candidate: Candidate, arena: Arena, listener: Listener, ends_s: float
    ) -> _Ready | Rejection | Untimed:
        left_s = ends_s - time.monotonic()
        if candidate.name != ORIGINAL and left_s <= 0:
            return selected.not_tried()
        if (
            left_s < selected.BLOCK_S
            and candidate.source.kind == "compile"
            and arena.task.observation.slot.name == BLOCK
        ):
            return selected.not_tried(selected.NO_BLOCK)
        found = _prepare(candidate, arena, listener, self._watch)
        try:
            self._watch.ends(candidate.name)
        except MeddledError as error:
            if isinstance(found, Rejection):
                return found
            return refuse(listener, candidate.name, "timing", str(error), "meddled")
        return found

    def _again(self, name: str, judge: Callable[[], Verdict]) -> Callable[[], Verdict]:
        def judged() -> Verdict:
            self._watch.begins(name, "parity")
            verdict = judge()
            self._watch.ends(name)
            return verdict

        return judged

    def _trial(self, candidate: Candidate, origin: Origin, outcome: Outcome, arena: Arena) -> Trial:
        self._watch.begins(candidate.name, "load")  # some sources load their code once more for the digest
        repo, layer = place_of(candidate.source)
        trial = Trial(
            candidate=candidate.name,
            source=candidate.source.kind,
            digest=digest_of(candidate, arena.task.observation.slot, arena.original),
            outcome=outcome,
            commit=commit_of(candidate.source),
            repo=repo,
            layer=layer,
            config=config_of(candidate.source),
            config_origin=origin.text,
            config_cut_short=origin.cut_short,
        )
        with contextlib.suppress(MeddledError):  # it was put back, and the trial is over
            self._watch.ends(candidate.name)
        return trial


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A candidate that is right, with the call that will be timed, and how to judge it once more."""

    step: Step
    first_call_us: float
    peak_bytes: int | None
    verdict: Pass
    judged_again: Callable[[], Verdict] | None = None
    forward: Step | None = None


def _prepare(candidate: Candidate, arena: Arena, listener: Listener, watch: Watch) -> _Ready | Rejection | Untimed:
    """Load, call and judge one candidate; once more where that failed by chance."""
    found = _attempt(candidate, arena, listener, watch, again=False)
    if found is None:
        let_go()
        found = _attempt(candidate, arena, listener, watch, again=True)
    assert found is not None
    return found


def _attempt(
    candidate: Candidate, arena: Arena, listener: Listener, watch: Watch, *, again: bool
) -> _Ready | Rejection | Untimed | None:
    """None where the first attempt failed by chance. The original is not judged: the judge holds it against itself."""
    task, stage = arena.task, _LOAD
    try:
        stage = watch.begins(candidate.name, "load")
        implementation = candidate.source.load(task.observation.slot, arena.original)
        unfit = implementation.unfit_for(task.terms.mode)
        if unfit:
            return refuse(listener, candidate.name, "capability", unfit, "unfit")
        stage = watch.begins(candidate.name, "first call")
        before = graphs_made() if implementation.per_shape else 0
        with interpreted() as ran:
            step, first_call_us = arena.first_call(candidate.name, implementation)
        if implementation.per_shape and graphs_made() == before:
            return refuse(listener, candidate.name, stage, why_uncompiled(), "unavailable")
        if candidate.name == ORIGINAL:
            right = Pass(figures=(), deterministic=True)
            return _Ready(
                step=step,
                first_call_us=first_call_us,
                peak_bytes=arena.clock.peak_bytes(step),
                verdict=right,
                forward=arena.forward_alone(implementation, original=True),
            )
        stage = watch.begins(candidate.name, "parity")
        # Judged without the dispatcher, which would pass calls that look otherwise (judged copies) to the original.
        judged = implementation.call
        if task.terms.mode.compiles:
            judged = torch.compile(renamed(judged), dynamic=task.terms.dynamic)
        if isinstance(arena.judge, Inconclusive):
            return refuse(listener, candidate.name, "parity", f"inconclusive: {arena.judge.reason}", arena.judge.cause)
        verdict = arena.judge.judge(judged, for_kin=implementation.call)
        judged_again = functools.partial(arena.judge.again, judged, for_kin=implementation.call)
        stage = watch.begins(candidate.name, "timing")
        peak_bytes = arena.clock.peak_bytes(step) if isinstance(verdict, Pass) else None
    except SignatureError as error:
        return refuse(listener, candidate.name, "signature", str(error), "unfit")
    except Exception as error:
        if not again and is_by_chance(error):
            return None
        # Anything can come out of a stranger's code. Only the original's failures are the run's.
        if candidate.name == ORIGINAL:
            raise
        reason = str(error) if isinstance(error, TuneError) else f"raised {in_a_line(error)}"
        return refuse(listener, candidate.name, stage, reason, cause_at(error, stage))
    match verdict:
        case Reject():
            return refuse(listener, candidate.name, "parity", in_words(verdict), "wrong")
        case Inconclusive():
            return refuse(listener, candidate.name, "parity", f"inconclusive: {verdict.reason}", verdict.cause)
    if ran.kernels:
        return selected.interpreted()
    return _Ready(
        step=step,
        first_call_us=first_call_us,
        peak_bytes=peak_bytes,
        verdict=verdict,
        judged_again=judged_again,
        forward=arena.forward_alone(implementation),
    )


def _race(
    task: Task,
    steps: Mapping[str, _Ready],
    clock: Clock,
    listener: Listener,
    ends_s: float,
    watches: list[StateWatch],
) -> tuple[Decision, Mapping[str, tuple[float, ...]]]:
    def tell(race: Race | Rounds) -> None:
        best, ratio = race.leader
        listener(RoundTimed(number=race.rounds, alive=len(race.alive), best=best, ratio=ratio))

    calls = {name: found.step for name, found in steps.items()}
    left_s = None if task.deadline_s is None else max(0.0, ends_s - time.monotonic())
    watches.append(watch := StateWatch(lambda: device_state(task.terms.device)))
    race: Race | Rounds = Race([name for name in calls if name != ORIGINAL], task.terms.settings, seed=task.terms.seed)
    if task.terms.aim.is_memory:
        peaks = {name: found.peak_bytes for name, found in steps.items()}
        race = Rounds(peaks, task.terms.aim, task.terms.settings, seed=task.terms.seed)
    decision, times_us = hold(race, calls, clock, on_round=tell, deadline_s=left_s, watch=watch)
    if not times_us.get(ORIGINAL):
        # Nobody to race against, or no time: the original's own time is wanted all the same.
        block_calls = clock.block_calls(calls[ORIGINAL])
        own = tuple(clock.burst_us(calls[ORIGINAL], block_calls) for _ in range(3))
        times_us = {**times_us, ORIGINAL: own}
    return decision, times_us


def _end_of(task: Task) -> float:
    return math.inf if task.deadline_s is None else time.monotonic() + task.deadline_s


def _measured(
    ready: _Ready,
    name: str,
    times_us: Mapping[str, tuple[float, ...]],
    decision: Decision,
    counted: tuple[int, int],
    noticed: tuple[str, ...],
) -> Outcome:
    if name in decision.failed or not times_us.get(name):
        return selected.not_timed(name, decision)
    return Measurement(
        times_us=tuple(round(t, 4) for t in times_us[name]),
        first_call_us=round(ready.first_call_us, 1),
        peak_bytes=ready.peak_bytes,
        parity=selected.rounded(ready.verdict.figures),
        deterministic=ready.verdict.deterministic,
        notes=(*ready.verdict.notes, *noticed),
        left_race=dict(decision.left).get(name, ""),
        graph_breaks=counted[0],
        recompilations=counted[1],
    )


def _timed(
    task: Task, winner: str, steps: Mapping[str, _Ready], measured: Mapping[str, Outcome], arena: Arena
) -> dict[str, Timed]:
    """Whose further times are to be taken; nobody's in the compile modes, where the call stands in another's block."""
    if task.terms.mode.compiles:
        return {}
    kept = winner == ORIGINAL and task.further
    names = (ORIGINAL,) if kept else (ORIGINAL, winner) if task.further == "all" else ()
    return {
        name: Timed(
            step=steps[name].step,
            hot_us=outcome.median_us,
            forward=steps[name].forward if arena.gradients is not None else None,
        )
        for name in names
        if isinstance(outcome := measured[name], Measurement)
    }


def _not_ready(found: _Ready | Rejection | Untimed) -> Rejection | Untimed:
    assert not isinstance(found, _Ready)  # whoever was ready has been measured
    return found
