"""Values as plain data and back: strictly checked, nothing executed, nothing dropped silently."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from twinkle_tune.errors import ProfileError
from twinkle_tune.profile.schema import SCHEMA

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter, ValidationError

    Value = TypeVar("Value", bound=DataclassInstance)
else:
    Value = TypeVar("Value")


def to_data(value: DataclassInstance) -> Any:
    """A frozen value as JSON has it: tables, and lists for tuples. Writing needs no validation, so no pydantic."""
    return _plain(asdict(value))


def from_data(kind: type[Value], data: object, where: str, advice: str) -> Value:
    """The value of that dataclass which parsed JSON stands for.

    Args:
        kind: a dataclass whose fields are numbers, texts, tuples and such dataclasses.
        data: what a JSON reader gave.
        where: names the data in messages.
        advice: ends a message: what to do about it.

    Raises:
        ProfileError: a field is missing, of another type, or not known.
    """
    from pydantic import ValidationError

    try:
        # Strictly: a number in quotes is no number. Through JSON, in which lists stand for tuples.
        value: Value = adapter_of(kind).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ProfileError(_explain(where, error, advice)) from error
    unknown = _unknown_field(data, to_data(value), "")
    if unknown:
        raise ProfileError(f"{where}: got the field {unknown}, which schema {SCHEMA} does not have; remove it")
    return value


def json_value(text: str) -> Any:
    """What a JSON text stands for.

    Raises:
        ValueError: it is no JSON, holds a number that JSON lacks, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


@cache
def adapter_of(kind: type) -> TypeAdapter[Any]:
    """The pydantic adapter of a dataclass."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    return [_plain(item) for item in data] if isinstance(data, (list, tuple)) else data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _unknown_field(data: object, known: object, place: str) -> str:
    """The first field of ``data`` that was not understood: what is not understood must not be dropped silently."""
    if isinstance(data, dict) and isinstance(known, dict):
        for name, value in data.items():
            found = f"{place}{name}" if name not in known else _unknown_field(value, known[name], f"{place}{name}.")
            if found:
                return found
    elif isinstance(data, list) and isinstance(known, list):
        for index, (item, understood) in enumerate(zip(data, known, strict=True)):
            found = _unknown_field(item, understood, f"{place}{index}.")
            if found:
                return found
    return ""


def _explain(where: str, error: ValidationError, advice: str) -> str:
    problems = error.errors()
    # Of a place that may hold several things, the errors of those that it does not claim to be say nothing.
    other = [p["loc"][:-1] for p in problems if p["type"] == "literal_error" and p["loc"][-1] == "kind"]
    told = [p for p in problems if not any(p["loc"][: len(loc)] == loc for loc in other)] or problems
    place = ".".join(str(part) for part in told[0]["loc"])
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    got = "nothing" if told[0]["type"] == "missing" else f"{told[0].get('input')!r:.80}"
    return f"{where}: at {place}: got {got}, expected: {told[0]['msg']}{more}; {advice}"
