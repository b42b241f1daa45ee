"""How much time and memory a candidate may take in a worker process."""

from __future__ import annotations

from dataclasses import dataclass

from twinkle_tune.errors import TuneError
from twinkle_tune.outcome import Phase

_LEAST_S = 1.0
"""Whatever is left of a budget: who began within it may take so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Beyond these a candidate is refused and the worker process that it ran in is replaced.

    The defaults are for hanging, not for slowness: a large model's MLP on a CPU, or a kernel that is compiled on its
    first call, stays well within them. A slow candidate leaves the race by its times.

    Attributes:
        import_s: seconds until a candidate is loaded.
        first_call_s: seconds of the first call, with whatever compilation it brings about. Judging, which may compile
            for other inputs, has as much again.
        call_s: seconds of a burst of timed calls, and of judging after compilation.
        slower: instead of each of these, so many times what the original took for the same, where that is more.
        of_left: of what a time budget leaves the contest, this share, where that is less: who hangs leaves as much to
            the others.
        setup_s: seconds of what is done before the first candidate: starting the process, reading the task, calling
            the original, and computing what the others are compared with.
        host_bytes: bytes of private memory that the worker process may take, torch's own included; None for nine
            tenths of what is free when it starts, and for no limit on another device than the CPU. Linux alone.
        device_bytes: bytes of a CUDA device's memory that torch may take in the worker process; None for what the task
            itself takes and nine tenths of what is free then. What a kernel takes by other ways is not counted.
    """

    import_s: float = 120.0
    first_call_s: float = 300.0
    call_s: float = 60.0
    slower: float = 20.0
    of_left: float = 0.5
    setup_s: float = 1800.0
    host_bytes: int | None = None
    device_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("import_s", "first_call_s", "call_s", "slower", "setup_s"):
            value = getattr(self, name)
            if not value > 0:
                raise TuneError(f"{name}: got {value!r}, expected a positive number; leave it out for the default")
        if not 0 < self.of_left <= 1:
            raise TuneError(f"of_left: got {self.of_left!r}, expected a share over 0 and at most 1")
        for name in ("host_bytes", "device_bytes"):
            most = getattr(self, name)
            if most is not None and most <= 0:
                raise TuneError(f"{name}: got {most!r}, expected a positive number of bytes, or None")

    def stage_s(self, stage: Phase, original_s: float, left_s: float | None = None) -> float:
        """Seconds that a candidate may be in a stage for which the original took ``original_s``.

        ``left_s`` is what a time budget leaves the contest; None for no budget.
        """
        own_s = self._own_s(stage, original_s)
        return own_s if left_s is None else min(own_s, max(_LEAST_S, self.of_left * left_s))

    def is_by_budget(self, stage: Phase, limit_s: float) -> bool:
        """Whether a limit that a candidate ran into was as short as this because of a time budget."""
        return limit_s < self._own_s(stage, 0.0)

    def _own_s(self, stage: Phase, original_s: float) -> float:
        match stage:
            case "first call":
                least_s = self.first_call_s
            case "parity":
                least_s = self.first_call_s + self.call_s
            case "timing":
                least_s = self.call_s
            case _:
                least_s = self.import_s
        return max(least_s, self.slower * original_s)
