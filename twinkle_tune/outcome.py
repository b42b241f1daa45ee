"""What came of trying a candidate, and what was chosen. Values only: failure is data, raw times are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

from twinkle_tune.cause import Cause

Phase = Literal["load", "signature", "capability", "first call", "parity", "timing"]
"""Where a candidate was refused, in the order in which a trial goes through them."""

Status = Literal[
    "won",
    "kept",
    "no clear winner",
    "all refused",
    "inconclusive",
    "taken back",
    "nothing to gain",
    "too little",
    "cut short",
    "not tried",
]
"""What became of a contest; the original stays in all but the first.

- "kept": it was held, and no candidate was better.
- "no clear winner": it was held, and the noise hid whether one is.
- "all refused": none could be timed, or none was right.
- "inconclusive": the original itself could not be called, copied or timed there, so nothing could be held against it.
- "taken back": a kernel won by itself, and gained nothing in the whole model, or was wrong there.
- "nothing to gain": it was not held, since no candidate could gain anything, or since nothing else won it in the
  profile that the run started from.
- "too little": it was not held, or its winner has no place, since that could save next to nothing of any step.
- "cut short": the time budget ran out while it was held.
- "not tried": the time budget left none for it.
"""
UNDECIDED: tuple[Status, ...] = ("cut short", "not tried")
"""The time budget left these without an outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityFigure:
    """The worst comparison of one tensor: how far from its limit the candidate came.

    ``point`` is the rule's number in docs/how-we-check.md, ``error`` and ``limit`` are in the unit of
    the tensor (``error <= limit`` passed).
    """

    tensor: str
    point: int
    error: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A candidate that was right, and its times.

    Attributes:
        times_us: microseconds of one call, one figure a round, in the order of the rounds. All
            candidates of a contest are timed in the same rounds, so ``times_us[i]`` pairs with the
            original's ``times_us[i]``; a candidate that was dropped early has fewer.
        first_call_us: microseconds of the first call, compilation included.
        peak_bytes: the device's memory that one call takes beyond what was allocated before it; None where
            that is not known.
        parity: the closest comparison of each output and gradient.
        deterministic: whether two calls on the same inputs gave the same bits.
        notes: what the parity check saw and did not refuse ("point 5, output: ...").
        left_race: why the candidate stopped being timed; "" for the winner and the original.
        graph_breaks: how often the first call under torch.compile left compiled code; 0 in the other modes.
        recompilations: graphs that were compiled anew at later calls, though all were alike.
    """

    kind: Literal["measurement"] = "measurement"
    times_us: tuple[float, ...]
    first_call_us: float
    peak_bytes: int | None = None
    parity: tuple[ParityFigure, ...] = ()
    deterministic: bool = True
    notes: tuple[str, ...] = ()
    left_race: str = ""
    graph_breaks: int = 0
    recompilations: int = 0

    @property
    def median_us(self) -> float:
        """Median of the rounds, in microseconds."""
        return median(self.times_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A candidate that was refused: where, what was the matter, and why in words a person understands."""

    kind: Literal["rejection"] = "rejection"
    stage: Phase
    reason: str
    cause: Cause = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Untimed:
    """A candidate that was not refused and has no time: nothing is known of its speed.

    Attributes:
        cause: "budget": the time ran out. "cut off": it took more of what a time budget left than one of them may have;
            nobody knows whether it would have ended. "interpreter": it runs in Triton's interpreter, whose speed says
            nothing.
        right: whether it passed the numerical check; False where it was not looked at.
        reason: the same in words.
    """

    kind: Literal["untimed"] = "untimed"
    cause: Literal["budget", "cut off", "interpreter"]
    right: bool
    reason: str


Outcome = Measurement | Rejection | Untimed


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate tried on one workload.

    Attributes:
        candidate: its name.
        source: the kind of its source.
        digest: of its code; "" where that could not be had.
        outcome: what came of it.
        commit: of the Hub repo that its code came from, 40 hexadecimal digits: the one that a winner is loaded at when
            the profile is applied; "" for code from elsewhere.
        repo: the Hub repo that its code came from ("owner/name"); "" for code from elsewhere.
        layer: the layer or function of that repo; "" likewise.
        config: values of the candidate's tunable parameters, by name, with which it was judged and timed, and with
            which a winner is loaded; None for its own default for each call, and where it has none.
        config_origin: where a tunable candidate's config is from, in words; "" for other candidates.
        config_cut_short: whether the search for it ended for another reason than that it was done.
    """

    candidate: str
    source: str
    digest: str
    outcome: Outcome
    commit: str = ""
    repo: str = ""
    layer: str = ""
    config: Mapping[str, int] | None = None
    config_origin: str = ""
    config_cut_short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A device at one moment; None or "" where the machine does not tell.

    Attributes:
        clock_mhz: rate of the device's clock; of the fastest processor on a CPU.
        temperature_c: degrees Celsius; of the hottest sensor on a CPU.
        throttling: why the device runs slower than it could, by heat or fault.
        throttled: how often a processor was throttled since the machine was started.
    """

    clock_mhz: float | None = None
    temperature_c: float | None = None
    throttling: str = ""
    throttled: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The device around one race.

    Attributes:
        before, after: its state before the first round and after the last.
        repeated: why, for each round that was timed again.
    """

    before: DeviceState
    after: DeviceState
    repeated: tuple[str, ...] = ()

    @property
    def throttled(self) -> str:
        """Why the device was throttled at the end of the race, or in it; "" where nothing tells that it was."""
        if self.after.throttling:
            return self.after.throttling
        known = self.before.throttled is not None and self.after.throttled is not None
        return "the processor" if known and (self.after.throttled or 0) > (self.before.throttled or 0) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Further times of one candidate, taken after the race. They decide nothing.

    Attributes:
        candidate: its name.
        cold_us: microseconds of one call with cold caches, a figure a round; rounds pair by position with the other
            candidate's. Empty where it was not timed so.
        graph_us: device time of one call in a captured CUDA graph, likewise.
        host_us: what the host needs to launch one call on a CUDA device.
        forward_us, backward_us: in the train modes the forward alone, and what the backward takes beyond it.
        notes: why a figure is missing.
    """

    candidate: str
    cold_us: tuple[float, ...] = ()
    graph_us: tuple[float, ...] = ()
    host_us: float | None = None
    forward_us: float | None = None
    backward_us: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What won, and why.

    Attributes:
        winner: a candidate's name; "original" where nothing was clearly better.
        ratio: the winner's time over the original's, median over the paired rounds; 1.0 for the original.
        low, high: the interval that holds that median with at least 95% confidence (order statistics
            of the paired ratios); both 1.0 for the original.
        rounds: paired rounds behind the figure.
        memory_ratio: the winner's peak memory over the original's; None for the original, and where one is not known.
        reason: why this one won, or why the original stayed.
        status: what became of the contest; "" in a profile from before it was written down.
        visible_gain: of a contest without a clear winner: the smallest share of the original's time (0.05: 5%) that a
            candidate would have had to save for the race to be sure of it, by the scatter of its rounds; None where
            that is not known, and in other contests.
        most_saved: of a contest that is too little to matter: the largest share of a step (0.002: 0.2%) that it could
            save; None for any other.
    """

    winner: str
    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0
    rounds: int = 0
    memory_ratio: float | None = None
    reason: str
    status: Status | Literal[""] = ""
    visible_gain: float | None = None
    most_saved: float | None = None
