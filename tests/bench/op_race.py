"""One point of the bench of our ops: every rival right, then timed in interleaved rounds on the same buffers."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tests.bench.op_points import VARIANTS
from tests.bench.op_rivals import OURS, TUNED, Rival
from twinkle_tune.errors import in_a_line
from twinkle_tune.measure.clock import Call, Clock
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.ops.op import Op
from twinkle_tune.testing import assert_parity

_LEAST_ROUNDS, _MOST_ROUNDS = 6, 15
"""Six paired rounds are the fewest whose interval is one of 95%."""
_AGREES = 0.02
_COPY_BYTES = 2**29


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A rival's figures. ``over_ours`` is its time over that of ours: above 1 ours is the faster one."""

    median_us: float
    peak_bytes: int | None
    over_ours: Ratio | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A point: the sizes of a call, forward or forward and backward, and what came of it.

    Attributes:
        op, variant: names.
        model: of which the sizes are.
        dims: sizes by the op's names.
        rows_wanted: more than there are rows where those would not fit into memory.
        backward: whether the backward was timed with the forward.
        moved_bytes: that a call must at least read and write.
        copy_bytes_per_us: the device's copy, as measured before this op.
        times: by rival.
        left_out: rivals that were not timed, and why.
        date: when.
    """

    op: str
    variant: str
    model: str
    dims: Mapping[str, int]
    rows_wanted: int
    backward: bool
    moved_bytes: int
    copy_bytes_per_us: float
    times: Mapping[str, Timed]
    left_out: Mapping[str, str]
    date: str

    @property
    def ours(self) -> Timed | None:
        """With the tuned config where there is one, else with the default; None where ours did not run."""
        return self.times.get(TUNED) or self.times.get(OURS)

    def share(self, timed: Timed) -> float:
        """The bandwidth that a rival reached, as a share of the device's copy."""
        return self.moved_bytes / timed.median_us / self.copy_bytes_per_us


def measured_of(data: Mapping[str, Any]) -> Measured:
    """A point from its JSON."""
    times = {
        name: Timed(**{**each, "over_ours": Ratio(**each["over_ours"]) if each["over_ours"] else None})
        for name, each in data["times"].items()
    }
    return Measured(**{**data, "times": times})


def copy_rate(device: str, clock: Clock) -> float:
    """Bytes that a copy of 512 MiB (of 8 MiB on a CPU) reads and writes in a microsecond: too many for any cache."""
    source = torch.ones(_COPY_BYTES if device != "cpu" else 2**23, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def call() -> object:
        return target.copy_(source)

    calls = clock.block_calls(call)
    return 2 * source.numel() / min(clock.burst_us(call, calls) for _ in range(3))


def faults(op: Op, inputs: Sequence[Any], rivals: Sequence[Rival]) -> dict[str, str]:
    """Who is wrong, and how: ours by the full parity rule against float64, the others by the size of their error."""
    settings = op.variants[VARIANTS.get(op.name, "")]

    def formula(*args: Any) -> Any:
        return op.reference(*args, **settings)

    with torch.no_grad():
        exact = _tensors(formula(*(x.double() if _floats(x) else x for x in inputs)))
    found = {}
    for rival in rivals:
        try:
            if rival.name in (OURS, TUNED):
                assert_parity(rival.function, formula, *inputs, mode="train", seeds=1)
                continue
            with torch.no_grad():
                got = _tensors(rival.function(*_prepared(inputs, backward=False, copied=True)))
            if any((x - y).norm() > _AGREES * y.norm() for x, y in zip(got, exact, strict=True)):
                found[rival.name] = "computes something else"
        except AssertionError as error:
            # All of the judge's message: where, and by how much.
            found[rival.name] = " ".join(str(error).split())
        except Exception as error:
            # Whatever a rival raises, it is that rival's alone.
            found[rival.name] = in_a_line(error, 200)
    return found


def race(
    rivals: Sequence[Rival], inputs: Sequence[Any], clock: Clock, *, backward: bool, seconds: float
) -> tuple[dict[str, Timed], dict[str, str]]:
    """Time the rivals in interleaved rounds, in random order; those that raise are left out with the reason.

    Rounds end after ``seconds``, at least six and at most fifteen.
    """
    left_out: dict[str, str] = {}
    calls: dict[str, Call] = {}
    shared = _prepared(inputs, backward=backward, copied=False)
    gradients: dict[object, Tensor] = {}
    with torch.set_grad_enabled(backward):
        for rival in rivals:
            try:
                own = _prepared(inputs, backward=backward, copied=True) if rival.writes_over else shared
                call = _call(rival, own, {} if rival.writes_over else gradients, backward=backward)
                call()
                call()
                calls[rival.name] = call
            except Exception as error:
                # Out of memory, a compiler's error, anything: a figure less.
                left_out[rival.name] = in_a_line(error, 200)
        times_us = _rounds(calls, clock, seconds, left_out)
        peaks = {name: clock.peak_bytes(calls[name]) for name in times_us}
    base = times_us.get(TUNED) or times_us.get(OURS)
    timed = {
        name: Timed(
            median_us=median(each),
            peak_bytes=peaks[name],
            over_ours=paired_ratio(each, base) if base is not None else None,
        )
        for name, each in times_us.items()
    }
    return timed, left_out


def _rounds(
    calls: Mapping[str, Call], clock: Clock, seconds: float, left_out: dict[str, str]
) -> dict[str, list[float]]:
    chance, blocks = random.Random(0), {name: clock.block_calls(call) for name, call in calls.items()}
    times_us: dict[str, list[float]] = {name: [] for name in calls}
    began_s = time.monotonic()
    for done in range(_MOST_ROUNDS):
        if done >= _LEAST_ROUNDS and time.monotonic() - began_s > seconds:
            break
        for name in chance.sample(list(times_us), len(times_us)):
            try:
                times_us[name].append(clock.burst_us(calls[name], blocks[name]))
            except Exception as error:
                left_out[name] = f"raised while it was timed: {in_a_line(error, 200)}"
                del times_us[name]
    return times_us


def _call(rival: Rival, inputs: Sequence[Any], gradients: dict[object, Tensor], *, backward: bool) -> Call:
    """The forward; or with the backward from incoming gradients of one's own, or shared with others like it."""
    if not backward:
        return lambda: rival.function(*inputs)
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]

    def forward_and_backward() -> object:
        outputs = _tensors(rival.function(*inputs))
        return torch.autograd.grad(outputs, wanted, [_incoming(index, y) for index, y in enumerate(outputs)])

    def _incoming(index: int, y: Tensor) -> Tensor:
        key = (index, y.shape, y.dtype)
        if key not in gradients:
            # A loss is differentiated by itself.
            gradients[key] = torch.randn_like(y) if y.dim() else torch.ones_like(y)
        return gradients[key]

    return forward_and_backward


def _prepared(inputs: Sequence[Any], *, backward: bool, copied: bool) -> list[Any]:
    """The inputs as leaves, which want gradients only for a backward: some rivals compute them at once if one does."""
    found = []
    for x in inputs:
        if not isinstance(x, Tensor):
            found.append(x)
            continue
        leaf = x.detach().clone() if copied else x.detach()
        found.append(leaf.requires_grad_(backward and x.requires_grad))
    return found


def _tensors(made: Any) -> list[Tensor]:
    return list(made) if isinstance(made, (tuple, list)) else [made]


def _floats(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
