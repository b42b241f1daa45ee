"""One family of errors. Every message says what, what was got, what was expected and what to do next."""

from __future__ import annotations

import errno
import unicodedata

_OF_THE_MOMENT = {
    errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC,
    errno.ETXTBSY,
}  # fmt: skip
"""System errors that the next try may not meet: no memory, files, room or processes left just then."""


class TuneError(Exception):
    """Base of every error that twinkle_tune raises on purpose."""


class RegistrationError(TuneError, ValueError):
    """A kernel was registered with arguments that do not fit together."""


class SourceError(TuneError):
    """A candidate's code could not be had: a missing path, package, layer or function, or a refused repo."""


class SignatureError(SourceError, TypeError):
    """A candidate cannot take the original's place: its constructor or its forward signature does not fit."""


class DeviceError(TuneError, ValueError):
    """An unknown device name, or a device that this machine does not have."""


class ModeError(TuneError, ValueError):
    """An unknown mode."""


class ObjectiveError(TuneError, ValueError):
    """An unknown objective, or a slowdown that does not go with it."""


class ModelError(TuneError):
    """The model, or its example inputs, could not be had."""


class CaptureError(TuneError):
    """The model could not be run on its example inputs."""


class ProfileError(TuneError, ValueError):
    """A profile could not be read or does not say what a profile must."""


class StaleProfileError(ProfileError):
    """A profile does not hold on this machine, or for this code, any more."""


class ConfigError(TuneError, ValueError):
    """The config of a kernel does not fit the kernel, or the call."""


class ShapeError(TuneError, ValueError):
    """The tensors of a call of one of our ops do not fit together."""


class GraphError(TuneError):
    """A module is no graph, or a pattern cannot be replaced in one; the module is as it was."""


class BindError(TuneError):
    """Binding a kernel to a model failed; what had been bound was undone."""


class PeerError(TuneError):
    """Another process of those that tune together met an error; ``by_chance``: one that says nothing of the code."""

    def __init__(self, message: str, *, by_chance: bool = False) -> None:
        super().__init__(message)
        self.by_chance = by_chance


class TuneInterrupted(KeyboardInterrupt):
    """Ctrl-C during a profiling run; ``profile`` holds the contests that were finished, None if none was."""

    def __init__(self, profile: object | None) -> None:
        super().__init__("interrupted")
        self.profile = profile


def in_a_line(error: BaseException, limit: int | None = None) -> str:
    """Class and first line of an error, without its full stop and cut after ``limit`` characters."""
    name = type(error).__name__
    if isinstance(error, PeerError):
        return str(error)[:limit]  # in which the class stands
    try:
        lines = str(error).strip().splitlines()
    except Exception as unreadable:  # of a stranger's exception even its text may raise
        return f"{name}: its text cannot be read ({type(unreadable).__name__})"
    return f"{name}: {lines[0].rstrip('.')[:limit]}" if lines else name


def one_line(text: object, limit: int | None = None) -> str:
    """Text on one line, without control or direction characters; the middle left out beyond ``limit``."""
    shown = without_hidden(" ".join(str(text).split()))
    if limit is None or len(shown) <= limit:
        return shown
    head = (limit - 1) * 2 // 3
    return f"{shown[:head]}…{shown[len(shown) - (limit - 1 - head) :]}"


def without_hidden(text: str, kept: str = "") -> str:
    """Text in which each character that shows nothing of its own (but moves, colours or turns others) is replaced.

    Args:
        text: any.
        kept: characters that stay all the same.
    """
    if text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if c not in kept and is_hidden(c) else c for c in text)


def is_hidden(letter: str) -> bool:
    """Whether a character is a control or direction character, half of a pair, or none at all."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def is_by_chance(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says something of the moment and not of the code that was run.

    Such are memory (the host's or a device's), disk space or processes that others had just then, and the SystemError
    "AST constructor recursion depth mismatch" of Python before 3.11.8 and 3.12.2, where threads parse side by side.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, MemoryError) or (isinstance(link, OSError) and link.errno in _OF_THE_MOMENT):
            return True
        if type(link).__name__ == "OutOfMemoryError":  # torch's, without importing torch
            return True
        if isinstance(link, PeerError) and link.by_chance:
            return True
        if isinstance(link, SystemError) and "AST constructor" in str(link):
            return True
        link = link.__cause__ or link.__context__
    return False
