"""Ways of running the whole model: how each fared in a step, and which run."""

from __future__ import annotations

from dataclasses import dataclass

from twinkle_tune.cause import Cause
from twinkle_tune.workload import Workload

KERNELS = "kernels"
"""The way that is the model with the kernels that won, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledStep:
    """One step of the model, as it is and run in one way: what decides on a way.

    Attributes:
        label: as of a :class:`StepResult`.
        way: how it was compiled.
        original_us, compiled_us: microseconds of the whole step, one figure a round, paired by position.
        ratio: compiled over original, median of the paired rounds.
        low, high: interval of that median, at least 95% confidence.
        compile_s: seconds of the first two calls, in which it was compiled.
        original_peak_bytes, compiled_peak_bytes: peak memory of the step beyond what was allocated before it; None
            where that is not known.
        problem: why it could not be compiled, is refused (it is wrong, say), or would run uncompiled; there are no
            figures then.
        cause: the same as a word.
        taken_back: why it does not run although it won its step; "" where it runs, or did not win.
        measured: UTC time (ISO 8601, to the second) at which another run took these figures, which this one has from
            the store; "" for its own.
    """

    label: str
    way: str = "compile"
    original_us: tuple[float, ...] = ()
    compiled_us: tuple[float, ...] = ()
    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0
    compile_s: float = 0.0
    original_peak_bytes: int | None = None
    compiled_peak_bytes: int | None = None
    problem: str = ""
    cause: Cause = ""
    taken_back: str = ""
    measured: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether it was clearly faster than the original."""
        return not self.problem and self.high < 1

    def is_open(self, most: float) -> bool:
        """Whether it seemed to take ``most`` of the original's time or less, and noise left open whether it gains."""
        return not self.problem and self.ratio <= most and self.high >= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """A call of the model as it was seen in a step.

    Attributes:
        workload: the call, without the model's settings.
        cached: tokens in the cache that it was given; None where it was given none.
    """

    workload: Workload
    cached: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A way of running the whole model that won a step, and the calls for which that was shown.

    Attributes:
        label: of the step that it won.
        way: its name, as of a :class:`CompiledStep`.
        calls: calls of the step, and of those with other lengths where it was right, not slower, and not compiled anew.
            It runs for calls like these and of sizes between them.
        model: digest of the model that it was measured on: its class, settings, modules and number of parameters.
        kernels: whether the kernels that won their contests run inside of it; else the originals do.
        attention: what the model's own switch of its attention is set to in it, such as "eager"; "" leaves it alone.
        cache: which cache generations have in it, "static" for one of a fixed size; "" for the model's own.
    """

    label: str
    way: str
    calls: tuple[ModelCall, ...]
    model: str
    kernels: bool = False
    attention: str = ""
    cache: str = ""

    @property
    def name(self) -> str:
        """What runs, in words."""
        return way_name(self.way, kernels=self.kernels, attention=self.attention, cache=self.cache)


def way_name(way: str, *, kernels: bool, attention: str = "", cache: str = "") -> str:
    """What a way is called with what is inside of it: "compile + cache:static + kernels + attn:eager"."""
    parts = (f"cache:{cache}" if cache else "", KERNELS if kernels else "", f"attn:{attention}" if attention else "")
    return " + ".join((way, *filter(None, parts)))
