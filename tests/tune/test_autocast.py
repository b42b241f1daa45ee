"""Autocast is part of the workload: a profile says under what it was made, and is verified under that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tests.capture.tiny_models import inputs_of, tiny
from tests.zoo.quick import Quick, quick_profile
from twinkle_tune.mode import Mode
from twinkle_tune.report import head
from twinkle_tune.testing import with_winner
from twinkle_tune.tune.verify import verify_profile

INFERENCE = Mode.INFERENCE


def test_a_profile_says_under_what_it_was_made() -> None:
    """In its title, its facts, and the lines that make it again; without autocast nothing is said."""
    plain = quick_profile(tiny("llama"), inputs_of(INFERENCE), INFERENCE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quick_profile(tiny("llama"), inputs_of(INFERENCE), INFERENCE)
    assert (plain.autocasts, cast.autocasts) == (("",), ("bfloat16",))
    assert "autocast" not in f"{head.line(plain)}{head.again(plain)}"
    assert "inference, autocast bfloat16" in head.line(cast)
    assert ("Autocast", "bfloat16") in list(head.facts(cast))
    compile(head.again(cast), "again", "exec")
    both = replace(cast, contests=(*plain.contests, *cast.contests))
    assert both.autocasts == ("", "bfloat16")


def test_it_is_verified_under_that() -> None:
    """Its calls come up again, though nobody opened autocast; with the other profile's they would not."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = with_winner(quick_profile(tiny("llama"), inputs_of(INFERENCE), INFERENCE))
    found = verify_profile(made, tiny("llama"), inputs_of(INFERENCE), executor=Quick())
    assert found.checks
    kinds: Any = {problem.kind for check in found.checks for problem in check.problems}
    assert kinds <= {"slow"}
