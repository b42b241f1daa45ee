"""The experts of a transformers model: which implementation its own switch, ``experts_implementation``, chooses."""

from __future__ import annotations

from typing import Any

from torch import nn

from twinkle_tune.mode import Mode
from twinkle_tune.slot import Candidate
from twinkle_tune.source.switch import SwitchSource

EXPERTS = "Experts"
"""The slot's name."""
_KNOB = "experts_implementation"
_VALUES = ("eager", "batched_mm", "grouped_mm")
# What transformers' decorator gives every class of experts.
_MARKS = ("is_transposed", "is_concatenated", "has_gate", "_apply_gate")


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds experts whose implementation its configuration chooses."""
    config = getattr(module, "config", None)
    return getattr(config, f"_{_KNOB}", None) in _VALUES and all(hasattr(module, mark) for mark in _MARKS)


def experts_contestants(module: nn.Module) -> tuple[Candidate, ...]:
    """Candidates for experts, without the original."""
    held: Any = module
    now = getattr(held.config, f"_{_KNOB}")
    return tuple(
        Candidate(
            name=f"experts:{value}",
            source=SwitchSource(knob=_KNOB, value=value),
            modes=frozenset({Mode.INFERENCE, Mode.TRAIN}),
        )
        for value in _VALUES
        if value != now
    )
