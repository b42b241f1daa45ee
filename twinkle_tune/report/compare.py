"""What changed from one profile to another, and which profiles are one line of versions.

The rule: something got slower, or faster, only where the intervals of the two figures lie apart. A slot whose winner
was faster before and whose original runs now has lost a winner: nothing in the model need be slower for it, because a
busy machine may only have failed to prove the gain again; the steps tell whether it is. All figures are
ratios to the original of the same run, so that two machines or library versions may be compared. The times
themselves are compared as well, but only where the environments are equal.

Profiles by memory are held to their own objective: a peak that grew, against the original's of the same run, is a
regression; more time is one only beyond the slowdown that a balanced profile allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from twinkle_tune.measure.smallest import MIN_GAIN, memory_ratio
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.objective import Aim
from twinkle_tune.outcome import UNDECIDED
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.report.text import call_text, ratio_text, time_text
from twinkle_tune.slot import ORIGINAL

ChangeKind = Literal["regression", "lost winner", "gain", "winner changed", "new", "gone", "same"]
"""From what a reader must see first to what may be left out."""

STEP = "step "
"""Begins the place of a figure of the whole model."""

KINDS: tuple[ChangeKind, ...] = ("regression", "lost winner", "gain", "winner changed", "new", "gone", "same")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure in two profiles.

    Attributes:
        where: "step prefill 1x128", or slot and call.
        measure: what the figures are: a ratio of times to the original of the same run, one of peaks of memory, or
            microseconds.
        before, after: the figures with their intervals; None where a profile has none.
        winner_before, winner_after: of a contest; "" for a step.
        kind: what became of it.
        is_called: whether the model makes such calls; False for a contest of a size that was only probed.
    """

    where: str
    measure: Literal["ratio", "memory", "time_us"] = "ratio"
    before: Ratio | None
    after: Ratio | None
    winner_before: str = ""
    winner_after: str = ""
    kind: ChangeKind
    is_called: bool = True

    @property
    def is_step(self) -> bool:
        """Whether the figures are of the whole model."""
        return self.where.startswith(STEP)

    @property
    def is_news(self) -> bool:
        """Whether a reviewer wants to read it: no size that was only probed, no new or gone contest without winner."""
        if not self.is_called or self.kind == "same":
            return False
        found = {self.winner_before, self.winner_after} - {"", ORIGINAL}
        return self.is_step or self.kind not in ("new", "gone") or bool(found)

    @property
    def text(self) -> str:
        """The figures in words: "0.800 (0.790 to 0.810) → 0.900 (0.890 to 0.910)"."""
        what = "memory " if self.measure == "memory" else ""
        return f"{what}{_figure(self.before, self.measure)} → {_figure(self.after, self.measure)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Profiles of the same model, mode, dtype, device and objective, from the oldest to the newest."""

    profiles: tuple[tuple[int, Profile], ...]

    @property
    def name(self) -> str:
        """What they have in common."""
        first = self.profiles[0][1]
        aim = f", by {first.aim}" if first.aim.is_memory else ""
        return f"{first.model.name}, {first.mode}, {first.model.dtype}, {first.environment.device_name}{aim}"


def changes(before: Profile, after: Profile) -> tuple[Change, ...]:
    """What changed, in the order of :data:`KINDS`: regressions first; of one kind, steps before contests.

    A contest is known by slot, workload key and what was timed, a step by its label; what a run did not come to is not
    there. Where both environments are equal, the tuned step's times are compared as well as the ratios.
    """
    found = [*_steps(before, after), *_contests(before, after)]
    return tuple(sorted(found, key=lambda change: KINDS.index(change.kind)))


def regressions(found: Iterable[Change]) -> tuple[Change, ...]:
    """Those of the changes that made something slower, or by memory larger."""
    return tuple(change for change in found if change.kind == "regression")


def lines(profiles: Sequence[Profile]) -> tuple[Line, ...]:
    """The profiles in groups whose members follow each other in time; numbers are places in ``profiles``, from 1."""
    groups: dict[tuple[str, ...], list[tuple[int, Profile]]] = {}
    for number, profile in enumerate(profiles, 1):
        model, here = profile.model, profile.environment
        key = (model.name, model.dtype, str(profile.mode), profile.device, here.device_name, str(profile.aim))
        groups.setdefault(key, []).append((number, profile))
    return tuple(
        Line(profiles=tuple(sorted(group, key=lambda pair: (pair[1].created, pair[0])))) for group in groups.values()
    )


def successive(line: Line) -> tuple[tuple[int, int, tuple[Change, ...]], ...]:
    """Each neighbouring pair of a line: the numbers of the older and the newer one, and what changed."""
    return tuple((old, new, changes(before, after)) for (old, before), (new, after) in pairwise(line.profiles))


