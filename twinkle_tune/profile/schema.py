"""What a profile says. Frozen values; profile/io.py makes them of JSON again.

The format's history is in profile/format.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinkle_tune.environment import Environment
from twinkle_tune.mode import Mode
from twinkle_tune.objective import Aim, Objective
from twinkle_tune.offered import offered
from twinkle_tune.outcome import UNDECIDED, Conditions, Measurement, Selection, Status, Timings, Trial, Untimed
from twinkle_tune.profile.format import SCHEMA
from twinkle_tune.profile.json_text import write_profile
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.profile.views import Table
from twinkle_tune.slot import ORIGINAL, Slot
from twinkle_tune.terms import Terms
from twinkle_tune.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Which model was profiled.

    Attributes:
        name: what the user asked for (a preset, a Hub id, "package.module:factory") or the class's name.
        target: "module:qualified.name" of the model's class.
        parameters: number of parameters.
        dtype: dtype of most parameters ("bfloat16").
        unlooked: its layers for which nothing was tried, for people ("MyNorm (3 layers, looks like a norm)"); empty in
            a profile from before they were written down.
    """

    name: str
    target: str
    parameters: int
    dtype: str
    unlooked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One way of running the model (a prefill, a decode step, a training step), with and without the winners.

    Attributes:
        label: "prefill 1x128", "decode 1x128", "train 1x128": batch by sequence length.
        original_us, tuned_us: microseconds of the whole step, one figure a round, paired by position;
            both empty where the original won everywhere and there was nothing to compare.
        ratio: tuned over original, median of the paired rounds; 1.0 where nothing was compared.
        low, high: interval of that median, at least 95% confidence.
        original_peak_bytes, tuned_peak_bytes: memory of the device that the step takes beyond what was allocated
            before it, without and with the winners; None where that is not known, or nothing was compared.
        optimizer: class of the optimizer whose step is part of a training step ("AdamW"); "" where there is none.
        note: what is to be known of how it was timed ("without the optimizer's step: ..."); "" where there is nothing.
        alone_us: microseconds of the whole step with its originals, before the contests, one figure a run; empty in a
            profile from before it was written down.
        left_out: why the step was not run at all; "" for one that was.
        measured: UTC time (ISO 8601, to the second) at which another run took these figures, which this one has from
            the store; "" for its own.
    """

    label: str
    original_us: tuple[float, ...] = ()
    tuned_us: tuple[float, ...] = ()
    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0
    original_peak_bytes: int | None = None
    tuned_peak_bytes: int | None = None
    optimizer: str = ""
    note: str = ""
    alone_us: tuple[float, ...] = ()
    left_out: str = ""
    measured: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How a workload occurred in a step.

    Attributes:
        step: its label.
        calls: over all instances.
        share: of the step's time, 0 to 1 (:mod:`twinkle_tune.profile.shares`).
        in_model: the share that was measured while the model ran, in training by the forward alone; None where
            ``share`` is that one.
    """

    step: str
    calls: int
    share: float
    in_model: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOn:
    """What the times of a contest in a compile mode are of.

    Attributes:
        block: class of the part of the model around the slot that was compiled and timed with each candidate in it
            ("Qwen3DecoderLayer"); "" where the slot was compiled and timed alone.
        path: of the instance ("model.layers.0").
        calls: calls of the slot, all with the candidate, in one timed call.
        why_alone: why the slot was timed alone; "" for a block.
    """

    block: str = ""
    path: str = ""
    calls: int = 1
    why_alone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of a contest: all of a :class:`Contest` but the calls that it was about, and a second race."""

    trials: tuple[Trial, ...]
    selection: Selection
    conditions: tuple[Conditions, ...] = ()
    timings: tuple[Timings, ...] = ()
    timed_on: TimedOn | None = None
    environment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """All trials of one workload, and what was chosen.

    Attributes:
        slot: the place.
        instances: paths of the module instances that were called like this, in the model's order; empty for
            a function.
        seen: the steps in which it was called.
        workload: the call.
        trials: every candidate that was tried, the original first.
        selection: the winner and why.
        confirmation: of a winner that was timed again: its trial and the original's, in a second race of the two.
            The selection's figures are of this one.
        conditions: the device around each race, in their order: the first, then the second; empty where the machine
            tells nothing of its device.
        timings: further times of the original and the winner, which decide nothing; empty where there was no time.
        timed_on: what the times are of in a compile mode; None for the slot's call, in the other modes.
        environment: fingerprint of the environment of the process that held it; "" where it was not held, or is from
            before it was written down.
    """

    slot: Slot
    instances: tuple[str, ...]
    seen: tuple[Seen, ...]
    workload: Workload
    trials: tuple[Trial, ...]
    selection: Selection
    confirmation: tuple[Trial, ...] = ()
    conditions: tuple[Conditions, ...] = ()
    timings: tuple[Timings, ...] = ()
    timed_on: TimedOn | None = None
    environment: str = ""

    @property
    def block(self) -> str:
        """The class of the block that was timed; "" for the slot alone."""
        return "" if self.timed_on is None else self.timed_on.block

    @property
    def status(self) -> Status:
        """What became of it; where the selection does not say so, as the trials have it."""
        chosen = self.selection
        if chosen.status:
            return chosen.status
        if chosen.winner != ORIGINAL:
            return "won"
        if not self.trials:
            return "not tried"
        rivals = [trial for trial in self.trials if trial.candidate != ORIGINAL]
        if rivals and not any(isinstance(trial.outcome, Measurement) for trial in rivals):
            return "all refused"
        return "kept"

    @property
    def is_whole(self) -> bool:
        """Whether the time budget left nothing of it undone: every candidate had its turn."""
        return self.status not in UNDECIDED and not self.untimed("budget") and not self.untimed("cut off")

    def untimed(self, cause: str) -> list[str]:
        """The candidates that were neither refused nor timed for this cause."""
        outcomes = ((trial.candidate, trial.outcome) for trial in self.trials)
        return [name for name, outcome in outcomes if isinstance(outcome, Untimed) and outcome.cause == cause]

    def trial(self, candidate: str) -> Trial:
        """The trial of the named candidate; KeyError if it was not tried."""
        for trial in self.trials:
            if trial.candidate == candidate:
                return trial
        raise KeyError(candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a profiling run found out.

    Attributes:
        schema: version of the format, :data:`SCHEMA`.
        tool: "twinkle_tune 0.1.0".
        created: UTC time, ISO 8601, to the second.
        command: the command line that made it; "" where it was made from Python.
        complete: False where the run was interrupted, or its time budget left something undone.
        model, mode, device, environment: what was profiled, how and where.
        objective: what winners had to be better at.
        slowdown: of the objective "balanced": time over the original's that a winner may take at most.
        dynamic: what torch.compile was given for its dynamic shapes in a compile mode; None for its default.
        accumulate: micro-batches of a training step, whose gradients add up before the optimizer's; None for one.
        verdict: one sentence: what the winners gain end to end, or why the original stays.
        steps: the whole model with and without the winners.
        contests: ordered by slot name, then workload key.
        uncalled: slots of the model that no step called ("RMSNorm model.norm").
        compiled: each step compiled in each way beside the original, where that was asked for.
        setups: the ways of running the whole model that won steps; ``kernelize_model`` puts them in place beside the
            winners of contests, which run for all other calls, and inside of a way where it says so.
        run: how the run went; None in a profile from before it was written down.
    """

    schema: int = SCHEMA
    tool: str
    created: str
    command: str = ""
    complete: bool
    model: ModelFacts
    mode: Mode
    device: str
    environment: Environment
    objective: Objective = Objective.TIME
    slowdown: float | None = None
    verdict: str
    steps: tuple[StepResult, ...]
    contests: tuple[Contest, ...]
    uncalled: tuple[str, ...]
    compiled: tuple[CompiledStep, ...] = ()
    setups: tuple[Setup, ...] = ()
    dynamic: bool | None = None
    accumulate: int | None = None
    run: RunFacts | None = None

    @property
    def aim(self) -> Aim:
        """The objective and its slowdown."""
        return Aim(objective=self.objective, slowdown=self.slowdown)

    @property
    def terms(self) -> Terms:
        """What held for the run, as far as a profile tells: the race's settings and the seed are the defaults."""
        return Terms(mode=self.mode, device=self.device, aim=self.aim, dynamic=self.dynamic, accumulate=self.accumulate)

    @property
    def autocasts(self) -> tuple[str, ...]:
        """What autocast cast to in the calls that it is about, "" for off: more than one where calls differ."""
        calls = [call.workload for setup in self.setups for call in setup.calls]
        contexts = (workload.context for workload in (*(contest.workload for contest in self.contests), *calls))
        return tuple(sorted({context.autocast for context in contexts}))

    @property
    def winners(self) -> tuple[Contest, ...]:
        """The contests that something other than the original won."""
        return tuple(contest for contest in self.contests if contest.selection.winner != "original")

    def save(self, path: str | Path) -> Path:
        """Write it to ``path`` as JSON: whole or not at all. Returns the path.

        Raises:
            ProfileError: it cannot be written there.
        """
        return write_profile(self, path)

    def __str__(self) -> str:
        """Five lines: what was profiled, what to do and why, the whole model, the winners, the contests."""
        return str(offered("text")(self))

    def _repr_html_(self) -> str:
        """The head of the page, for notebooks."""
        return str(offered("html")(self))

    def to_frame(self, rows: Table = "samples") -> Any:
        """A pandas table of it: one row a raw sample, or a trial, a selection, a step or a parity figure.

        Args:
            rows: "samples", "trials", "selections", "steps", "parity", "conditions" or "timings"; the columns,
                with their units, are those of :data:`twinkle_tune.report.frames.COLUMNS`.

        Raises:
            ProfileError: there is no such table.
        """
        return offered("table")(self, rows)
