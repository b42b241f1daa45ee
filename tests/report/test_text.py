"""Short texts for people."""

from __future__ import annotations

import math

import pytest

from tests.report import fabricate
from twinkle_tune.report.text import (
    NOTHING,
    bytes_text,
    call_text,
    gain_text,
    interval_text,
    one_line,
    percent,
    ratio_text,
    reading,
    short_name,
    sparkline,
    speedup_text,
    time_text,
)
from twinkle_tune.workload import Plain


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0.34, "340 ns"),
        (12.345, "12.3 µs"),
        (999.4, "999 µs"),
        (999.9, "1.00 ms"),
        (4560.0, "4.56 ms"),
        (1.2e6, "1.20 s"),
        (7.2e9, "7200 s"),
        (0.0, "0 µs"),
        (None, NOTHING),
        (math.nan, NOTHING),
    ],
)
def test_time_text(us: float | None, text: str) -> None:
    """Times have three digits and the unit that fits, also where rounding crosses into the next unit."""
    assert time_text(us) == text


def test_ratio_text() -> None:
    """A ratio has three decimals, and its interval where there is one."""
    assert ratio_text(0.8123) == "0.812"
    assert ratio_text(0.8, 0.79, 0.81) == "0.800 (0.790 to 0.810)"
    assert ratio_text(125.4) == "125"
    assert ratio_text(None) == NOTHING


def test_other_figures() -> None:
    """Percentages, speed-ups and bytes read as people write them; a missing one never as a number."""
    assert (percent(0.1234), percent(None)) == ("12.3%", NOTHING)
    assert (speedup_text(0.8), speedup_text(0.0), speedup_text(None)) == ("1.25×", NOTHING, NOTHING)
    assert (bytes_text(512), bytes_text(3 << 19), bytes_text(None)) == ("512 B", "1.50 MiB", NOTHING)


def test_reading_claims_no_more_than_the_interval() -> None:
    """An interval that holds 1 is no difference, whatever the median."""
    assert reading(0.9, 0.8, 0.95) == "10.0% faster"
    assert reading(0.9, 0.8, 1.0) == "no clear difference"
    assert reading(0.7, 0.5, 1.4) == "too noisy to tell"
    assert reading(1.1, 1.05, 1.2) == "10.0% slower"


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.972, "2.8% faster"),
        (0.4, "2.50× as fast"),
        (1.0, "0.0% faster"),
        (1.44, "44.0% slower"),
        (13.2, "13.2 times as slow"),
    ],
)
def test_gains_are_told_as_people_say_them(ratio: float, text: str) -> None:
    """Percentages of the original's time up to twice as fast or as slow, then how many times."""
    assert gain_text(ratio) == text


def test_an_interval_is_told_as_its_gain_is() -> None:
    """From the least to the most, in percent or times; a level is named from six rounds on, which it takes."""
    assert interval_text(0.972, 0.964, 0.982, 400) == "95% interval 1.8% to 3.6%"
    assert interval_text(0.4, 0.25, 0.5, 6) == "95% interval 2.00× to 4.00×"
    assert interval_text(1.1, 1.05, 1.2, 9) == "95% interval 5.0% to 20.0%"
    assert interval_text(4.0, 3.0, 5.0, 9) == "95% interval 3.00 to 5.00"
    assert interval_text(0.9, 0.8, 0.95, 5) == "5.0% to 20.0% in 5 rounds"
    assert interval_text(0.9, 0.9, 0.9, 1) == "10.0% to 10.0% in 1 round"


def test_call_text_of_tensors() -> None:
    """Tensors are dtype and shape, equal neighbours counted, the fifth form and later only counted."""
    assert call_text(fabricate.workload((1, 128, 256))) == "float32[1,128,256]"
    assert call_text(fabricate.workload((2, 3), (2, 3), (), dtype="bfloat16")) == "bfloat16[2,3] x2, bfloat16[]"
    many = fabricate.workload((1,), (2,), (3,), (4,), (5,), (6,))
    assert call_text(many) == "float32[1], float32[2], float32[3], float32[4], 2 more"
    assert call_text(fabricate.workload((8,), autocast="bfloat16")) == "float32[8], autocast bfloat16"


def test_call_text_without_tensors() -> None:
    """A call without tensors shows its plain arguments."""
    assert call_text(fabricate.workload(kwargs=(("eps", Plain(value=1e-6)),))) == "eps=1e-06"
    assert call_text(fabricate.workload()) == "no arguments"


def test_one_line_is_inert_and_bounded() -> None:
    """Newlines, control and direction characters are gone, and a long text keeps both its ends."""
    assert one_line("a\n\tb\u202ec\x1b[31m") == "a b\ufffdc\ufffd[31m"
    short = one_line("start" + "x" * 300 + "end", 80)
    assert len(short) == 80
    assert short.startswith("start")
    assert short.endswith("end")


def test_sparkline_shows_the_course() -> None:
    """The lowest figure is the lowest bar, the highest the highest; clock noise is level; long runs are means."""
    assert sparkline([1.0, 2.0, 3.0]) == "▁▅█"
    assert sparkline([1.0, 1.0001, 1.0]) == "▄▄▄"
    assert sparkline([1.0] * 50 + [2.0] * 50, 4) == "▁▁██"
    assert sparkline([math.nan]) == ""


def test_short_name() -> None:
    """A dotted name has a last part; a text that merely holds dots stays whole."""
    assert short_name("package.module.rotary") == "rotary"
    assert short_name("see example.org/x y.") == "see example.org/x y."
