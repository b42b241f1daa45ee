"""Which winner runs for which row count: a few integer comparisons, made ahead of time."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch

from twinkle_tune.slot import ORIGINAL
from twinkle_tune.workload import Named, Node, Plain, TensorSpec, Workload

Call = Callable[..., Any]
_ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a rule lets run.

    Attributes:
        candidate: its name.
        config: what it was given, in the order of the names; None for its default.
        rows: the row count that it was made for alone, by a compiler; None for any.
    """

    candidate: str
    config: tuple[tuple[str, int], ...] | None = None
    rows: int | None = None


KEPT = Choice(candidate=ORIGINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """From ``low`` to ``high`` rows, both included, ``winner`` runs."""

    low: int
    high: int
    winner: Choice


def rules_of(points: Iterable[tuple[int, Choice]]) -> tuple[Rule, ...]:
    """The rules that follow from (rows, winner) as measured, ascending; the original is what no rule covers.

    A row count between two measured ones has their winner where both agree; where it is one candidate with two
    configs, each has the half of the way that is nearer in ratio. Where one row count has two winners (two layouts of
    the same size), and outside of what was measured, the original runs.
    """
    measured: list[tuple[int, Choice]] = []
    for rows, group in groupby(sorted(points, key=itemgetter(0)), key=itemgetter(0)):
        winners = {winner for _, winner in group}
        measured.append((rows, winners.pop() if len(winners) == 1 else KEPT))
    rules: list[Rule] = []
    before = KEPT
    for winner, run in groupby(measured, key=itemgetter(1)):
        covered = [rows for rows, _ in run]
        low = covered[0]
        if before.candidate == winner.candidate and before.config != winner.config:
            half = math.isqrt(rules[-1].high * low)
            rules[-1] = replace(rules[-1], high=half)
            low = half + 1
        if winner != KEPT:
            rules.append(Rule(low=low, high=covered[-1], winner=winner))
        before = winner
    return tuple(rules)


def rules_text(rules: Sequence[Rule]) -> str:
    """Which candidate runs for how many rows: "1 to 128: torch.rms_norm; 2048: compile"."""
    told: list[tuple[int, int, str]] = []
    for rule in rules:
        candidate, low = rule.winner.candidate, rule.low
        if rule.winner.config is not None and told and told[-1][1:] == (low - 1, candidate):
            low = told.pop()[0]  # the same with another config
        told.append((low, rule.high, candidate))
    return "; ".join(f"{_range_text(low, high)}: {candidate}" for low, high, candidate in told)


def _range_text(low: int, high: int) -> str:
    if high == sys.maxsize:
        return f"{low} and more" if low else "all"
    return str(low) if low == high else f"{low} to {high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsFrom:
    """Where the tensor that counts the rows is among the arguments: a position, or a name."""

    index: int = 0
    name: str = ""

    @classmethod
    def of(cls, workload: Workload) -> RowsFrom | None:
        """Of a workload: its first tensor; None where no argument is a tensor by itself."""
        for index, node in enumerate(workload.args):
            if isinstance(node, TensorSpec):
                return cls(index=index)
        for name, node in workload.kwargs:
            if isinstance(node, TensorSpec):
                return cls(name=name)
        return None


def layer_dispatcher(
    rules: Sequence[Rule],
    calls: Mapping[Choice, Call],
    original: Call,
    rows_from: RowsFrom,
    dtype: torch.dtype | None = None,
) -> Call:
    """A forward (module first) that looks at the row count and calls the winner, or the original.

    Args:
        rules: as from :func:`rules_of`.
        calls: the forward of each winner.
        rows_from: where the tensor that counts is. Rows are elements over the last dimension's size.
        dtype: what that tensor's dtype was when the winners were measured; None where a parameter tells that.
    """
    steps = tuple((rule.low, rule.high, calls[rule.winner]) for rule in rules)
    index, name = rows_from.index, rows_from.name

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Given otherwise than when it was measured (by name, not by position), the original takes the call.
        tensor = kwargs.get(name) if name else args[index] if len(args) > index else None
        rows = _rows(tensor, dtype)
        for low, high, call in steps:
            if low <= rows <= high:
                return call(self, *args, **kwargs)
        return original(self, *args, **kwargs)

    def forward_of_first(self: Any, tensor: Any = _ABSENT, /, *args: Any, **kwargs: Any) -> Any:
        if tensor is _ABSENT:
            return original(self, *args, **kwargs)
        rows = _rows(tensor, dtype)
        for low, high, call in steps:
            if low <= rows <= high:
                return call(self, tensor, *args, **kwargs)
        return original(self, tensor, *args, **kwargs)

    return forward if name or index else forward_of_first


def tensor_dispatcher(rules: Sequence[Rule], calls: Mapping[Choice, Call], original: Call) -> Call:
    """As :func:`layer_dispatcher`, for calls that are known to be of one tensor by position."""
    steps = tuple((rule.low, rule.high, calls[rule.winner]) for rule in rules)

    def forward(self: Any, x: Any) -> Any:
        shape = x.shape
        rows = x.numel() // shape[-1] if shape and shape[-1] else -1
        for low, high, call in steps:
            if low <= rows <= high:
                return call(self, x)
        return original(self, x)

    return forward


def _rows(tensor: Any, dtype: torch.dtype | None) -> int:
    """Elements over the last dimension's size; -1, which no rule covers, where there is none or dtypes differ."""
    shape = tensor.shape if isinstance(tensor, torch.Tensor) and dtype in (None, tensor.dtype) else ()
    return tensor.numel() // shape[-1] if shape and shape[-1] else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Calls of a function that differ in their row count alone: what one set of rules speaks of.

    Attributes:
        count: number of positional arguments.
        names: names of the keyword arguments.
        tensors: (position or name, dtype, number of dimensions, size of the last) of each tensor.
        plain: (position or name, value) of each other argument.
        trains: whether gradients may be wanted; if not, calls that want them are not of the family.
        on_cpu: whether its tensors are the CPU's: a function is the whole process's, other models' included.
        rows_from: which tensor counts the rows.
        steps: (low, high, call).
        autocast: the dtype that autocast cast to; "" where it was off.
        told: the slot, and the candidates in the steps, for errors out of them; empty for nothing to tell.
    """

    count: int
    names: frozenset[str]
    tensors: tuple[tuple[int | str, torch.dtype, int, int], ...]
    plain: tuple[tuple[int | str, object], ...]
    trains: bool
    rows_from: int | str
    on_cpu: bool = True
    steps: tuple[tuple[int, int, Call], ...] = ()
    autocast: str = ""
    told: tuple[str, ...] = ()

    def same_calls(self, other: Family) -> bool:
        """Whether the two speak of the same calls."""
        mine = (self.count, self.names, self.tensors, self.plain, self.trains, self.on_cpu, self.autocast)
        its = (other.count, other.names, other.tensors, other.plain, other.trains, other.on_cpu, other.autocast)
        return mine == its


def family_of(workload: Workload, device: str = "cpu") -> Family | None:
    """The family of a function's workload, without steps; None where an argument is neither tensor nor plain value."""
    tensors: list[tuple[int | str, torch.dtype, int, int]] = []
    plain: list[tuple[int | str, object]] = []
    places: list[tuple[int | str, Node]] = [*enumerate(workload.args), *workload.kwargs]
    for place, node in places:
        match node:
            case TensorSpec() if node.shape and node.shape[-1]:
                tensors.append((place, getattr(torch, node.dtype), len(node.shape), node.shape[-1]))
            case Plain():
                plain.append((place, node.value))
            case Named(kind="name") if node.name.startswith("torch."):
                plain.append((place, getattr(torch, node.name.removeprefix("torch."), node.name)))
            case _:
                return None
    if not tensors:
        return None
    wants_gradients = workload.context.grad and any(spec.requires_grad for spec in workload.tensors)
    return Family(
        count=len(workload.args),
        names=frozenset(name for name, _ in workload.kwargs),
        tensors=tuple(tensors),
        plain=tuple(plain),
        trains=wants_gradients,
        rows_from=tensors[0][0],
        on_cpu=device == "cpu",
        autocast=workload.context.autocast,
    )
