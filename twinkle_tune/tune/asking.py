"""Asking the whole model: what it said before to the same question is taken, and what it says now is remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from twinkle_tune.capture.capture import Capture
from twinkle_tune.capture.held_out import Tried
from twinkle_tune.capture.point import Point, tensors_in
from twinkle_tune.capture.step import Step
from twinkle_tune.cause import LASTING
from twinkle_tune.environment import Environment
from twinkle_tune.kernel.model_digest import digest_as_it_stands
from twinkle_tune.kernel.setup_calls import named
from twinkle_tune.objective import Aim
from twinkle_tune.outcome import Trial
from twinkle_tune.peers import from_first
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.profile.setup import Setup
from twinkle_tune.profile.whole import What, WholeAnswer, WholeQuestion, Won
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.source.digest import digest_text
from twinkle_tune.tune import settle
from twinkle_tune.tune.events import StepFinished, WaysTimed
from twinkle_tune.tune.gain import gained_clearly
from twinkle_tune.tune.run import Run
from twinkle_tune.tune.seen import Bounds, answer_of, as_seen
from twinkle_tune.tune.shared import settings_to_send
from twinkle_tune.tune.sizes import Sizes
from twinkle_tune.tune.verdict import setups_text, verdict_of
from twinkle_tune.tune.way_contest import LEAST_GAIN
from twinkle_tune.tune.way_figures import digests_of_ways
from twinkle_tune.tune.ways import Ways
from twinkle_tune.version import TOOL
from twinkle_tune.workload import digest_of, observe, target_of

_IDS = ("input_ids", "decoder_input_ids", "labels")
"""Integers that are looked up. All others (masks, positions) say what is computed, and count by their values."""
_UNDECIDED = ("not timed", "inconclusive")
"""Causes that leave a way's step undecided, in this run as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A run's questions to the whole model.

    Attributes:
        run: whose; its journal and its store remember.
        environment: the fingerprint.
        model: digest of the model as it stands; "" where nothing is to be remembered.
    """

    run: Run
    environment: str
    model: str

    def shares(self, seen: Capture, find: Callable[[], Bounds]) -> tuple[Capture, Bounds, Callable[[], None]]:
        """What was seen, and what kernels could save at most: with the shares of before where they are known.

        By shares contests are let go. If they came out otherwise each time, so would the winners, and all that the
        whole model said of those would be asked again.

        Args:
            seen: the model's calls now.
            find: what a perfect kernel could save, by the observation's id and the step's label.

        Returns:
            The same of before, or as it is now, and what is to be called once the journal has begun.
        """
        if self.run.terms.aim.is_memory or self.run.terms.mode.compiles:
            return seen, find(), lambda: None
        question = self._question("shares", None, seen.steps)
        known = None if question is None else self.run.memory.recall_whole(question, counts=False)
        if known is not None and (found := as_seen(seen, known)) is not None:
            return *found, lambda: None
        bounds = find()
        if question is None or not seen.observations:
            return seen, bounds, lambda: None
        answer = answer_of(seen, bounds)
        return seen, bounds, lambda: self.run.memory.keep_whole(question, answer, lasts=True)

    def settled(self, profile: Profile, steps: Sequence[Step], find: Callable[[Profile], Profile]) -> Profile:
        """The profile without the winners with which the whole model gains nothing.

        Args:
            profile: with the winners of all contests.
            steps: of the model.
            find: finds it out (:meth:`twinkle_tune.tune.settle.Whole.settled`).
        """
        question = self._question("winners", profile, steps) if profile.winners else None
        known = None if question is None else self.run.memory.recall_whole(question)
        if known is not None:
            contests = tuple(_as_then(contest, known.contests) for contest in profile.contests)
            self._tell(known.steps)
            verdict = verdict_of(contests, known.steps, profile.aim)
            return replace(profile, contests=contests, steps=known.steps, verdict=verdict)
        found = find(profile)
        # Each timing had at most half of what was left, a step of it its share.
        if question is not None and self._has_left(2 * len(steps) * settle.SECONDS) and _have_optimizers(steps):
            pairs = zip(profile.contests, found.contests, strict=True)
            then = tuple(now for before, now in pairs if before.selection.winner != ORIGINAL)
            answer = WholeAnswer(steps=found.steps, contests=then)
            self.run.memory.keep_whole(question, answer, lasts=_is_clear(found.winners, found.steps, found.aim))
        return found

    def ways(self, tried: Tried, ends_s: float, hold: Callable[[], Ways]) -> Ways:
        """What came of the ways of running the model in a step, with its originals inside.

        Args:
            tried: the step.
            ends_s: of the monotonic clock: what is over later was cut short.
            hold: holds their contest.
        """
        return self._held(self._question("ways", None, [tried.step]), tried, ends_s, hold)

    def with_kernels(
        self, profile: Profile, tried: Tried, alone: Ways, ends_s: float, hold: Callable[[], Ways]
    ) -> Ways:  # fmt: skip
        """What came of a step's winner with kernels; as :meth:`ways`, and:

        Args:
            profile: with the winners as the whole model settled them.
            alone: what came of the ways in the step with the originals inside.
        """
        return self._held(self._question("kernels", profile, [tried.step], alone), tried, ends_s, hold)

    def sizes(self, profile: Profile, tried: Tried, setup: Setup, hold: Callable[[], Sizes]) -> Setup:
        """A step's winner with the calls of other sizes for which it was shown; ``profile`` has the winners inside."""
        inside = profile if setup.kernels else None
        question = self._question("sizes", inside, [tried.step], Ways(setups=(setup,)))
        known = None if question is None else self.run.memory.recall_whole(question)
        if known is not None:
            return known.setups[0]
        found = hold()
        if question is not None and found.is_whole and _have_optimizers(tried.all):
            self.run.memory.keep_whole(question, WholeAnswer(setups=(found.setup,)), lasts=True)
        return found.setup

    def _held(self, question: WholeQuestion | None, tried: Tried, ends_s: float, hold: Callable[[], Ways]) -> Ways:
        known = None if question is None else self.run.memory.recall_whole(question)
        if known is not None:
            self.run.tell(WaysTimed(label=tried.step.label, compiled=known.compiled))
            return Ways(compiled=known.compiled, setups=known.setups)
        found = hold()
        is_whole = time.monotonic() < ends_s and not any(way.cause in _UNDECIDED for way in found.compiled)
        if question is not None and found.compiled and is_whole and _have_optimizers(tried.all):
            answer = WholeAnswer(compiled=found.compiled, setups=found.setups)
            self.run.memory.keep_whole(question, answer, lasts=_are_final(found))
        return found

    def together(
        self, profile: Profile, ways: Ways, steps: Sequence[Step], put: Callable[[], Profile], *, is_whole: bool
    ) -> Profile:
        """The profile with the ways that gain beside its winners.

        Args:
            profile: with the winners as the whole model settled them.
            ways: what came of all ways.
            steps: of the model, those in which ways won among them.
            put: finds it out (:func:`twinkle_tune.tune.setups.with_setups`).
            is_whole: whether it has all the time that it takes.
        """
        asks = bool(ways.setups) and not profile.aim.is_memory
        question = self._question("all", profile, steps, ways) if asks else None
        known = None if question is None else self.run.memory.recall_whole(question)
        if known is None:
            found = put()
            if question is not None and is_whole and _have_optimizers(steps):
                lost = tuple(way for way in found.compiled if way.taken_back)
                kept = found.steps if found.setups else ()
                then = _changed(profile.contests, found.contests)
                answer = WholeAnswer(steps=kept, contests=then, compiled=lost, setups=found.setups)
                self.run.memory.keep_whole(question, answer, lasts=_is_clear(found.setups, kept, found.aim))
            return found
        self._tell(known.steps)
        why = {(way.label, way.way): way.taken_back for way in known.compiled}
        compiled = tuple(replace(way, taken_back=why.get((way.label, way.way), "")) for way in ways.compiled)
        stay = {(setup.label, setup.name) for setup in known.setups}
        setups = tuple(setup for setup in ways.setups if (setup.label, setup.name) in stay)
        contests = tuple(_as_then(contest, known.contests) for contest in profile.contests)
        profile = replace(profile, compiled=compiled, contests=contests)
        if not setups:
            return profile
        return replace(profile, setups=setups, steps=known.steps, verdict=setups_text(setups, known.steps))

    def _tell(self, steps: Sequence[StepResult]) -> None:
        for step in steps:
            if step.tuned_us:
                self.run.tell(StepFinished(result=step))

    def _has_left(self, seconds: float) -> bool:
        left_s = self.run.budget.left_s
        return left_s is None or left_s >= seconds

    def _ways(self, steps: Sequence[Step]) -> tuple[tuple[str, str], ...]:
        """The ways that may compete, each with its digest, and of a run from a neighbour those of each step."""
        neighbour = self.run.neighbour
        only = () if neighbour is None else ((step.label, str(neighbour.ways(step.label))) for step in steps)
        model, trains = self.run.model, self.run.terms.mode.trains
        return (*digests_of_ways(model, trains=trains), *only)

    def _question(
        self, what: What, profile: Profile | None, steps: Sequence[Step], ways: Ways | None = None
    ) -> WholeQuestion | None:
        """The question; None where not all is known that its answer depends on, or nothing is remembered."""
        if not self.model or any(step.inputs is None for step in steps):
            return None
        winners = () if profile is None else tuple(_won(contest) for contest in profile.winners)
        if any(not digest for won in winners for _, digest in won.candidates):
            return None
        contests = () if profile is None else profile.contests
        trials = ((contest, trial) for contest in contests for trial in contest.trials)
        asks_ways = what in ("ways", "kernels", "sizes", "all")
        return WholeQuestion(
            what=what,
            model=self.model,
            steps=tuple((step.label, _digest_of_step(self.run.model, step)) for step in steps),
            terms=self.run.terms,
            environment=self.environment,
            process=tuple(sorted((name, str(value)) for name, value in settings_to_send().items())),
            winners=winners,
            originals=tuple(sorted({(c.slot.name, t.digest) for c, t in trials if t.candidate == ORIGINAL})),
            ways=self._ways(steps) if asks_ways else (),
            calls=self.run.calls if asks_ways else None,
            setups=digest_of([to_data(setup) for setup in ways.setups]) if ways is not None else "",
            tool=TOOL,
        )


