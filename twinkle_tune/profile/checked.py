"""Values of plain data: strictly checked, nothing executed, nothing dropped silently."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
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


def from_json(kind: type[Value], text: str, where: str, advice: str) -> Value:
    """As :func:`from_data`, of the JSON itself: the tables in between are never made.

    Keys that stand twice in a table are not seen: see :func:`twinkle_tune.profile.strict.top_of`.

    Raises:
        ProfileError: as there; also a number that is infinite or needs more than 64 bits.
    """
    return next(_made(kind, [(text, "")], where, advice))


def each_from_json(kind: type[Value], items: Iterable[str], where: str, name: str, advice: str) -> Iterator[Value]:
    """As :func:`from_json`, of each item of a list called ``name``, one after another."""
    return _made(kind, ((text, f"{name}.{index}.") for index, text in enumerate(items)), where, advice)


@cache
def adapter_of(kind: type) -> TypeAdapter[Any]:
    """The pydantic adapter of a dataclass."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _made(kind: type[Value], texts: Iterable[tuple[str, str]], where: str, advice: str) -> Iterator[Value]:
    from pydantic import ValidationError

    validator = _validator(kind)
    for text, place in texts:
        try:
            # Strictly: a number in quotes is no number.
            yield validator.validate_json(text, strict=True)
        except ValidationError as error:
            raise ProfileError(_explain(where, place, error, advice)) from error


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, the cyclic collector rests: where all that is made is kept, it would look through it again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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


def _explain(where: str, within: str, error: ValidationError, advice: str) -> str:
    problems = error.errors()
    # Of a place that may hold several things, the errors of those that it does not claim to be say nothing.
    other = [p["loc"][:-1] for p in problems if p["type"] == "literal_error" and p["loc"][-1] == "kind"]
    told = [p for p in problems if not any(p["loc"][: len(loc)] == loc for loc in other)] or problems
    place = within + ".".join(str(part) for part in told[0]["loc"])
    if told[0]["type"] == "unexpected_keyword_argument":
        # Without the classes that may stand there: fields begin with a small letter.
        field = within + ".".join(str(part) for part in told[0]["loc"] if not str(part)[:1].isupper())
        return f"{where}: got the field {field}, which schema {SCHEMA} does not have; remove it"
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    got = "nothing" if told[0]["type"] == "missing" else f"{told[0].get('input')!r:.80}"
    return f"{where}: at {place}: got {got}, expected: {told[0]['msg']}{more}; {advice}"
