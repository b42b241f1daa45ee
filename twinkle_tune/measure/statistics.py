"""The statistics behind every verdict, free of assumptions on how the noise is distributed.

Time ratios say "faster" as the share of time saved: 2% faster is a ratio of 0.98.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from statistics import median

_BETS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Hit rates that the e-value bets on: from a faint preference to near certainty."""

_LOG_PAYOFFS = tuple((math.log(2 * p), math.log(2 * (1 - p))) for p in _BETS)

_ABOVE, _HARDLY = 1.5, 2.05
"""Standard deviations: a forecast is for a rate of hits so far above the one seen; beyond it lie 2% of what happens."""

_MAX_LOG = 700.0
"""Beyond e**700 a float overflows, and no threshold lies anywhere near."""


def sign_e_value(hits: int, rounds: int) -> float:
    """Evidence that a hit is likelier than a miss: 1 says nothing, 100 refutes "even odds" at the 1% level.

    The capital of a gambler who began with 1 and bet on hits at even odds, with a sixth of it on each of six
    hit rates: the mean over p in {.6, .7, .8, .9, .95, .99} of ``(2p)**hits * (2(1-p))**(rounds-hits)``.
    Where a hit has a probability of at most one half, given everything before, it is a supermartingale, so
    it may be looked at after every round: the chance that it ever reaches 1/a is at most a (Ville's
    inequality; see Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid
    inference", Statistical Science 38, 2023). Capped at e**700.

    Raises:
        ValueError: hits are negative or more than the rounds.
    """
    if not 0 <= hits <= rounds:
        raise ValueError(f"sign_e_value: got {hits} hits in {rounds} rounds, expected 0 <= hits <= rounds")
    capital = sum(math.exp(min(hits * win + (rounds - hits) * loss, _MAX_LOG)) for win, loss in _LOG_PAYOFFS)
    return capital / len(_BETS)


@cache
def enough_hits(rounds: int, enough: float) -> int:
    """The fewest hits in so many rounds whose e-value reaches ``enough``; one more than the rounds where none do."""
    return bisect_left(range(rounds + 1), enough, key=lambda hits: sign_e_value(hits, rounds))


@cache
def is_out_of_reach(hits: int, rounds: int, most: int, enough: float) -> bool:
    """Whether the rounds that are left would hardly give the evidence, at a rate of hits above the one seen so far.

    Above it by one and a half standard deviations: the chance that the e-value of all ``most`` rounds reaches
    ``enough`` is then under 2%, by the normal distribution. It is a forecast, which can end a race for the original and
    never for anybody else: the error rate of those who are accepted is what it was. Counted over 60 rounds, one
    challenger: who wins half of the rounds is done with after 17 in place of 60, who wins 80% is still accepted in 94%
    of the races in place of 96%.

    Args:
        hits, rounds: so far.
        most: rounds of the whole race.
        enough: e-value that is wanted.
    """
    left, missing = most - rounds, enough_hits(most, enough) - hits
    if missing <= 0 or missing > left:
        return missing > 0
    share = hits / rounds
    spread = math.sqrt(max(share * (1 - share), 0.25 / rounds) / rounds)
    likely = min(0.999, share + _ABOVE * spread)
    return missing - 0.5 - left * likely > _HARDLY * math.sqrt(left * likely * (1 - likely))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A candidate's time over the original's.

    Attributes:
        ratio: median of the paired rounds; under 1 is faster.
        low, high: the interval of that median.
        rounds: how many pairs there were.
    """

    ratio: float
    low: float
    high: float
    rounds: int

    def rounded(self) -> Ratio:
        """With four digits, as a profile holds it."""
        return replace(self, ratio=round(self.ratio, 4), low=round(self.low, 4), high=round(self.high, 4))


def paired_ratio(candidate_us: Sequence[float], original_us: Sequence[float], confidence: float = 0.95) -> Ratio:
    """The median of the paired time ratios, with an interval that needs no assumption on the noise.

    Times pair by position, and the shorter sequence decides how many pairs there are. The interval reaches
    from the k-th smallest ratio to the k-th largest, k as large as the confidence allows: the true median
    lies outside it with probability ``2 * P(Binomial(n, 1/2) < k)`` (the sign test turned round; e.g. David
    and Nagaraja, "Order Statistics", 3rd edition, section 7.1).

    With too few rounds for the confidence asked for (fewer than 6 at 95%) the interval is the smallest to the
    largest ratio, and holds the median with less than that confidence: ``1 - 2**(1 - n)``.

    Args:
        candidate_us, original_us: microseconds, one figure a round.
        confidence: in (0, 1).

    Raises:
        ValueError: no pair, a time that is not a positive number, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"paired_ratio: got confidence={confidence}, expected it in (0, 1), such as 0.95")
    rounds = min(len(candidate_us), len(original_us))
    if rounds == 0:
        raise ValueError("paired_ratio: got no pair of times, expected at least one round; time both first")
    for time_us in (*candidate_us[:rounds], *original_us[:rounds]):
        require_time(time_us, "paired_ratio")
    ratios = sorted([mine / its for mine, its in zip(candidate_us, original_us, strict=False)])
    cut = _cut(rounds, confidence)
    return Ratio(ratio=median(ratios), low=ratios[cut], high=ratios[rounds - 1 - cut], rounds=rounds)


def require_time(time_us: float, where: str) -> None:
    """Refuse what cannot be the time of anything.

    Raises:
        ValueError: the time is zero, negative, infinite or not a number.
    """
    if not (math.isfinite(time_us) and time_us > 0):
        raise ValueError(
            f"{where}: got a time of {time_us} us, expected a positive finite number; "
            "this is a fault of the clock, not a sample: measure again"
        )


@cache  # the exact fraction takes as long as the rest, and few numbers of rounds are asked for
def _cut(rounds: int, confidence: float) -> int:
    # How many ratios may be left out at either end; 0 also where even all of them are too few.
    allowed = Fraction(1 - confidence) * 2**rounds
    cut, tails = 0, 2
    while cut + 1 <= (rounds - 1) // 2 and tails + 2 * math.comb(rounds, cut + 1) <= allowed:
        cut += 1
        tails += 2 * math.comb(rounds, cut)
    return cut