def asking(run: Run, environment: Environment) -> Asking:
    """A run's questions to the whole model, as it stands now: with its originals, in its mode."""
    memory = run.memory
    remembers = from_first("a memory", lambda: memory.journal is not None or memory.store is not None)
    return Asking(
        run=run, environment=environment.fingerprint, model=digest_as_it_stands(run.model) if remembers else ""
    )


def _won(contest: Contest) -> Won:
    winner = contest.trial(contest.selection.winner)
    return Won(
        slot=contest.slot.name,
        workload=contest.workload.key,
        instances=contest.instances,
        steps=tuple(seen.step for seen in contest.seen),
        winner=winner.candidate,
        config=_config(winner),
        candidates=tuple((trial.candidate, trial.digest) for trial in contest.trials),
    )


def _config(trial: Trial) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in (trial.config or {}).items()))


def _digest_of_step(model: nn.Module, step: Step) -> str:
    """Of what a step is run on, and of its optimizer."""
    assert step.inputs is not None
    call = step.inputs.call
    form = observe(target_of(type(model)), call.args, call.kwargs, model).key
    return digest_text(form, *_values(step.inputs), "" if step.optimizer is None else step.optimizer.digest)


def _values(point: Point) -> Iterator[str]:
    for name, value in named(point.names, point.call.args, point.call.kwargs).items():
        for tensor in tensors_in(value) if name not in _IDS else ():
            if not (tensor.is_floating_point() or tensor.is_complex()):
                yield digest_text(name, repr(tensor.tolist()))


