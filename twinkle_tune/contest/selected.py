"""What a race came to: an outcome for each candidate that was right, and the selection with its status. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from twinkle_tune.measure.paired import Decision
from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.measure.smallest import memory_ratio
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.measure.visible import visible_gain
from twinkle_tune.objective import BY_TIME, Aim
from twinkle_tune.outcome import (
    UNDECIDED,
    Measurement,
    ParityFigure,
    Phase,
    Rejection,
    Selection,
    Status,
    Trial,
    Untimed,
)
from twinkle_tune.slot import ORIGINAL

NOT_TRIED = "not tried: the time budget was used up"
BLOCK_S = 60.0
"""A block of a tiny model took 20 to 40 s to compile and judge on a CPU, and what has begun is not interrupted."""
NO_BLOCK = f"not tried: the time budget leaves less than the {BLOCK_S:g} s that compiling a block may take"
ALL_REFUSED = "every other candidate was refused"
INCONCLUSIVE = "inconclusive"


def not_timed(name: str, decision: Decision) -> Rejection | Untimed:
    """The outcome of a candidate that was right and has no time."""
    left = dict(decision.left).get(name, "")
    if decision.stopped and name not in decision.failed:
        return Untimed(
            cause="budget", right=True, reason="not timed: the budget ran out; it passed the numerical check"
        )
    causes = dict(zip(decision.failed, decision.causes, strict=False))
    return Rejection(stage="timing", reason=left or decision.reason, cause=causes.get(name, "not timed"))


def not_tried(why: str = NOT_TRIED) -> Untimed:
    """The outcome of a candidate for which the time budget left no time."""
    return Untimed(cause="budget", right=False, reason=why)


def cut_off(stage: Phase, why: str) -> Untimed:
    """The outcome of a candidate that was ended in a stage since the budget left it no more time; ``why`` says how."""
    reason = f"not tried to its end: it {why}, which is what the time budget left it"
    return Untimed(cause="cut off", right=stage == "timing", reason=reason)


def with_cut_off(selection: Selection, trials: Sequence[Trial]) -> Selection:
    """A selection that was made without those who were cut off, once they are among the trials.

    That nobody was faster is not known then.
    """
    rivals = [trial.outcome for trial in trials if trial.candidate != ORIGINAL]
    late = [outcome for outcome in rivals if isinstance(outcome, Untimed) and outcome.cause == "cut off"]
    if not late or selection.winner != ORIGINAL or selection.status in UNDECIDED:
        return selection
    tried = any(isinstance(outcome, Measurement) for outcome in rivals) or any(outcome.right for outcome in late)
    return replace(selection, status="cut short" if tried else "not tried", reason=late[0].reason)


def interpreted() -> Untimed:
    """The outcome of a candidate that runs in Triton's interpreter and passed the numerical check."""
    return Untimed(
        cause="interpreter", right=True, reason="right (interpreter); not timed: the interpreter's speed says nothing"
    )


def rounded(figures: Sequence[ParityFigure]) -> tuple[ParityFigure, ...]:
    """Figures with four digits that count: a profile is read by people."""
    return tuple(replace(f, error=float(f"{f.error:.4g}"), limit=float(f"{f.limit:.4g}")) for f in figures)


def selection_of(
    decision: Decision,
    trials: Sequence[Trial],
    settings: RaceSettings | None = None,
    aim: Aim = BY_TIME,
    nobody_judged: str = "",
) -> Selection:
    """The selection that a race's decision comes to.

    Args:
        decision: of the race.
        trials: of all candidates, with their outcomes.
        settings: of the race; None for the defaults.
        aim: what decided.
        nobody_judged: why no candidate could be checked against the original, whatever it computes; "" where it could.
    """
    measured = {t.candidate: t.outcome for t in trials if isinstance(t.outcome, Measurement)}
    if decision.winner == ORIGINAL:
        status, reason = _kept(decision, [t for t in trials if t.candidate != ORIGINAL])
        if status == "all refused" and nobody_judged:
            status, reason = "inconclusive", f"{INCONCLUSIVE}: {nobody_judged}"
        unclear = status == "no clear winner" and not aim.is_memory
        visible = _visible(decision, measured, settings or RaceSettings()) if unclear else None
        return Selection(
            winner=ORIGINAL, rounds=decision.rounds, reason=reason, status=status, visible_gain=visible
        )  # fmt: skip
    winner, original = measured[decision.winner], measured[ORIGINAL]
    chosen = won(decision.winner, paired_ratio(winner.times_us, original.times_us), decision.reason)
    return replace(chosen, memory_ratio=memory_ratio(winner.peak_bytes, original.peak_bytes))


def won(winner: str, figure: Ratio, reason: str) -> Selection:
    """The selection of a winner with its time over the original's."""
    figure = figure.rounded()
    return Selection(
        winner=winner,
        ratio=figure.ratio,
        low=figure.low,
        high=figure.high,
        rounds=figure.rounds,
        reason=reason,
        status="won",
    )


def _kept(decision: Decision, rivals: Sequence[Trial]) -> tuple[Status, str]:
    """Why the original stayed: as a status and in words."""
    outcomes = [trial.outcome for trial in rivals]
    untimed = [outcome for outcome in outcomes if isinstance(outcome, Untimed)]
    late = [outcome for outcome in untimed if outcome.cause == "budget"]
    if not rivals:
        return "nothing to gain", decision.reason
    if late and all(not outcome.right for outcome in late) and not any(isinstance(o, Measurement) for o in outcomes):
        # Those that were refused before say nothing of those that had no turn.
        return "not tried", late[0].reason
    if late or decision.stopped:
        return "cut short", decision.reason if decision.stopped else late[0].reason
    if all(isinstance(outcome, Rejection) for outcome in outcomes):
        return "all refused", ALL_REFUSED
    if untimed and not any(isinstance(outcome, Measurement) for outcome in outcomes):
        return "kept", f"no candidate could be timed here: {untimed[0].reason}"
    return ("no clear winner" if decision.unclear else "kept"), decision.reason


def _visible(decision: Decision, measured: Mapping[str, Measurement], settings: RaceSettings) -> float | None:
    """Of the candidates that were in the race to its end, the smallest gain that one of them could have shown."""
    original = measured.get(ORIGINAL)
    rivals = {name: outcome for name, outcome in measured.items() if name != ORIGINAL}
    found = [
        gain
        for outcome in rivals.values()
        if original is not None and len(outcome.times_us) == decision.rounds
        if (gain := visible_gain(outcome.times_us, original.times_us, settings, len(rivals))) is not None
    ]
    return round(min(found), 4) if found and min(found) < 1 else None
