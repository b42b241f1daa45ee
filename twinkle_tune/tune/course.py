"""How a run went: what it took, what stopped it, and what all of it would take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from twinkle_tune.catalog.block import BLOCK
from twinkle_tune.contest.selected import BLOCK_S
from twinkle_tune.outcome import UNDECIDED, Untimed
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Contest
from twinkle_tune.tune.budget import KEPT


def run_facts(
    contests: Sequence[Contest],
    entered: Callable[[Contest], int],
    *,
    torch: Callable[[Contest], int] = lambda contest: 0,
    took_s: float,
    contests_s: float,
    budget_s: float | None,
    whole_s: float = 0.0,
    recalled: Callable[[Contest], bool] = lambda contest: False,
) -> RunFacts:
    """The facts of a run that is over.

    Args:
        contests: with what became of them.
        entered: how many candidates a contest has, the original among them.
        torch: how many of them are torch's own.
        took_s, contests_s: seconds of the run, and of its contests alone.
        budget_s: what it was given.
        whole_s: seconds that are kept for the whole model, at most.
        recalled: whether a contest was taken from the journal or the store: it took this run no time.
    """
    whole = all(contest.is_whole for contest in contests)
    stopped: Literal["", "budget"] = "" if whole else "budget"
    left = sum(entered(contest) if contest.status in UNDECIDED else _late(contest) for contest in contests)
    # What a contest did before it was cut short says how long a candidate takes, though it is held again: most of that
    # is to load and to check one.
    own = [contest for contest in contests if not recalled(contest)]
    done = sum(len(contest.trials) - _late(contest, unchecked=True) for contest in own)
    facts = RunFacts(
        took_s=round(took_s, 1), budget_s=budget_s, stopped=stopped, recalled=len(contests) - len(own)
    )  # fmt: skip
    if stopped != "budget" or not done or any(contest.untimed("cut off") for contest in contests):
        return facts

    def needed_s(all_s: float) -> float:
        # As a budget is shared out: of a small one a part is kept for the whole model.
        kept_s = min(whole_s, KEPT / (1 - KEPT) * all_s)
        return round(max(took_s - contests_s, kept_s) + all_s, 1)

    each_s, fewer = contests_s / done, sum(torch(contest) for contest in contests)
    blocks = sum(contest.slot.name == BLOCK and not contest.is_whole for contest in contests)
    return replace(
        facts,
        needs_s=needed_s(contests_s + each_s * left + BLOCK_S * blocks),
        # With their originals, and from the beginning: another choice of candidates is another contest.
        torch_needs_s=needed_s(each_s * (fewer + len(contests))) if fewer else None,
    )


def _late(contest: Contest, *, unchecked: bool = False) -> int:
    """Candidates without their turn, since the budget was used up; or those alone that were not even checked."""
    untimed = [trial.outcome for trial in contest.trials if isinstance(trial.outcome, Untimed)]
    return sum(outcome.cause == "budget" and not (unchecked and outcome.right) for outcome in untimed)
