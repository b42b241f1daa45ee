"""Which winner runs for which row count."""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from twinkle_tune.kernel.dispatch import (
    Choice,
    Family,
    RowsFrom,
    Rule,
    family_of,
    layer_dispatcher,
    rules_of,
)
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.workload import observe

TARGET = "package.module:function"


def _ruled(points: list[tuple[int, str]]) -> tuple[Rule, ...]:
    return rules_of((rows, Choice(candidate=name)) for rows, name in points)


def _winner(rules: tuple[Rule, ...], rows: int) -> str:
    found = [rule.winner.candidate for rule in rules if rule.low <= rows <= rule.high]
    assert len(found) <= 1
    return found[0] if found else ORIGINAL


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(1, ORIGINAL), (8, ORIGINAL)], []),
        ([(8, "a"), (1, "a")], [(1, 8, "a")]),
        ([(1, "a"), (8, "b")], [(1, 1, "a"), (8, 8, "b")]),
        ([(1, "a"), (4, ORIGINAL), (8, "a")], [(1, 1, "a"), (8, 8, "a")]),
        ([(1, "a"), (4, "a"), (4, "b"), (8, "a")], [(1, 1, "a"), (8, 8, "a")]),
        ([(4, "a"), (4, "a")], [(4, 4, "a")]),
    ],
    ids=["nothing", "originals", "agreement", "disagreement", "original between", "two at one", "one twice"],
)
def test_rules(points: list[tuple[int, str]], expected: list[tuple[int, int, str]]) -> None:
    """Neighbours that agree cover what is between them; where two winners disagree the original stays."""
    assert [(rule.low, rule.high, rule.winner.candidate) for rule in _ruled(points)] == expected


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["a", "b", ORIGINAL])), max_size=8), st.integers(0, 14))
def test_rules_for_any_points(points: list[tuple[int, str]], rows: int) -> None:
    """A row count has a winner only if all that was measured there, or at both neighbours, won with it."""
    measured = sorted({at for at, _ in points})
    below = [at for at in measured if at <= rows]
    above = [at for at in measured if at >= rows]
    near = {w for at, w in points if below and above and at in (below[-1], above[0])}
    expected = near.pop() if len(near) == 1 else ORIGINAL
    assert _winner(_ruled(points), rows) == expected


class Named(nn.Module):
    """A layer whose kernels say who they are."""

    def forward(self, x: Any, scale: Any = None) -> Any:
        """The original."""
        return ("original", x)


def _call(name: str) -> Any:
    return lambda self, x, scale=None: (name, x)


SMALL, LARGE = Choice(candidate="small"), Choice(candidate="large")
CALLS = {choice: _call(choice.candidate) for choice in (SMALL, LARGE)}
RULES = (Rule(low=2, high=4, winner=SMALL), Rule(low=16, high=16, winner=LARGE))
SIZES = {
    (1, 8): "original",
    (2, 8): "small",
    (3, 8): "small",
    (2, 2, 8): "small",
    (5, 8): "original",
    (16, 8): "large",
    (4, 4, 8): "large",
    (17, 8): "original",
}


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("rows_from", [RowsFrom(), RowsFrom(name="x"), RowsFrom(index=1)])
def test_layer_by_rows(rows_from: RowsFrom, shape: tuple[int, ...]) -> None:
    """A layer's winner is that of its tensor's row count, given by position or by name."""
    forward = layer_dispatcher(RULES, CALLS, Named.forward, rows_from)
    x = torch.zeros(shape)
    if rows_from.index:
        got = forward(Named(), None, x)
    else:
        got = forward(Named(), x=x) if rows_from.name else forward(Named(), x)
    assert got[0] == SIZES[shape]


