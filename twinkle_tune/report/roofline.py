"""How near a call came to what its device can do, where both the call's work and the device's limits are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.workload import TensorSpec, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device can do at most: bytes a second of its memory, operations a second by dtype."""

    bytes_per_s: float
    flop_per_s: Mapping[str, float]


def _hopper(bytes_per_s: float) -> Limits:
    # float32 outside of the tensor cores: torch does not round to TF32 unless it is told to.
    return Limits(bytes_per_s=bytes_per_s, flop_per_s={"bfloat16": 989.4e12, "float16": 989.4e12, "float32": 66.9e12})


def _ampere(bytes_per_s: float) -> Limits:
    return Limits(bytes_per_s=bytes_per_s, flop_per_s={"bfloat16": 312e12, "float16": 312e12, "float32": 19.5e12})


LIMITS: Mapping[str, Limits] = {
    "NVIDIA H100 80GB HBM3": _hopper(3.35e12),
    "NVIDIA H200": _hopper(4.8e12),
    "NVIDIA A100-SXM4-80GB": _ampere(2.039e12),
    "NVIDIA A100-SXM4-40GB": _ampere(1.555e12),
}
"""The figures of NVIDIA's data sheets of these GPUs (dense, without sparsity), by the device's name in a profile."""

_NORM_FLOP = {"RMSNorm": 4, "LayerNorm": 7}
"""Operations an element: square, add, scale and weight; and for LayerNorm the mean, its difference and the bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The least that a call must do: operations, and bytes read or written once."""

    flop: float
    bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A candidate of a contest under the roof.

    Attributes:
        contest: its number, from 1.
        slot, candidate: names.
        intensity: operations a byte.
        flop_per_s, bytes_per_s: achieved, of the least work and the median time.
        reached: of the roof at this intensity, 0 to 1; more where the inputs stay in the device's caches.
    """

    contest: int
    slot: str
    candidate: str
    dtype: str
    intensity: float
    flop_per_s: float
    bytes_per_s: float
    reached: float


def work(slot: str, workload: Workload) -> Work | None:
    """The work of one forward call of a norm or an MLP of the catalog; None for anything else.

    Both give back a tensor like the one that they take. A norm reads and writes it; an MLP multiplies every row by
    each of its matrices, two operations an entry, and reads these too.
    """
    if len(workload.tensors) != 1 or workload.context.grad:
        return None
    (given,) = workload.tensors
    parameters = [node for _, node in workload.settings if isinstance(node, TensorSpec)]
    moved = 2 * _bytes(given) + sum(map(_bytes, parameters))
    if slot in _NORM_FLOP:
        return Work(flop=_NORM_FLOP[slot] * _count(given), bytes=moved)
    matrices = [spec for spec in parameters if len(spec.shape) == 2]
    if slot in ("GatedMLP", "MLP") and matrices:
        return Work(flop=2.0 * given.rows * sum(map(_count, matrices)), bytes=moved)
    return None


def points(profile: Profile) -> tuple[Point, ...]:
    """The original and the winner of each contest whose work and limits are known; none in the train modes."""
    limits = LIMITS.get(profile.environment.device_name)
    if limits is None or profile.mode.trains:
        return ()
    return tuple(
        point for number, contest in enumerate(profile.contests, 1) for point in _points(number, contest, limits)
    )


def _points(number: int, contest: Contest, limits: Limits) -> list[Point]:
    done = None if contest.block else work(contest.slot.name, contest.workload)  # a block's time is not the slot's
    peak = limits.flop_per_s.get(contest.workload.tensors[0].dtype) if done is not None else None
    if done is None or peak is None or not done.bytes or not done.flop:
        return []
    found = []
    for trial in contest.trials:
        if trial.candidate in (ORIGINAL, contest.selection.winner) and isinstance(trial.outcome, Measurement):
            rate = 1e6 / trial.outcome.median_us
            intensity = done.flop / done.bytes
            found.append(
                Point(
                    contest=number,
                    slot=contest.slot.name,
                    candidate=trial.candidate,
                    dtype=contest.workload.tensors[0].dtype,
                    intensity=intensity,
                    flop_per_s=done.flop * rate,
                    bytes_per_s=done.bytes * rate,
                    reached=done.flop * rate / min(peak, intensity * limits.bytes_per_s),
                )
            )
    return found


def _count(spec: TensorSpec) -> int:
    count = 1
    for size in spec.shape:
        count *= size
    return count


def _bytes(spec: TensorSpec) -> int:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return _count(spec) * dtype.itemsize