def _steps(before: Profile, after: Profile) -> list[Change]:
    old = {step.label: step for step in before.steps}
    new = {step.label: step for step in after.steps}
    same_machine = before.environment.fingerprint == after.environment.fingerprint
    found = []
    for label in dict.fromkeys([*old, *new]):
        where = f"{STEP}{label}"
        was, now = _ratio_of(old.get(label), before), _ratio_of(new.get(label), after)
        kind = _kind(was, now, after.aim)
        # Where its originals run again it is not slower than they are: it has no kernel any more.
        is_lost = kind == "regression" and now is not None and not now.rounds
        found.append(Change(where=where, before=was, after=now, kind="lost winner" if is_lost else kind))
        if after.aim.is_memory:
            peaks = (_memory_of(old.get(label), before), _memory_of(new.get(label), after))
            found.append(_memory_change(where, *peaks))
            continue
        times = (_time_of(old.get(label)), _time_of(new.get(label)))
        if same_machine and all(times):
            kind = _kind(*times, after.aim)
            if kind != "same":
                found.append(Change(where=where, measure="time_us", before=times[0], after=times[1], kind=kind))
    return found


def _contests(before: Profile, after: Profile) -> list[Change]:
    old = {(c.slot.name, c.workload.key, c.block): c for c in before.contests}
    new = {(c.slot.name, c.workload.key, c.block): c for c in after.contests}
    found = []
    for key in dict.fromkeys([*old, *new]):
        was, now = old.get(key), new.get(key)
        shown = was or now
        figures = (_selected(was), _selected(now))
        kind = _kind(*figures, after.aim)
        names = tuple(c.selection.winner if c is not None else "" for c in (was, now))
        if None not in figures and names[0] != ORIGINAL and names[1] == ORIGINAL:
            kind = "lost winner"
        elif kind == "same" and names[0] != names[1]:
            kind = "winner changed"
        found.append(
            Change(
                where=f"{key[0]} {call_text(shown.workload)}" if shown is not None else key[0],
                before=figures[0],
                after=figures[1],
                winner_before=names[0],
                winner_after=names[1],
                kind=kind,
                is_called=any(contest is not None and contest.seen for contest in (was, now)),
            )
        )
        if after.aim.is_memory:
            change = _memory_change(found[-1].where, _selected_memory(was), _selected_memory(now))
            found.append(replace(change, winner_before=names[0], winner_after=names[1], is_called=found[-1].is_called))
    return found


def _memory_change(where: str, before: Ratio | None, after: Ratio | None) -> Change:
    return Change(where=where, measure="memory", before=before, after=after, kind=_memory_kind(before, after))


def _memory_kind(before: Ratio | None, after: Ratio | None) -> ChangeKind:
    """Peaks have no interval: what differs by no more than what a winner must save is the same."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    grown = after.ratio - before.ratio
    return "regression" if grown > MIN_GAIN else "gain" if grown < -MIN_GAIN else "same"


def _kind(before: Ratio | None, after: Ratio | None, aim: Aim) -> ChangeKind:
    if before is None or after is None:
        return "new" if before is None else "gone"
    if after.low > before.high:
        return "same" if aim.is_memory and after.low <= aim.most else "regression"
    return "gain" if after.high < before.low else "same"


def _ratio_of(step: StepResult | None, profile: Profile) -> Ratio | None:
    # Without times the original runs; but in a run that was interrupted the step may not have been timed yet.
    if step is None or not (step.tuned_us or profile.complete):
        return None
    return Ratio(ratio=step.ratio, low=step.low, high=step.high, rounds=len(step.tuned_us))


def _time_of(step: StepResult | None) -> Ratio | None:
    """Median and interval of the tuned step's microseconds."""
    if step is None or not step.tuned_us:
        return None
    # The order statistics of the times are those of their ratios to 1.
    return paired_ratio(step.tuned_us, [1.0] * len(step.tuned_us))


def _selected(contest: Contest | None) -> Ratio | None:
    if contest is None or not contest.trials or contest.status in UNDECIDED:  # that says nothing of who is faster
        return None
    chosen = contest.selection
    return Ratio(ratio=chosen.ratio, low=chosen.low, high=chosen.high, rounds=chosen.rounds)


def _memory_of(step: StepResult | None, profile: Profile) -> Ratio | None:
    if step is None or not (step.tuned_us or profile.complete):
        return None
    return _memory(memory_ratio(step.tuned_peak_bytes, step.original_peak_bytes) if step.tuned_us else 1.0)


def _selected_memory(contest: Contest | None) -> Ratio | None:
    if contest is None or not contest.trials:
        return None
    return _memory(1.0 if contest.selection.winner == ORIGINAL else contest.selection.memory_ratio)


def _memory(ratio: float | None) -> Ratio | None:
    return None if ratio is None else Ratio(ratio=ratio, low=ratio, high=ratio, rounds=1)


def _figure(figure: Ratio | None, measure: str) -> str:
    if figure is None:
        return "nothing"
    if measure == "memory":
        return ratio_text(figure.ratio)
    if measure == "ratio" and figure.low == figure.high == 1:
        return "the original"  # by definition, not by measurement
    if measure == "ratio":
        return ratio_text(figure.ratio, figure.low, figure.high)
    return f"{time_text(figure.ratio)} ({time_text(figure.low)} to {time_text(figure.high)})"
