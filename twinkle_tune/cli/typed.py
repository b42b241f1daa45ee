"""The command line as it was typed, for the profile that it makes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from twinkle_tune.server import shown

_arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


@contextmanager
def remembered(argv: Sequence[str]) -> Iterator[None]:
    """While a command runs, :func:`command_line` knows what was typed."""
    token = _arguments.set(tuple(argv))
    try:
        yield
    finally:
        _arguments.reset(token)


def command_line() -> str:
    """The command line as it was typed, quoted for a shell, without passwords; "" outside of :func:`remembered`."""
    typed = _arguments.get()
    return shlex.join(("twinkle-tune", *map(shown, typed))) if typed else ""
