"""Ways to break a profile, each from a seed: bytes, lines, and values of its JSON."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**70, 1e-9, 1e308, "", "original", "cpu", "cuda", "train", "float32", "os:system",
    "antigravity:geohash", "tests.tune.pretended:fast", "../../etc/passwd", "\x00", "\ud800", "x" * 5000, [], {}, [[]],
    [1, 2], ["a"], {"kind": "tensor"}, {"kind": "plain", "value": 3},
)  # fmt: skip


def mutated(text: str, seed: int) -> bytes:
    """The profile's text with one to three things wrong with it (or, by chance, none)."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        data = bytearray(text.encode())
        for _ in range(chance.randint(1, 3)):
            chance.choice(_BYTES)(data, chance)
        return bytes(data)
    value = json.loads(text)
    for _ in range(chance.randint(1, 3)):
        chance.choice(_JSON)(value, chance)
    return json.dumps(value).encode()


def _flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _digit(data: bytearray, chance: random.Random) -> None:
    digits = [index for index, byte in enumerate(data) if chr(byte).isdigit()]
    if not digits:
        return
    data[chance.choice(digits)] = ord(chance.choice("0123456789"))


def _cut_out(data: bytearray, chance: random.Random) -> None:
    begin = chance.randrange(len(data))
    del data[begin : begin + min(chance.choice((1, 1, 2, 10, 1000)), len(data) - 1)]


def _cut_off(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) + 1 :]


def _insert(data: bytearray, chance: random.Random) -> None:
    begin = chance.randrange(len(data))
    data[begin:begin] = chance.choice((b"\x00", b"\xff", b"9", b"-", b'"', b"}", b"NaN", b"1e999", b"[" * 3000))


def _double(data: bytearray, chance: random.Random) -> None:
    begin = chance.randrange(len(data))
    data[begin:begin] = data[begin : begin + chance.randrange(1, 200)]


_BYTES: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _digit, _cut_out, _cut_off, _insert, _double)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in pairs] + [place for _, inner in pairs for place in _places(inner)]


def _set(value: Any, chance: random.Random) -> None:
    container, key = chance.choice(_places(value))
    container[key] = copy.deepcopy(chance.choice(VALUES))


def _drop(value: Any, chance: random.Random) -> None:
    container, key = chance.choice(_places(value))
    del container[key]


def _swap(value: Any, chance: random.Random) -> None:
    (one, first), (two, second) = (chance.choice(_places(value)) for _ in range(2))
    inner, outer = copy.deepcopy(one[first]), copy.deepcopy(two[second])
    one[first], two[second] = outer, inner


def _alike(value: Any, chance: random.Random) -> None:
    """A value in the place of another of its field's name: what is of the right form and means something else."""
    places = [place for place in _places(value) if isinstance(place[0], dict)]
    container, key = chance.choice(places)
    other, _ = chance.choice([place for place in places if place[1] == key])
    container[key] = copy.deepcopy(other[key])


def _more(value: Any, chance: random.Random) -> None:
    lists = [container[key] for container, key in _places(value) if isinstance(container[key], list)]
    chosen = chance.choice([each for each in lists if each])
    chosen.insert(chance.randrange(len(chosen) + 1), copy.deepcopy(chance.choice(chosen)))


def _named(value: Any, chance: random.Random) -> None:
    container, key = chance.choice([place for place in _places(value) if isinstance(place[0], dict)])
    container[str(chance.choice(VALUES))] = container.pop(key)


_JSON: tuple[Callable[[Any, random.Random], None], ...] = (_set, _drop, _swap, _alike, _alike, _more, _named)