@pytest.mark.parametrize("rows_from", [RowsFrom(), RowsFrom(name="x"), RowsFrom(index=1)])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"x": None}),
        ((None,), {}),
        (([1, 2],), {}),
        ((torch.tensor(1.0),), {}),
        ((torch.zeros(3, 0),), {}),
        ((torch.zeros(0, 8),), {}),
        ((7,), {"scale": 2}),
    ],
)
def test_layer_called_otherwise(rows_from: RowsFrom, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A call that was not measured like that, whatever it passes, goes to the original."""
    forward = layer_dispatcher(RULES, CALLS, Named.forward, rows_from)
    assert forward(Named(), *args, **kwargs)[0] == "original"


def test_layer_given_otherwise_than_measured() -> None:
    """A tensor measured by position and given by name, or the other way, goes to the original."""
    x = torch.zeros(2, 8)
    assert layer_dispatcher(RULES, CALLS, Named.forward, RowsFrom())(Named(), x=x)[0] == "original"
    assert layer_dispatcher(RULES, CALLS, Named.forward, RowsFrom(name="x"))(Named(), x)[0] == "original"


@pytest.mark.parametrize("rows_from", [RowsFrom(), RowsFrom(name="x")])
def test_layer_of_one_dtype(rows_from: RowsFrom) -> None:
    """A dispatcher for one dtype sends tensors of another to the original."""
    forward = layer_dispatcher(RULES, CALLS, Named.forward, rows_from, torch.float32)
    for dtype, expected in ((torch.float32, "small"), (torch.bfloat16, "original")):
        x = torch.zeros(2, 8, dtype=dtype)
        assert (forward(Named(), x=x) if rows_from.name else forward(Named(), x))[0] == expected


def test_rows_from_a_workload() -> None:
    """Rows are counted on the first argument that is a tensor, positional ones first."""
    x = torch.zeros(2, 8)
    assert RowsFrom.of(observe(TARGET, (1, x), {"y": x})) == RowsFrom(index=1)
    assert RowsFrom.of(observe(TARGET, (1,), {"y": x, "a": 2})) == RowsFrom(name="y")
    assert RowsFrom.of(observe(TARGET, ([x],), {})) is None


def test_layer_under_compile() -> None:
    """Under torch.compile, in one graph, a layer's dispatcher gives each row count its winner's result."""

    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    calls = {SMALL: lambda self, x: x * 3, LARGE: lambda self, x: x * 5}
    module = Doubled()
    forward = layer_dispatcher(RULES, calls, Doubled.forward, RowsFrom(), torch.float32)
    module.forward = MethodType(forward, module)  # type: ignore[method-assign]
    torch.compiler.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=False)
    got = [int(compiled(torch.ones(rows, 8))[0, 0]) for rows in (1, 2, 4, 5, 16, 2)]
    assert got == [2, 3, 3, 2, 5, 3]
    assert int(compiled(torch.ones(2, 8, dtype=torch.float64))[0, 0]) == 2


def _family(args: tuple[Any, ...], steps: tuple[tuple[int, int, Any], ...], **kwargs: Any) -> Family:
    family = family_of(observe(TARGET, args, kwargs))
    assert family is not None
    return replace(family, steps=steps)


def _original(*args: Any, **kwargs: Any) -> str:
    return "original"


def _kernel(*args: Any, **kwargs: Any) -> str:
    return "kernel"


SEEN = torch.zeros(4, 8)
BELONGS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "as measured": ((SEEN, 1.0, None), {}),
    "rows in between": ((torch.zeros(3, 8), 1.0, None), {}),
    "another layout": ((torch.zeros(8, 4).T, 1.0, None), {}),
}
DIFFERS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "more rows": ((torch.zeros(5, 8), 1.0, None), {}),
    "another width": ((torch.zeros(4, 9), 1.0, None), {}),
    "another dtype": ((SEEN.double(), 1.0, None), {}),
    "more dimensions": ((SEEN[None], 1.0, None), {}),
    "another plain value": ((SEEN, 2.0, None), {}),
    "a plain value of another type": ((SEEN, 1, None), {}),
    "something for None": ((SEEN, 1.0, 0), {}),
    "a list for a tensor": (([0.0], 1.0, None), {}),
    "fewer arguments": ((SEEN, 1.0), {}),
    "by name": ((SEEN, 1.0), {"z": None}),
    "more arguments": ((SEEN, 1.0, None), {"more": 1}),
    "wanting gradients": ((torch.zeros(4, 8, requires_grad=True), 1.0, None), {}),
    "another device": ((torch.zeros(4, 8, device="meta"), 1.0, None), {}),
}


@pytest.mark.parametrize("case", [*BELONGS, *DIFFERS])
def test_functions_calls_belong_or_not(case: str) -> None:
    """A call goes to a family's winner only if it differs from what was measured in its row count alone."""
    dispatch = function_dispatcher([_family((SEEN, 1.0, None), ((2, 4, _kernel),))], _original)
    args, kwargs = {**BELONGS, **DIFFERS}[case]
    assert dispatch(*args, **kwargs) == ("kernel" if case in BELONGS else "original")


def test_family_of_another_device() -> None:
    """What was measured on a GPU does not take the CPU's tensors: another model may live there."""
    family = family_of(observe(TARGET, (SEEN,), {}), "cuda")
    assert family is not None
    assert function_dispatcher([replace(family, steps=((1, 9, _kernel),))], _original)(SEEN) == "original"


def test_family_with_gradients() -> None:
    """A family that was seen with gradients takes calls with and without."""
    wanted = torch.zeros(4, 8, requires_grad=True)
    dispatch = function_dispatcher([_family((wanted,), ((4, 4, _kernel),))], _original)
    assert [dispatch(wanted), dispatch(SEEN)] == ["kernel", "kernel"]
    with torch.no_grad():
        assert function_dispatcher([_family((SEEN,), ((4, 4, _kernel),))], _original)(wanted) == "kernel"


def test_names_and_dtypes() -> None:
    """Keyword tensors and dtypes belong to a family by their names and values."""
    family = _family((1,), ((4, 4, _kernel),), x=SEEN, dtype=torch.float32, a=None)
    dispatch = function_dispatcher([family], _original)
    assert dispatch(1, x=SEEN, dtype=torch.float32, a=None) == "kernel"
    assert dispatch(1, a=None, dtype=torch.float32, x=SEEN) == "kernel"
    assert dispatch(1, x=SEEN, dtype=torch.float64, a=None) == "original"
    assert dispatch(1, x=SEEN, dtype=torch.float32) == "original"


@pytest.mark.parametrize(
    "args",
    [
        (1, 2),
        ((SEEN, SEEN),),
        ({"x": SEEN},),
        (torch.tensor(1.0),),
        (SEEN, object()),
        (torch.zeros(3, 0),),
        (SEEN, len),
    ],
)
def test_calls_that_cannot_be_told_apart(args: tuple[Any, ...]) -> None:
    """A call without a tensor that has rows, or with arguments that are no plain values, makes no family."""
    assert family_of(observe(TARGET, args, {})) is None


def test_first_family_wins() -> None:
    """Of two families of the same calls the first decides, also where it has no winner for the row count."""
    first, second = _family((SEEN,), ((4, 4, _kernel),)), _family((SEEN,), ((1, 9, lambda x: "second"),))
    assert first.same_calls(second)
    dispatch = function_dispatcher([first, second], _original)
    assert [dispatch(torch.zeros(rows, 8)) for rows in (4, 5)] == ["kernel", "original"]


def test_function_under_compile() -> None:
    """Under torch.compile, in one graph, a function's dispatcher gives each call its winner's result."""
    families = [
        _family((SEEN, 1.0), ((2, 4, lambda x, y: x * 3),)),
        _family((SEEN,), ((4, 4, lambda x, y: x * 5),), y=SEEN),
    ]
    dispatch = function_dispatcher(families, lambda x, y: x * 2)
    torch.compiler.reset()

    @torch.compile(backend="eager", fullgraph=True, dynamic=False)
    def model(x: torch.Tensor, by_name: bool) -> torch.Tensor:
        out: torch.Tensor = dispatch(x, y=x) if by_name else dispatch(x, 1.0)
        return out + 0

    got = [int(model(torch.ones(rows, 8), by_name)[0, 0]) for rows in (3, 4, 5) for by_name in (False, True)]
    assert got == [3, 2, 3, 5, 2, 2]


def test_function_with_gradients_under_compile() -> None:
    """Under torch.compile a call that wants gradients does not go to a family that was seen without."""
    dispatch = function_dispatcher([_family((SEEN,), ((4, 4, lambda x: x * 3),))], lambda x: x * 2)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: dispatch(x) + 0, backend="eager", fullgraph=True, dynamic=False)
    wanted = torch.ones(4, 8, requires_grad=True)
    compiled(wanted).sum().backward()
    assert wanted.grad is not None
    assert int(wanted.grad[0, 0]) == 2
    assert int(compiled(torch.ones(4, 8))[0, 0]) == 3
