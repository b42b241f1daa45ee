"""Why a candidate is out, as a word that code may ask for. The sentence beside it is for people and decides nothing."""

from __future__ import annotations

from typing import Literal

from twinkle_tune.errors import TuneError, in_a_line

Cause = Literal[
    "",
    "wrong",
    "inconclusive",
    "no room",
    "unfit",
    "unavailable",
    "raised",
    "out of memory",
    "out of device memory",
    "timeout",
    "crashed",
    "meddled",
    "not timed",
]
"""What was the matter with a candidate.

- "wrong": its result was refused by the parity rule.
- "inconclusive": the rule cannot tell, for the original differs from itself, say.
- "no room": there was no memory to judge it, of which it says nothing.
- "unfit": it cannot take such calls, or not in this mode.
- "unavailable": its code, or what it needs, is not here.
- "raised": its code raised an error.
- "out of memory", "out of device memory": it took more than there is or than it was allowed.
- "timeout": it did not finish in time.
- "crashed": it ended its process.
- "meddled": it changed what others in its process share, or broke the device or the process for them.
- "not timed": it could not be timed.
- "": not written down, in a profile of schema 1 that does not tell.
"""
LASTING: tuple[Cause, ...] = ("", "wrong", "unfit")
"""Causes that say something of who is out, not of the moment or the machine (no compiler, no memory)."""
OF_MEMORY: tuple[Cause, ...] = ("out of memory", "out of device memory")
# Allocators of torch and C++ raise a plain RuntimeError: their own words are all that tells.
_HOST_SIGNS = ("MemoryError", "can't allocate memory", "Cannot allocate memory", "bad_alloc")


def cause_of(error: BaseException) -> Cause:
    """The cause that an error of a candidate's code stands for."""
    text = str(error) if isinstance(error, TuneError) else in_a_line(error)
    if "OutOfMemoryError" in text:
        return "out of device memory"
    return "out of memory" if any(sign in text for sign in _HOST_SIGNS) else "raised"
