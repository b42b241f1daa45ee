"""Whether a winner still wins when it is timed again.

The fastest of several noisy figures is a little too good, and a process may favour one candidate for as long as it
lives (where its memory lies, in which order its code was compiled). So the winner meets the original once more, in
another process if there is one, and the figure that is reported is the second one.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from twinkle_tune.objective import BY_TIME, Aim
from twinkle_tune.outcome import UNDECIDED, Rejection, Selection, Status
from twinkle_tune.peers import now_s
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.source.tried import as_tried
from twinkle_tune.tune.events import Listener, WinnerTimedAgain
from twinkle_tune.tune.runner_up import MOST, behind, in_the_place_of, runners_up, with_winner
from twinkle_tune.tune.task import Task


def confirmed(
    contest: Contest, task: Task, elsewhere: str, listener: Listener
) -> Generator[Task, Contest, Contest]:  # fmt: skip
    """The contest with what became of its winner in a second race against the original alone.

    A winner that does not win again gives way to the runner-up, at most twice; each must win such a race of its own.

    Args:
        contest: as it was held; without a winner it is returned as it is.
        task: what it was held from. Where its time is over, there is none to time the winner again.
        elsewhere: where second races are held, in words.
        listener: told who is timed again.

    Yields:
        The tasks of second races, for whose contests it waits.
    """
    if contest.selection.winner == ORIGINAL:
        return contest
    ends_s = None if task.deadline_s is None else now_s() + task.deadline_s
    lost = yield from _timed_again(contest, task, ends_s, elsewhere, listener)
    if lost.selection.winner != ORIGINAL or not lost.trials:
        return lost
    # Who was nearly as fast says nothing of who is nearly as small.
    for name in () if task.terms.aim.is_memory else runners_up(contest, task.terms.settings.min_gain)[:MOST]:
        if ends_s is not None and now_s() >= ends_s:
            break
        made = yield from _timed_again(with_winner(contest, name), task, ends_s, elsewhere, listener)
        if not made.trials:
            return made
        if made.selection.winner != ORIGINAL:
            return in_the_place_of(made, lost)
        reason = f"{lost.selection.reason}; {made.selection.reason}"
        lost = replace(lost, selection=replace(lost.selection, reason=reason))
    return lost


def next_confirmed(
    contest: Contest, task: Task, elsewhere: str, listener: Listener
) -> Generator[Task, Contest, Contest | None]:  # fmt: skip
    """The contest with the runner-up of a confirmed winner in its place; None where there is none, or it does not win.

    Args:
        contest: whose winner is to be replaced.
        task, elsewhere, listener: as of :func:`confirmed`.
    """
    for name in () if task.terms.aim.is_memory else behind(contest, task.terms.settings.min_gain)[:1]:
        ends_s = None if task.deadline_s is None else now_s() + task.deadline_s
        made = yield from _timed_again(with_winner(contest, name), task, ends_s, elsewhere, listener)
        return made if made.selection.winner != ORIGINAL else None
    return None


def _timed_again(
    contest: Contest, task: Task, ends_s: float | None, elsewhere: str, listener: Listener
) -> Generator[Task, Contest, Contest]:
    """The contest with its second race; without trials, as that one is, where the original failed in it."""
    won = contest.selection
    left_s = None if ends_s is None else ends_s - now_s()
    if left_s is not None and left_s <= 0:
        return _not_confirmed(contest, "the time budget left none to time it again", "cut short")
    listener(WinnerTimedAgain(candidate=won.winner, index=task.index))
    # As it was measured: the other process may find a branch moved, and would search another config.
    two = tuple(
        replace(c, source=as_tried(c.source, contest.trial(c.name)))
        for c in task.candidates
        if c.name in (ORIGINAL, won.winner)
    )

    terms = replace(task.terms, seed=task.terms.seed + 1)
    second = yield replace(
        task, candidates=two, terms=terms, deadline_s=left_s, tunes=False, further="all", again=True
    )  # fmt: skip
    return with_second(contest, second, elsewhere, task.terms.aim) if second.trials else second


def with_second(contest: Contest, second: Contest, where: str, aim: Aim = BY_TIME) -> Contest:
    """The contest with the figures of a second race of its winner against the original, held ``where``."""
    won, again = contest.selection, second.selection
    contest = replace(
        contest, conditions=(*contest.conditions[:1], *second.conditions), timings=second.timings or contest.timings
    )
    if again.winner == won.winner:
        first = f"{won.ratio:.3f} of the time" if aim.is_memory else f"{1 - won.ratio:.1%}"
        reason = f"{again.reason}, timed again {where}; {first} at first"
        return replace(contest, selection=replace(again, reason=reason), confirmation=second.trials)
    outcome = second.trial(won.winner).outcome if second.trials else None
    why = outcome.reason if isinstance(outcome, Rejection) else again.reason
    status: Status = again.status if again.status in ("no clear winner", *UNDECIDED) else "kept"
    lost = _not_confirmed(contest, f"timed again {where}: {why}", status, again.visible_gain)
    return replace(lost, confirmation=second.trials)


def _not_confirmed(contest: Contest, why: str, status: Status, visible_gain: float | None = None) -> Contest:
    won = contest.selection
    reason = f"not confirmed: {won.winner} took {won.ratio:.3f} of the original's time at first, but {why}"
    chosen = Selection(
        winner=ORIGINAL, rounds=won.rounds, reason=reason, status=status, visible_gain=visible_gain
    )  # fmt: skip
    return replace(contest, selection=chosen)
