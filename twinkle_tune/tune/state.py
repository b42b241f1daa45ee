"""The state that all code of a process shares, and what of it a candidate has changed.

Candidates of one contest run in one process: one that sets the default dtype, a backend's flag or a function of torch
would change what its rivals compute, or how fast.
"""

from __future__ import annotations

import builtins
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import is_
from types import CodeType
from typing import Any, get_args

import torch
from torch import nn
from torch.nn import functional

from twinkle_tune.tune.shared import SETTINGS, WORKING_DIRECTORY, Change, Setting

_HERE = next(setting for setting in SETTINGS if setting.name == WORKING_DIRECTORY)
_KNOWN_POOLS = ("torch", "triton", "tqdm", "huggingface_hub")
"""Whose threads may stay: they wait for more to do."""
_THREAD_GRACE_S = 1.0
_POOL = ("concurrent.futures.thread", "_worker")
"""Module and function in which a pool's thread waits."""
_TORCH = os.path.dirname(torch.__file__)
_FOLLOWS_DTYPE = "Storage"
"""torch.Storage is set along with the default dtype."""
# Bound here and now: what a candidate puts in their places changes nothing for us.
_enumerate_threads = threading.enumerate
_now_s = time.monotonic

_SPACES: tuple[tuple[str, Any], ...] = (
    ("torch", torch),
    ("torch.nn.functional", functional),
    ("torch.linalg", torch.linalg),
    ("torch.special", torch.special),
    ("torch.autograd", torch.autograd),
    ("torch.Tensor", torch.Tensor),
    ("torch.nn.Module", nn.Module),
    ("torch.autograd.Function", torch.autograd.Function),
    ("time", time),
    ("gc", gc),
    ("threading", threading),
    ("builtins", builtins),
)
"""Where a replaced function would reach others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What was found at one time. ``spaces`` holds the callables of modules and classes by the name of these."""

    settings: Mapping[str, object]
    spaces: Mapping[str, tuple[Any, Mapping[str, object]]]
    threads: frozenset[threading.Thread]


def state_now(extra: Sequence[tuple[str, Any]] = ()) -> State:
    """The state now. ``extra``: more modules or classes whose functions are watched, with their names."""
    return State(
        settings={setting.name: setting.read() for setting in SETTINGS},
        spaces={name: (space, _callables(space)) for name, space in (*_SPACES, *extra)},
        threads=frozenset(_enumerate_threads()),
    )


def changes_since(before: State, *, threads: bool = True) -> str:
    """What is different now that may not be, in words; "" where nothing is.

    Threads that are about to end are waited for. ``threads``: whether they are looked at, for in a process that is not
    ours alone others start some.
    """
    found = [
        f"{setting.name} from {before.settings[setting.name]} to {now}" if setting.has_value else setting.name
        for setting, now in _changed(before, "refused")
    ]
    found += [f"{name}.{attribute} (replaced)" for name, _, attribute in _replaced(before)]
    told = f"changed {'; '.join(found[:4])}{f' and {len(found) - 4} more' if len(found) > 4 else ''}" if found else ""
    left = [thread.name for thread in _left_behind(before.threads)] if threads else []
    running = f"left {len(left)} thread{'' if len(left) == 1 else 's'} running ({', '.join(left[:3])})" if left else ""
    return " and ".join(part for part in (told, running) if part)


def noted_since(before: State) -> tuple[str, ...]:
    """What is different now and no more than worth a word."""
    notes = []
    has_moved = _HERE.read() != before.settings[WORKING_DIRECTORY]
    for setting, now in () if has_moved else _changed(before, "noted"):
        if isinstance(now, frozenset):
            new = sorted(now - before.settings[setting.name])  # type: ignore[operator]
            if new:
                notes.append(f"while it ran, new {setting.name}: {', '.join(new[:3])}{' ...' if len(new) > 3 else ''}")
    return tuple(notes)


def put_back(before: State, *, everything: bool) -> None:
    """Put back what is changed behind everybody's back; ``everything``: also that for which a candidate is refused."""
    for setting, _ in _changed(before, *(get_args(Change) if everything else ("put back",))):
        setting.put_back(before.settings[setting.name])
    for name, space, attribute in _replaced(before) if everything else ():
        old = before.spaces[name][1]
        if attribute in old:
            setattr(space, attribute, old[attribute])
        else:
            delattr(space, attribute)


@contextmanager
def process_kept() -> Iterator[None]:
    """The settings of the process are afterwards what they were, as far as they can be set."""
    before = {setting.name: setting.read() for setting in SETTINGS}
    try:
        yield
    finally:
        for setting in SETTINGS:
            if setting.read() != before[setting.name]:
                setting.put_back(before[setting.name])


def _changed(before: State, *changes: Change) -> Iterator[tuple[Setting, object]]:
    """Settings of these kinds that are others now. The rest is not read: there is a look after each burst of calls."""
    for setting in SETTINGS:
        if setting.change in changes and (now := setting.read()) != before.settings[setting.name]:
            yield setting, now


def _replaced(before: State) -> list[tuple[str, Any, str]]:
    return [
        (name, space, attribute) for name, (space, old) in before.spaces.items() for attribute in _other(space, old)
    ]


def _callables(space: Any) -> dict[str, object]:
    return {name: value for name, value in vars(space).items() if callable(value) and name != _FOLLOWS_DTYPE}


def _other(space: Any, old: Mapping[str, object]) -> list[str]:
    """Names whose callable is another now, or was put before that of a base class."""
    now, changed = vars(space), []
    if not all(map(is_, map(now.get, old), old.values())):  # some thousand names, seldom a change
        changed = [
            name for name, value in old.items() if (new := now.get(name)) is not value and not _is_torchs(new, value)
        ]
    if isinstance(space, type):
        new_ones = sorted(name for name in now.keys() - old.keys() if callable(now[name]))
        changed += [name for name in new_ones if any(name in vars(base) for base in space.__mro__[1:])]
    return changed


def _is_torchs(new: object, old: object) -> bool:
    """Whether torch.compile has put it there, which does so when it is imported, and with its first use.

    A wrapper takes over the name of the module of what it wraps, so that the code's file is asked as well.
    """
    if str(getattr(new, "__module__", "")).startswith(("torch._dynamo.", "torch._inductor.")):
        return True
    code = getattr(new, "__code__", None)
    is_from_torch = isinstance(code, CodeType) and code.co_filename.startswith(_TORCH)
    return is_from_torch and getattr(new, "__wrapped__", None) is old


def _left_behind(before: frozenset[threading.Thread]) -> list[threading.Thread]:
    until_s = _now_s() + _THREAD_GRACE_S
    while True:
        new = [thread for thread in _enumerate_threads() if thread not in before and not _is_known(thread)]
        left = [thread for thread in new if thread.is_alive() and not _waits_for_work(thread)]
        if not left or _now_s() > until_s:
            return left
        left[0].join(_THREAD_GRACE_S / 20)


def _waits_for_work(thread: threading.Thread) -> bool:
    """Whether it is one of a pool of the standard library, which nobody ends, and has nothing to do."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) == _POOL


def _is_known(thread: threading.Thread) -> bool:
    places = (getattr(thread, "_target", None), type(thread))
    modules = {str(getattr(place, "__module__", "")).partition(".")[0] for place in places}
    return bool(modules & set(_KNOWN_POOLS))
