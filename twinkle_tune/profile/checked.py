"""Values of plain data: strictly checked, nothing executed, nothing dropped silently."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from twinkle_tune.errors import ProfileError
from twinkle_tune.profile.format import SCHEMA

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import SchemaValidator

    Value = TypeVar("Value", bound=DataclassInstance)
else:
    Value = TypeVar("Value")


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
    # Through JSON, in which lists stand for tuples.
    return from_json(kind, json.dumps(data), where, advice)


def from_json(kind: type[Value], text: str | bytes, where: str, advice: str) -> Value:
    """As :func:`from_data`, of the JSON itself: the tables in between are never made.

    Keys that stand twice in a table are not seen: see :func:`top_of`.

    Raises:
        ProfileError: as there; also a number that is infinite or needs more than 64 bits.
    """
    from pydantic import ValidationError

    try:
        # Strictly: a number in quotes is no number.
        with _uncollected():
            value: Value = _validator(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ProfileError(_explain(where, error, advice)) from error
    return value


def json_value(text: str) -> Any:
    """What a JSON text stands for.

    Raises:
        ValueError: it is no JSON, holds a number that JSON lacks or a key twice in one table, or is nested too deeply.
    """
    return _loaded(text, _table)


def top_of(text: str, name: str) -> object:
    """What stands under a name in the outermost table of a JSON text, if a plain value; else None.

    The whole text is checked, and nothing of it is kept.

    Raises:
        ValueError: as :func:`json_value`.
    """
    found = _loaded(text, partial(_only, name))
    return found.value if isinstance(found, _Kept) else None


@cache
def adapter_of(kind: type) -> TypeAdapter[Any]:
    """The pydantic adapter of a dataclass."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Within, the cyclic collector rests: all that is made is kept, and it would look through it again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True, slots=True)
class _Kept:
    """All that is kept of a table."""

    value: object


def _loaded(text: str, table: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=table)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.80} stands twice in one table: readers may differ in which they take")
    return made


def _only(name: str, pairs: list[tuple[str, Any]]) -> _Kept:
    value = _table(pairs).get(name)
    return _Kept(value if isinstance(value, (str, int, float, bool)) else None)


@cache
def _validator(kind: type) -> SchemaValidator:
    """Of a dataclass: pydantic's, which takes no unknown fields and only numbers that every reader can hold."""
    from pydantic_core import SchemaValidator

    return SchemaValidator(_bounded(adapter_of(kind).core_schema))


def _bounded(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _bounded(value) for name, value in schema.items()}
    match found.get("type"):
        case "dataclass-args":
            found["extra_behavior"] = "forbid"
        case "int":
            found |= {"ge": -(2**63), "le": 2**63 - 1}
        case "float":
            found["allow_inf_nan"] = False
        case "union" if all(choice["type"] in ("dataclass", "definition-ref") for choice in found["choices"]):
            # Their kinds tell them apart: the first that fits is the only one, and the others need not be tried.
            found["mode"] = "left_to_right"
    return found


def _explain(where: str, error: ValidationError, advice: str) -> str:
    problems = error.errors()
    # Of a place that may hold several things, the errors of those that it does not claim to be say nothing.
    other = [p["loc"][:-1] for p in problems if p["type"] == "literal_error" and p["loc"][-1] == "kind"]
    told = [p for p in problems if not any(p["loc"][: len(loc)] == loc for loc in other)] or problems
    place = ".".join(str(part) for part in told[0]["loc"])
    if told[0]["type"] == "unexpected_keyword_argument":
        # Without the classes that may stand there: fields begin with a small letter.
        field = ".".join(str(part) for part in told[0]["loc"] if not str(part)[:1].isupper())
        return f"{where}: got the field {field}, which schema {SCHEMA} does not have; remove it"
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    got = "nothing" if told[0]["type"] == "missing" else f"{told[0].get('input')!r:.80}"
    return f"{where}: at {place}: got {got}, expected: {told[0]['msg']}{more}; {advice}"
