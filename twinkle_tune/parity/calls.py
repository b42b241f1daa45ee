"""The calls that a candidate is judged on, all made from one: other values, another size, another layout."""

from __future__ import annotations

from dataclasses import dataclass

from twinkle_tune.call.arguments import Call, named_tensors, spaced, vary
from twinkle_tune.call.rows import shortened

_LARGE = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """A call that was not captured and is near one that was.

    Attributes:
        call: its arguments.
        what: in words for people ("a size near the captured one").
        may_raise: whether a candidate may refuse it with an exception. A model meets other sizes, for which a
            winner stands as well; it keeps the layouts that were captured.
    """

    call: Call
    what: str
    may_raise: bool


def parity_calls(call: Call, seed: int, draws: int | None = None) -> tuple[Call, ...]:
    """The captured call and others of its form: other values, outliers, small values.

    Where the call holds more than 2**26 elements (logits of a large vocabulary), only it, another and outliers:
    the judge keeps the float64 results of all of them.

    Args:
        call: as captured.
        seed: equal seeds give equal values.
        draws: how often each kind of values is drawn; None for two plain draws and one of the other kinds.
    """
    if large(call):
        return call, vary(call, seed=seed + 1), vary(call, seed=seed + 3, outliers=True)
    if draws is None:
        return (
            call,
            vary(call, seed=seed + 1),
            vary(call, seed=seed + 2),
            vary(call, seed=seed + 3, outliers=True),
            vary(call, seed=seed + 4, scale=1e-3),
        )
    drawn = [
        made
        for first in range(seed + 1, seed + 1 + 3 * draws, 3)
        for made in (
            vary(call, seed=first),
            vary(call, seed=first + 1, outliers=True),
            vary(call, seed=first + 2, scale=1e-3),
        )
    ]
    return call, *drawn


def kin_calls(call: Call, seed: int) -> tuple[Kin, ...]:
    """The call one row shorter, and with gaps between its rows; none of them for a large call."""
    if large(call):
        return ()
    shorter = shortened(vary(call, seed=seed + 5))
    gaps = spaced(vary(call, seed=seed + 6))
    found = []
    if shorter is not None:
        found.append(Kin(call=shorter, what="a size near the captured one", may_raise=False))
    if gaps is not None:
        found.append(Kin(call=gaps, what="inputs with gaps between their rows", may_raise=True))
    return tuple(found)


def large(call: Call) -> bool:
    """Whether the results of a few more calls may not fit into memory."""
    return sum(tensor.numel() for _, tensor in named_tensors(call)) > _LARGE
