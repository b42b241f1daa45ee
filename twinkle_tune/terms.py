"""Terms: what holds for all contests of a run, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from twinkle_tune.measure.settings import METHOD, RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.objective import BY_TIME, Aim
from twinkle_tune.parity.form import RULE

CONFIG_TIMINGS = 40
"""Configs that a search in a contest times at most, forward and backward each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for a whole run.

    A field that is added here is part of every question, of a journal's first line and of what a worker process is
    sent. Give it the default None: contests' questions that do not set it keep their keys, and what was stored of them
    is still found.

    Attributes:
        mode, device: how and where.
        aim: what decides.
        settings: of the race.
        seed: of made inputs and of the order of the rounds; outcomes do not depend on it.
        dynamic: torch.compile's argument of that name, in the compile modes; None for its default.
        accumulate: micro-batches of a training step; None for one.
    """

    mode: Mode
    device: str
    aim: Aim = BY_TIME
    settings: RaceSettings = field(default_factory=RaceSettings)
    seed: int = 0
    dynamic: bool | None = None
    accumulate: int | None = None

    @property
    def told(self) -> dict[str, Any]:
        """All that an outcome depends on, by name: plain data for keys and files."""
        told = asdict(self) | {"objective": str(self.aim)}
        settings = {**asdict(self.settings), "method": METHOD, "config_timings": CONFIG_TIMINGS}
        if RULE > 1:  # before it was counted nothing was told of it
            settings["rule"] = RULE
        told["settings"] = sorted((name, float(value)) for name, value in settings.items())
        del told["aim"], told["seed"]
        return told
