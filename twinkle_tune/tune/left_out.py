"""What a time budget leaves out from the start: blocks, whose compiler nobody interrupts. Pure, but for the clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from twinkle_tune.capture.capture import Observation
from twinkle_tune.catalog.block import BLOCK
from twinkle_tune.contest.selected import BLOCK_S
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.tune.budget import Budget
from twinkle_tune.words import span


def is_left_out(budget: Budget, observation: Observation, entrants: Sequence[Candidate]) -> bool:
    """Whether the time left is under what all candidates of a block need: to begin would be in vain."""
    left_s = budget.contests_left_s
    rivals = [candidate for candidate in entrants if candidate.name != ORIGINAL]
    compiled = bool(rivals) and all(candidate.source.kind == "compile" for candidate in rivals)
    return left_s is not None and left_s < BLOCK_S and observation.slot.name == BLOCK and compiled


def left_out_notes(budget: Budget, left_out: Sequence[Observation]) -> tuple[str, ...]:
    """One line on the blocks that a run begins without: "budget 30 s: blocks (97% of the step) need 60 s or more"."""
    if not left_out:
        return ()
    shares: defaultdict[str, float] = defaultdict(float)
    for observation in left_out:
        for seen in observation.seen:
            shares[seen.step] += seen.share
    share = f" ({min(1.0, max(shares.values())):.0%} of the step)" if shares else ""
    seconds, left_s = budget.seconds or 0.0, max(0.0, budget.contests_left_s or 0.0)
    of = f" ({span(round(left_s))} of it for contests)" if seconds >= BLOCK_S else ""
    return (f"budget {span(seconds)}{of}: blocks{share} need {BLOCK_S:g} s or more and are left out",)
