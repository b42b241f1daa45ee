"""Whether a winner still wins when it is timed again.

The fastest of several noisy figures is a little too good, and a process may favour one candidate for as long as it
lives (where its memory lies, in which order its code was compiled). So the winner meets the original once more, in
another process if there is one, and the figure that is reported is the second one.
"""

from __future__ import annotations

from dataclasses import replace

from twinkle_tune.outcome import Rejection, Selection
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.source.tried import as_tried
from twinkle_tune.tune.events import Listener, RoundTimed, WinnerTimedAgain
from twinkle_tune.tune.task import Executor, Task


def confirmed(contest: Contest, task: Task, executor: Executor, listener: Listener) -> Contest:
    """The contest with what became of its winner in a second race against the original alone.

    Args:
        contest: as it was held; without a winner it is returned as it is.
        task: what it was held from. Where its time is over, there is none to time the winner again.
        executor: where.
        listener: told of the rounds.
    """
    won = contest.selection
    if won.winner == ORIGINAL:
        return contest
    if task.deadline_s is not None and task.deadline_s <= 0:
        return _not_confirmed(contest, "the time budget left none to time it again")
    listener(WinnerTimedAgain(candidate=won.winner))
    # As it was measured: the other process may find a branch moved, and would search another config.
    two = tuple(
        replace(c, source=as_tried(c.source, contest.trial(c.name)))
        for c in task.candidates
        if c.name in (ORIGINAL, won.winner)
    )

    def rounds_alone(event: object) -> None:
        if isinstance(event, RoundTimed):
            listener(event)

    again = replace(task, candidates=two, seed=task.seed + 1, tunes=False, further="all")
    return with_second(contest, executor.confirm(again, rounds_alone), executor.elsewhere)


def with_second(contest: Contest, second: Contest, where: str) -> Contest:
    """The contest with the figures of a second race of its winner against the original, held ``where``."""
    won, again = contest.selection, second.selection
    contest = replace(
        contest, conditions=(*contest.conditions[:1], *second.conditions), timings=second.timings or contest.timings
    )
    if again.winner == won.winner:
        reason = f"{again.reason}, timed again {where}; {1 - won.ratio:.1%} at first"
        return replace(contest, selection=replace(again, reason=reason), confirmation=second.trials)
    outcome = second.trial(won.winner).outcome if second.trials else None
    why = outcome.reason if isinstance(outcome, Rejection) else again.reason
    return replace(_not_confirmed(contest, f"timed again {where}: {why}"), confirmation=second.trials)


def _not_confirmed(contest: Contest, why: str) -> Contest:
    won = contest.selection
    reason = f"not confirmed: {won.winner} took {won.ratio:.3f} of the original's time at first, but {why}"
    return replace(contest, selection=Selection(winner=ORIGINAL, rounds=won.rounds, reason=reason))
