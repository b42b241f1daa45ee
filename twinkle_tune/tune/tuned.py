"""Which config a tunable candidate is judged, timed and later bound with: shipped for the call, or searched for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch

from twinkle_tune.contest.watch import Watch
from twinkle_tune.device import parse_device
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import in_a_line
from twinkle_tune.measure.clock import Clock
from twinkle_tune.ops.op import OpCall
from twinkle_tune.ops.space import Config
from twinkle_tune.ops.tuned import config_for
from twinkle_tune.outcome import Phase
from twinkle_tune.peers import now_s
from twinkle_tune.search.record import SearchResult, SearchSettings
from twinkle_tune.search.tuning import tuned
from twinkle_tune.slot import Candidate
from twinkle_tune.source.tried import Configurable
from twinkle_tune.terms import CONFIG_TIMINGS
from twinkle_tune.tune.task import Task
from twinkle_tune.workload import Workload

SHARE = 0.25
"""Of the time that a contest has left, what a search may take: the others are to be judged and raced too."""
_STAGE: Phase = "first call"
"""What a piece of a search is: configs are compiled and called for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a config is from, in words, and whether the search for it was cut short; "" for a candidate as it came."""

    text: str = ""
    cut_short: bool = False


@runtime_checkable
class Tunable(Configurable, Protocol):
    """A source whose config can be searched."""

    def op_call(self, workload: Workload) -> OpCall | None:
        """The op that runs in such a call, with its sizes; None where the workload does not tell them."""


class Configs:
    """The configs of the contests that were held with it: one op called in one way is not searched twice."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], tuple[Config | None, Origin]] = {}

    def entered(
        self, candidate: Candidate, task: Task, clock: Clock, watch: Watch, *, trains: bool, ends_s: float
    ) -> tuple[Candidate, Origin]:
        """The candidate as it enters the contest, and where its config is from.

        A search that fails, whatever it raises, leaves the candidate with its default, and says so: what comes of that
        is for the contest to find out.

        Args:
            candidate: any; it is left as it is unless it is tunable, has no config yet, and the task tunes.
            task: of the contest.
            clock: of the contest.
            watch: told of each config, which has the time of a first call.
            trains: whether the contest goes backward.
            ends_s: of the monotonic clock: when the contest's time is over.
        """
        source = candidate.source
        if not task.tunes or not isinstance(source, Tunable) or source.config is not None:
            return candidate, Origin()
        watch.begins(candidate.name, _STAGE)
        try:
            call = source.op_call(task.observation.workload)
            config, origin = _untold() if call is None else self._config(call, task, clock, watch, trains, ends_s)
            watch.ends(candidate.name)
        except Exception as error:
            # The default has its turn all the same: a search must not stand in its way.
            config = None
            origin = Origin(text=f"cut short: the search raised {in_a_line(error)}; the default", cut_short=True)
        if config is None:
            return candidate, origin
        return replace(candidate, source=source.with_config(config)), origin

    def _config(
        self, call: OpCall, task: Task, clock: Clock, watch: Watch, trains: bool, ends_s: float
    ) -> tuple[Config | None, Origin]:
        dims, terms = tuple(sorted(call.dims.items())), task.terms
        key = (call.op.name, dims, call.dtype, call.variant, trains, terms.device, terms.settings, terms.seed)
        if key not in self._found:
            self._found[key] = _found(call, task, clock, watch, trains, ends_s)
        return self._found[key]


def _untold() -> tuple[None, Origin]:
    return None, Origin(text="the default: the call does not tell the op's sizes")


def _found(
    call: OpCall, task: Task, clock: Clock, watch: Watch, trains: bool, ends_s: float
) -> tuple[Config | None, Origin]:
    """The config that is shipped for just this call; else what a search finds that begins with the nearest one."""
    mode = "train" if trains else "inference"
    dtype = str(call.dtype).removeprefix("torch.")
    environment = current_environment(parse_device(task.terms.device))
    near = config_for(call.op, call.dims, dtype, environment, variant=call.variant, mode=mode)
    if near.exact:
        return near.config, Origin(text=near.origin)
    left_s = ends_s - now_s()
    sides = 2 if trains else 1
    results = tuned(
        call,
        _place(task.terms.device),
        clock,
        SearchSettings(
            budget=CONFIG_TIMINGS,
            race_all=CONFIG_TIMINGS,
            race=task.terms.settings,
            seed=task.terms.seed,
            deadline_s=None if math.isinf(left_s) else max(0.0, SHARE * left_s / sides),
        ),
        trains=trains,
        known=[near.config],
        on_tried=lambda side, tried: watch.goes_on(),
    )
    config = next(reversed(results.values())).config if results else None
    cut_short = not all(found.in_time for found in results.values())
    return config, Origin(text=f"{'cut short: ' if cut_short else ''}{_in_words(results)}", cut_short=cut_short)


def _in_words(results: dict[str, SearchResult]) -> str:
    parts = []
    for side, found in results.items():
        if found.config is None:
            parts.append(f"{side}: {found.reason}; the default")
        else:
            gain = f"{1 - found.ratio:.1%} faster than the default" if found.ratio < 1 else "the default stays"
            parts.append(f"{side}: {gain}, {found.timed} of {found.size} configs timed")
    return "; ".join(parts) or "the op has one config"


def _place(device: str) -> str:
    """A device with its number: ops ask the device of their sizes for what it can do."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device
