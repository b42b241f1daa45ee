"""How small a gain a race could have been sure of: what a contest without a clear winner leaves open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.measure.statistics import enough_hits

_FEWEST = 3


def visible_gain(
    candidate_us: Sequence[float], original_us: Sequence[float], settings: RaceSettings, entered: int
) -> float | None:
    """The smallest share of the original's time that a candidate with this scatter must save to be accepted.

    The race accepts on the rounds that a candidate wins by more than half the least gain. So the candidate's rounds,
    as they were scattered, are moved until just such a share of them is won as the evidence of a whole race needs: one
    with such a gain would have been timed on, where noise ended the race of this one.

    Args:
        candidate_us, original_us: microseconds, one figure a round, paired by position.
        settings: of the race.
        entered: how many candidates share its error rate.

    Returns:
        A share between the least gain and 1; None where a whole race proves nothing, or there were under three rounds.
    """
    logs = [math.log(mine / its) for mine, its in zip(candidate_us, original_us, strict=False)]
    enough = max(entered, 1) / settings.error_rate
    needed = enough_hits(settings.max_rounds, enough)
    if needed > settings.max_rounds or len(logs) < _FEWEST:
        return None
    middle = median(logs)
    # Of the rounds around their middle, the slowest that must be won.
    won = math.ceil(len(logs) * needed / settings.max_rounds)
    slowest = sorted(log - middle for log in logs)[won - 1]
    gain = 1 - (1 - settings.min_gain / 2) * math.exp(-max(slowest, 0.0))
    return max(settings.min_gain, gain)
