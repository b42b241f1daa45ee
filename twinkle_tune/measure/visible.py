"""How small a gain a race could have been sure of: what a contest without a clear winner leaves open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from twinkle_tune.measure.settings import RaceSettings
from twinkle_tune.measure.statistics import sign_e_value


def visible_gain(
    candidate_us: Sequence[float], original_us: Sequence[float], settings: RaceSettings, entered: int
) -> float | None:
    """The smallest share of the original's time that a candidate with this scatter must save to be accepted.

    The race accepts on the rounds that a candidate wins by more than half the least gain. So the candidate's rounds,
    as they were scattered, are moved until just so many of them are won as the evidence needs.

    Args:
        candidate_us, original_us: microseconds, one figure a round, paired by position.
        settings: of the race.
        entered: how many candidates share its error rate.

    Returns:
        A share between the least gain and 1; None where so few rounds prove nothing, even if all are won.
    """
    logs = [math.log(mine / its) for mine, its in zip(candidate_us, original_us, strict=False)]
    enough = max(entered, 1) / settings.error_rate
    needed = next((hits for hits in range(1, len(logs) + 1) if sign_e_value(hits, len(logs)) >= enough), None)
    if needed is None:
        return None
    middle = median(logs)
    # Of the rounds around their middle, the slowest that must be won.
    slowest = sorted(log - middle for log in logs)[needed - 1]
    gain = 1 - (1 - settings.min_gain / 2) * math.exp(-max(slowest, 0.0))
    return max(settings.min_gain, gain)
