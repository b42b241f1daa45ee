"""Short texts for people: times, ratios, calls. Every format of report uses these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import SupportsFloat, cast

from twinkle_tune.errors import one_line
from twinkle_tune.words import short_name
from twinkle_tune.workload import call_text, tensor_text

__all__ = [
    "NOTHING",
    "bytes_text",
    "call_text",
    "gain_text",
    "interval_text",
    "is_figure",
    "memory_reading",
    "one_line",
    "percent",
    "ratio_text",
    "reading",
    "short_name",
    "sparkline",
    "speedup_text",
    "tensor_text",
    "three_digits",
    "time_text",
]

NOTHING = "-"
"""Stands where there is no figure."""

_TIMES_FROM = 0.5
"""At this share of the original's time, percentages give way to "times as fast"."""
_ROUNDS_OF_95 = 6
"""With fewer rounds an interval of the median has less than 95% confidence."""
_SPARKS = "▁▂▃▄▅▆▇█"
_TIME_UNITS = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"), (1e-3, "ns"))
_BYTE_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def is_figure(value: object) -> bool:
    """Whether a value is a finite number: neither None nor a missing value of a table."""
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or not hasattr(value, "__float__"):
        return False
    return math.isfinite(float(cast("SupportsFloat", value)))


def time_text(us: object) -> str:
    """Microseconds with three digits and the unit that fits: "340 ns", "12.3 µs", "4.56 ms", "1.20 s"."""
    if not is_figure(us):
        return NOTHING
    value = float(cast("SupportsFloat", us))
    if value == 0:
        return "0 µs"
    # Rounded before the unit is picked, so that 999.9 µs is "1.00 ms" and never "1000 µs".
    rounded = float(f"{value:.3g}")
    scale, unit = next(((s, u) for s, u in _TIME_UNITS if abs(rounded) >= s), _TIME_UNITS[-1])
    return f"{three_digits(rounded / scale)} {unit}"


def bytes_text(count: object) -> str:
    """Bytes with three digits and the unit that fits: "512 B", "1.50 MiB"."""
    if not is_figure(count):
        return NOTHING
    value = float(cast("SupportsFloat", count))
    for scale, unit in _BYTE_UNITS:
        if abs(value) >= scale:
            return f"{three_digits(value / scale)} {unit}"
    return f"{value:.0f} B"


def three_digits(value: float) -> str:
    """A number with three digits that count, and never an exponent below a million."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 6)}f}" if abs(value) < 1e6 else f"{value:.3g}"


def ratio_text(ratio: object, low: object = None, high: object = None) -> str:
    """A time over the original's: "0.812", with its interval "0.812 (0.790 to 0.834)"."""
    if not is_figure(ratio):
        return NOTHING
    text = _ratio(ratio)
    return f"{text} ({_ratio(low)} to {_ratio(high)})" if is_figure(low) and is_figure(high) else text


def speedup_text(ratio: object) -> str:
    """How many times as fast, from a time over the original's: "1.23×"."""
    if not is_figure(ratio) or float(cast("SupportsFloat", ratio)) <= 0:
        return NOTHING
    return f"{three_digits(1 / float(cast('SupportsFloat', ratio)))}×"


_NOISY = 0.2
"""Wider than this an interval of a ratio leaves large gains and large losses open."""


def reading(ratio: float, low: float, high: float) -> str:
    """What an interval of a ratio allows to say, in words: "2.8% faster" where 2.8% of the time is saved."""
    if high < 1 or low > 1:
        return gain_text(ratio)
    return "no clear difference" if high - low <= _NOISY else "too noisy to tell"


def gain_text(ratio: float) -> str:
    """A time over the original's in words: "2.8% faster", "2.50× as fast", "44.0% slower", "13.2 times as slow".

    Percentages are of the original's time. Beyond half as much time, or twice as much, people count in times.
    """
    if ratio <= 1:
        return f"{percent(1 - ratio)} faster" if ratio > _TIMES_FROM else f"{speedup_text(ratio)} as fast"
    return f"{percent(ratio - 1)} slower" if ratio < 1 / _TIMES_FROM else f"{three_digits(ratio)} times as slow"


def interval_text(ratio: float, low: float, high: float, rounds: int) -> str:
    """The interval of a clear gain or loss in the words of :func:`gain_text`: "95% interval 1.8% to 3.6%".

    As :func:`twinkle_tune.measure.statistics.paired_ratio` has it: with fewer than six rounds it is all that was seen.
    """
    if ratio <= 1:
        ends = (percent(1 - high), percent(1 - low)) if ratio > _TIMES_FROM else (speedup_text(high), speedup_text(low))
    else:
        is_share = ratio < 1 / _TIMES_FROM
        ends = (percent(low - 1), percent(high - 1)) if is_share else (three_digits(low), three_digits(high))
    level = "95% interval " if rounds >= _ROUNDS_OF_95 else ""
    of = "" if level else f" in {rounds} round{'' if rounds == 1 else 's'}"
    return f"{level}{ends[0]} to {ends[1]}{of}"


def memory_reading(ratio: object) -> str:
    """What a ratio of peaks of memory says: "79.6% less memory"."""
    if not is_figure(ratio):
        return "memory unknown"
    share = float(cast("SupportsFloat", ratio))
    return f"{percent(abs(1 - share))} {'less' if share < 1 else 'more'} memory"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Figures in their order as a line of small bars, the lowest to the highest; means of runs beyond ``width``."""
    figures = [value for value in values if is_figure(value)]
    if not figures:
        return ""
    count = min(width, len(figures))
    edges = [index * len(figures) // count for index in range(count + 1)]
    means = [sum(figures[low:high]) / (high - low) for low, high in pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    # A tenth of a percent is noise of the clock: what differs by less is drawn level.
    steps = [round((value - low) / span * (len(_SPARKS) - 1)) if span > 1e-3 * abs(low) else 3 for value in means]
    return "".join(_SPARKS[step] for step in steps)


def percent(share: object) -> str:
    """A share of 1 as a percentage with one decimal: "12.3%"."""
    return f"{float(cast('SupportsFloat', share)):.1%}" if is_figure(share) else NOTHING


def _ratio(value: object) -> str:
    number = float(cast("SupportsFloat", value))
    return f"{number:.3f}" if abs(number) < 10 else three_digits(number)