def _as_then(now: Contest, then: Sequence[Contest]) -> Contest:
    """A contest as the whole model left it then, where that was otherwise than it won."""
    place = now.slot.name, now.workload.key, now.instances
    found = next((c for c in then if (c.slot.name, c.workload.key, c.instances) == place), None)
    if found is None or found.selection.winner == now.selection.winner:
        return now
    return replace(found, slot=now.slot, seen=now.seen, workload=now.workload, timed_on=now.timed_on)


def _changed(before: Sequence[Contest], after: Sequence[Contest]) -> tuple[Contest, ...]:
    """The contests whose winner the whole model took back."""
    pairs = zip(before, after, strict=True)
    return tuple(now for then, now in pairs if now.selection.winner != then.selection.winner)


def _have_optimizers(steps: Sequence[Step]) -> bool:
    """Whether none of them lost its optimizer: it had no room, say."""
    return not any(step.optimizer is not None and step.optimizer.problem for step in steps)


def _is_clear(kept: Sequence[object], steps: Sequence[StepResult], aim: Aim) -> bool:
    """Whether nothing was kept, or what was gains clearly in a step; else noise may have decided."""
    return not kept or any(gained_clearly(step, aim) for step in steps if step.tuned_us)


def _are_final(found: Ways) -> bool:
    """Whether another run would find the same: no reason of the moment, and noise left nothing open."""
    if not all(way.cause in LASTING for way in found.compiled):
        return False
    return bool(found.setups) or not any(way.is_open(LEAST_GAIN) for way in found.compiled)
