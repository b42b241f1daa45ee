"""JSON read strictly: what two readers could take for two things is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Apart:
    """A JSON text and a list of its outermost table, apart.

    Attributes:
        text: the whole.
        rest: the text with an empty list in that one's place.
        spans: from where to where in the whole each item of the list stands.
    """

    text: str
    rest: str
    spans: tuple[tuple[int, int], ...]

    @property
    def items(self) -> Iterator[str]:
        """The text of one item of the list after another."""
        return (self.text[begin:end] for begin, end in self.spans)


def json_value(text: str) -> Any:
    """What a JSON text stands for.

    Raises:
        ValueError: it is no JSON, holds a number that JSON lacks or a key twice in one table, or is nested too deeply.
    """
    return _loaded(text, _table)


def top_of(parts: Apart, name: str) -> object:
    """What stands under a name in the outermost table of a JSON text, if a plain value; else None.

    The whole text is checked, and nothing of it is kept.

    Raises:
        ValueError: as :func:`json_value`.
    """
    only = partial(_only, name)
    try:
        found = _loaded(parts.rest, only)
    except ValueError:
        _loaded(parts.text, only)  # whose error says where in the whole
        raise
    return found.value if isinstance(found, _Kept) else None


def apart(text: str, name: str) -> Apart:
    """A list in the outermost table of a JSON text, and the rest: who reads a long one need never hold all of it.

    Where there is no such list, or something before its end is no JSON, the rest is the whole text. So the items are
    checked as by :func:`json_value`, and the rest is not.
    """
    try:
        spans = _spans(text, name)
    except (ValueError, RecursionError, IndexError):
        return Apart(text, text, ())  # whoever reads the whole says what is wrong
    if not spans:
        return Apart(text, text, ())
    return Apart(text, text[: spans[0][0]] + text[spans[-1][1] :], tuple(spans))


def _spans(text: str, name: str) -> list[tuple[int, int]]:
    """Where the items of the list stand; none for an empty list, or where no such list is found."""
    scan = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_checked).raw_decode
    place = _after("{", text, _past_space(text, 0))
    while True:
        key, place = scan(text, place)
        place = _after(":", text, _past_space(text, place))
        if key == name and text[place] == "[":
            break
        _, place = scan(text, place)
        place = _after(",", text, _past_space(text, place))
    spans = []
    place = _past_space(text, place + 1)
    while text[place] != "]":
        _, end = scan(text, place)
        spans.append((place, end))
        place = _past_space(text, end)
        if text[place] != "]":
            place = _after(",", text, place)
            if text[place] == "]":
                raise ValueError("a comma before the end of a list")
    return spans


def _after(letter: str, text: str, place: int) -> int:
    if text[place] != letter:
        raise ValueError(f"no {letter}")
    return _past_space(text, place + 1)


def _past_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


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


def _checked(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a key that stands twice; nothing of the table is kept."""
    if len(dict(pairs)) != len(pairs):
        _table(pairs)


def _only(name: str, pairs: list[tuple[str, Any]]) -> _Kept:
    value = _table(pairs).get(name)
    return _Kept(value if isinstance(value, (str, int, float, bool)) else None)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
