"""What a command says, cleaned on its way out: names, reasons and files are often somebody else's.

Lines go through :func:`say` and :func:`tell`, whole documents through :func:`show`; Rich's tables are made of texts
that were cleaned where they are made. Nothing else in this room writes to stdout or stderr.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from typing import Any, TextIO

from twinkle_tune.errors import TuneError, is_hidden, one_line, without_hidden

_LONGEST = 4000
_own: ContextVar[TextIO | None] = ContextVar("own", default=None)


class OutputError(TuneError):
    """Stdout cannot be written to."""


class PipeClosedError(Exception):
    """Whoever read stdout has gone."""


class _Aside(io.TextIOBase):
    """Stdout for code that is not ours, as long as stdout is for results: stderr, which it cannot close."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def fileno(self) -> int:
        return sys.stderr.fileno()


def tell(text: str) -> None:
    """One line to people, on stderr. Where nobody can be told any more, nothing happens."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{one_line(text, _LONGEST)}\n")
        sys.stderr.flush()


def say(text: str = "") -> None:
    """One line of a result, on stdout; its spaces stay as they are.

    Raises:
        OutputError, PipeClosedError: it cannot be written.
    """
    _put(f"{without_hidden(' '.join(text.splitlines()))}\n")


def show(document: str) -> None:
    """A document on stdout, with its line breaks and tabs. Files hold it exactly; a terminal is no file.

    Raises:
        OutputError, PipeClosedError: it cannot be written.
    """
    _put(without_hidden(document, kept="\n\t"))


def show_json(data: Any, indent: int = 2) -> None:
    """Data as JSON on stdout, exact: whatever is not ASCII is escaped.

    Raises:
        OutputError, PipeClosedError: it cannot be written.
    """
    _put(f"{json.dumps(data, indent=indent)}\n")


def show_json_text(text: str) -> None:
    """A document of JSON on stdout, exact: what would move or colour a terminal's text is escaped.

    Raises:
        OutputError, PipeClosedError: it cannot be written.
    """
    escaped = text if text.isascii() else "".join(_escaped(letter) for letter in text)
    _put(escaped.replace("\x7f", "\\u007f"))


@contextmanager
def results_apart(wanted: bool) -> Iterator[None]:
    """Within, stdout is for :func:`say` and :func:`show` alone: what anyone else prints goes to stderr.

    Also what is written to the file descriptor itself, by C code or by a process that is started.
    """
    if not wanted or sys.stdout is None or sys.stderr is None:
        yield
        return
    before = sys.stdout
    try:
        before.flush()
        saved = os.dup(1)
    except OSError:  # no such descriptor, or nowhere to write to: the first line that is said tells
        with redirect_stdout(_Aside()):
            token = _own.set(before)
            try:
                yield
            finally:
                _own.reset(token)
        return
    try:
        is_ours = before.fileno() == 1
    except (OSError, ValueError):  # a stand-in without a descriptor
        is_ours = False
    results = os.fdopen(os.dup(saved), "w", encoding="utf-8", errors="replace") if is_ours else before
    token = _own.set(results)
    try:
        with suppress(OSError):  # without a stderr its descriptor is not there
            os.dup2(2, 1)
        with redirect_stdout(_Aside()):
            yield
    finally:
        _own.reset(token)
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(saved, 1)
        os.close(saved)
        if is_ours:
            with suppress(OSError):
                results.close()


def flush() -> None:
    """Have everything on its way.

    Raises:
        OutputError, PipeClosedError: it cannot be written.
    """
    if sys.stdout is not None:
        with _told():
            sys.stdout.flush()


def give_up_stdout() -> None:
    """Let what is left in the buffer go nowhere, so that Python's end does not stumble over it."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _put(text: str) -> None:
    stream = _own.get() or sys.stdout
    if stream is None:
        raise OutputError("stdout is closed, expected somewhere to write to; redirect it to a file")
    with _told():
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise PipeClosedError from error
    except (OSError, ValueError) as error:
        raise OutputError(f"stdout cannot be written ({error}); make room, or write to a file with --out") from error


def _escaped(letter: str) -> str:
    return json.dumps(letter)[1:-1] if letter not in "\n\t" and is_hidden(letter) else letter
