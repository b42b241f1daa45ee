"""Tune one of our ops for one call on one device: the search on real kernels, forward and backward each for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.call.arguments import fresh, snapshot
from twinkle_tune.call.drawn import drawn_like
from twinkle_tune.device import parse_device
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import in_a_line, is_by_chance
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.ops import launch
from twinkle_tune.ops.compiling import Compilers
from twinkle_tune.ops.op import OpCall
from twinkle_tune.ops.resources import Unfit
from twinkle_tune.ops.space import Config
from twinkle_tune.outcome import Rejection
from twinkle_tune.parity.calls import kin_calls, parity_calls
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Verdict
from twinkle_tune.search.record import SearchResult, SearchSettings, SharedStudy, Tried
from twinkle_tune.search.search import search
from twinkle_tune.search.sides import side
from twinkle_tune.workload import digest_of


class OpBench:
    """One call of an op on one device, with any config of it. All configs share the buffers, the judge and the clock.

    Implements :class:`twinkle_tune.search.search.Bench`.
    """

    def __init__(self, call: OpCall, device: str, clock: Clock, *, trains: bool, seed: int) -> None:
        op, dims, dtype, variant = call.op, call.dims, call.dtype, call.variant
        self.clock = clock
        self._op, self._settings, self._trains = op, op.variants[variant], trains
        made = snapshot(op.inputs(dims, dtype, device, seed, variant), {})
        self._inputs = fresh(made).args
        self._gradients: tuple[Tensor, ...] | None = None
        self._judge = Judge(
            lambda *args: op.reference(*args, **self._settings),
            parity_calls(made, seed),
            module=None,
            trains=trains,
            kin=kin_calls(made, seed),
        )
        place = torch.device(device)
        self._compilers = (
            Compilers(op.name, dims, dtype, launch.architecture(place), variant) if place.type == "cuda" else None
        )
        self.whole: Callable[[Config], Config] = dict
        """What makes a config of the op of a config of the side that is searched."""

    def close(self) -> None:
        """End the processes that compile."""
        if self._compilers is not None:
            self._compilers.close()

    def prepare(self, configs: Sequence[Config]) -> None:
        """Begin to compile these in other processes; on a device for which nothing is compiled, nothing."""
        if self._compilers is not None:
            self._compilers.prepare([self.whole(config) for config in configs])

    def time_us(self, config: Config) -> float | Rejection:
        """Refuse what the static check refuses and what raises; else time one burst."""
        reason = self._static(config)
        if reason:
            return Rejection(stage="capability", reason=reason)
        found = self._burst_us(config)
        if isinstance(found, Exception) and is_by_chance(found):
            # What others had just then, memory most of all, is no fault of the config, which would be lost for good.
            torch.cuda.empty_cache()
            found = self._burst_us(config)
        if isinstance(found, Exception):
            return Rejection(stage="first call", reason=f"raised {in_a_line(found, 200)}")
        return found

    def _burst_us(self, config: Config) -> float | Exception:
        call = self.call(config)
        try:
            self.clock.first_call_us(call)
            return self.clock.burst_us(call, self.clock.block_calls(call))
        except Exception as error:
            # A kernel with a config that nobody tried before can raise anything.
            return error

    def call(self, config: Config) -> Call:
        """Forward, or forward and backward from a fixed incoming gradient."""
        forward = self._with(config)
        wanted = [x for x in self._inputs if isinstance(x, Tensor) and x.requires_grad] if self._trains else []

        def forward_alone() -> object:
            with torch.no_grad():
                return forward(*self._inputs)

        def forward_and_backward() -> object:
            made = forward(*self._inputs)
            outputs = [t for t in (made if isinstance(made, tuple) else (made,)) if t.requires_grad]
            if self._gradients is None:
                self._gradients = tuple(drawn_like(t, index) for index, t in enumerate(outputs))
            return torch.autograd.grad(outputs, wanted, self._gradients, allow_unused=True)

        return forward_and_backward if wanted else forward_alone

    def judge(self, config: Config) -> Verdict:
        """The whole parity rule against the op's formula."""
        return self._judge.judge(self._with(config))

    def judge_again(self, config: Config) -> Verdict:
        """Point 8 of the rule."""
        return self._judge.again(self._with(config))

    def _static(self, config: Config) -> str:
        if self._compilers is None:
            return ""
        found = self._compilers.checked(self.whole(config))
        return found.reason if isinstance(found, Unfit) else found.unlaunchable or found.doubtful

    def _with(self, config: Config) -> Callable[..., Any]:
        whole = self.whole(config)
        return lambda *args: self._op.apply(*args, **self._settings, config=whole)


def tuned(
    call: OpCall,
    device: str,
    clock: Clock,
    settings: SearchSettings | None = None,
    *,
    trains: bool = True,
    known: Sequence[Config] = (),
    journal: Path | SharedStudy | None = None,
    on_tried: Callable[[str, Tried], None] | None = None,
) -> dict[str, SearchResult]:
    """Tune an op for one call: first the forward, then, where it ``trains``, the backward with that forward.

    Args:
        call: the op, with the sizes, the dtype and the variant that it is tuned for.
        device: "cuda:0". On a CPU, where no kernel runs, every config is the formula, and none is faster.
        clock: of the device.
        settings: of each side's search; None for the defaults.
        trains: whether the backward is tuned, and judged, too.
        known: whole configs worth a try, as winners of near calls.
        journal: a file from which a killed search goes on, or a study that several workers share.
        on_tried: is told of each config, with the side ("forward", "backward").

    Returns:
        By side what came of it; a result's ``config`` is one of the whole op. The last one's is the winner; with a
        config of None the op must not be used for this call.

    Raises:
        TuneError: the journal cannot be used.
    """
    settings = settings or SearchSettings()
    space = call.op.space(call.dims)
    current = dict(call.op.default(call.dims, launch.architecture(torch.device(device))))
    space.check(current)
    results: dict[str, SearchResult] = {}
    for name in ("forward", "backward") if trains else ("forward",):
        part = side(space, current, backward=name == "backward")
        if not part.parameters:
            continue
        # Only the backward's own search times it: the forward's would drown in it.
        bench = OpBench(call, device, clock, trains=name == "backward", seed=settings.seed)
        bench.whole = part.whole
        where = current_environment(parse_device(device)).fingerprint
        values = [[each.name, *each.values] for each in part.parameters]
        called = [call.op.name, dict(call.dims), str(call.dtype), call.variant]
        question = [name, *called, where, values, current, settings.seed]
        try:
            found = search(
                part.space,
                bench,
                settings,
                default=part.part(current),
                known=[part.part(config) for config in known if sorted(config) == sorted(current)],
                journal=journal,
                name=digest_of(question),
                on_tried=None if on_tried is None else _telling(on_tried, name),
            )
        finally:
            bench.close()
        if found.config is None:
            return {**results, name: found}
        results[name] = replace(found, config=part.whole(found.config))
        # Of several workers all go on with one forward, or each would search the backward for itself.
        current = part.whole(found.agreed or found.config)
    return results


def _telling(on_tried: Callable[[str, Tried], None], name: str) -> Callable[[Tried], None]:
    return lambda tried: on_tried(name, tried)
