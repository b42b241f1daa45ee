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
from twinkle_tune.kernel.forward import note, signature_of_forward
from twinkle_tune.kernel.measured import casts_to
from twinkle_tune.kernel.owner import Owner, is_recomputed, running, traced


def function_dispatcher(
    families: Sequence[Family], fallback: Call, *, owner: Owner | None = None, others: Call | None = None
) -> Call:
    """A function that calls the winner of the first family that a call belongs to, else ``fallback``.

    Args:
        owner: the model whose calls these are; None for every call.
        others: takes the calls of other owners: whose forward is running (None for nobody's), whether torch.compile
            is tracing, and the arguments.
    """
    names: dict[str, Any] = {
        "Tensor": torch.Tensor,
        "gradients_are_on": torch.is_grad_enabled,
        "autocast_is_on": torch._C._is_any_autocast_enabled,
        "casts_to": casts_to,
        "same": _same,
        "fallback": fallback,
        "note": note,
    }
    lines = ["def dispatch(*args, **kwargs):"]
    if owner is not None:
        names |= {"owner": owner, "others": others, "running": running.get, "traced": traced}
        names |= {"is_compiling": torch.compiler.is_compiling, "is_recomputed": is_recomputed}
        lines += [
            "    compiling = is_compiling()",
            "    found = traced.owner if compiling else running()",
            "    if found is not owner or (not compiling and gradients_are_on() and is_recomputed()):",
            "        return others(found, compiling, args, kwargs)",
        ]
    for number, family in enumerate(families):
        lines += _branch(family, number, names)
    lines.append("    return fallback(*args, **kwargs)")
    exec(compile("\n".join(lines), "<twinkle_tune dispatcher>", "exec"), names)
    dispatch: Call = names["dispatch"]
    # By their parameters functions are recognised: another model's slot is this place as well.
    signature = signature_of_forward(fallback.forward if isinstance(fallback, torch.nn.Module) else fallback)
    if signature is not None:
        dispatch.__signature__ = signature  # type: ignore[attr-defined]
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
    tests.append(f"autocast_is_on() is {bool(family.autocast)}")
    if family.autocast:
        tests.append(f"casts_to(t{counted}.device.type) == {known('autocast', family.autocast)}")
    for index, (place, value) in enumerate(family.plain):
        tests.append(f"same({argument(place)}, {known(f'plain_{index}', value)})")
    if not family.trains:
        wanted = " or ".join(f"t{index}.requires_grad" for index in range(len(family.tensors)))
        tests.append(f"not (gradients_are_on() and ({wanted}))")
    lines.append(f"        if {' and '.join(tests)}:")
    lines.append(f"            rows = t{counted}.numel() // {family.tensors[counted][3]}")
    # One by one: a call with a tuple and a dictionary takes three times as long.
    handed = "*args, **kwargs" if keys else ", ".join(map(argument, range(family.count)))
    for index, (low, high, call) in enumerate(family.steps):
        lines.append(f"            if {low} <= rows <= {high}:")
        run = f"return {known(f'call_{index}', call)}({handed})"
        if family.told:
            lines += [
                "                try:",
                f"                    {run}",
                "                except Exception as error:",
            ]
            lines += [f"                    note(error, *{known('told', family.told)})", "                    raise"]
        else:
            lines.append(f"                {run}")
    lines.append("            return fallback(*args, **kwargs)")
    return lines


def _same(value: object, expected: object) -> bool:
    return type(value) is type(expected) and value == expected
