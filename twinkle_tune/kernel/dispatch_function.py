"""The dispatcher of a function slot: which family a call belongs to, and who runs it.

Its source is generated, as that of a dataclass's ``__init__`` is: it stands before every call of a function slot, and
loops over the tensors' properties took more than the microsecond that it may cost (``make bench`` has the figure). Only
whole numbers are written into the source; everything else comes in by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from twinkle_tune.kernel.dispatch import Call, Family


def function_dispatcher(families: Sequence[Family], fallback: Call) -> Call:
    """A function that calls the winner of the first family that a call belongs to, else ``fallback``."""
    names: dict[str, Any] = {
        "Tensor": torch.Tensor,
        "gradients_are_on": torch.is_grad_enabled,
        "same": _same,
        "fallback": fallback,
    }
    lines = ["def dispatch(*args, **kwargs):"]
    for number, family in enumerate(families):
        lines += _branch(family, number, names)
    lines.append("    return fallback(*args, **kwargs)")
    exec(compile("\n".join(lines), "<twinkle_tune dispatcher>", "exec"), names)
    dispatch: Call = names["dispatch"]
    return dispatch


def _branch(family: Family, number: int, names: dict[str, Any]) -> list[str]:
    """The lines for one family; puts what they name into ``names``."""

    def known(name: str, value: object) -> str:
        names[f"{name}_{number}"] = value
        return f"{name}_{number}"

    def argument(place: int | str) -> str:
        return f"args[{place}]" if isinstance(place, int) else f"kwargs[{known(f'key_{keys.index(place)}', place)}]"

    keys = sorted(family.names)
    form = f"kwargs.keys() == {known('keys', set(keys))}" if keys else "not kwargs"
    lines = [f"    if len(args) == {family.count} and {form}:"]
    tests = []
    for index, (place, dtype, dimensions, last) in enumerate(family.tensors):
        lines.append(f"        t{index} = {argument(place)}")
        tests += [
            f"isinstance(t{index}, Tensor)",
            f"t{index}.dtype is {known(f'dtype_{index}', dtype)}",
            f"len(shape := t{index}.shape) == {dimensions}",
            f"shape[{dimensions - 1}] == {last}",
        ]
    counted = [place for place, *_ in family.tensors].index(family.rows_from)
    tests.append(f"t{counted}.is_cpu is {family.on_cpu}")
    for index, (place, value) in enumerate(family.plain):
        tests.append(f"same({argument(place)}, {known(f'plain_{index}', value)})")
    if not family.trains:
        wanted = " or ".join(f"t{index}.requires_grad" for index in range(len(family.tensors)))
        tests.append(f"not (gradients_are_on() and ({wanted}))")
    lines.append(f"        if {' and '.join(tests)}:")
    lines.append(f"            rows = t{counted}.numel() // {family.tensors[counted][3]}")
    for index, (low, high, call) in enumerate(family.steps):
        lines.append(f"            if {low} <= rows <= {high}: return {known(f'call_{index}', call)}(*args, **kwargs)")
    lines.append("            return fallback(*args, **kwargs)")
    return lines


def _same(value: object, expected: object) -> bool:
    return type(value) is type(expected) and value == expected
