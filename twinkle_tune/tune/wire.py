"""What a worker process and its run tell each other: lines of JSON over a socket of their own.

The worker runs strangers' code, so that what comes from it is data and no more: nothing is unpickled, and a line that
does not say what it must is the end of that worker.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from twinkle_tune.contest.events import RoundTimed, TrialRefused, TrialStarted
from twinkle_tune.errors import ProfileError
from twinkle_tune.profile.checked import from_data
from twinkle_tune.profile.schema import Contest, Found

_EVENTS = {kind.__name__: kind for kind in (TrialStarted, TrialRefused, RoundTimed)}
LONGEST_LINE = 1 << 26


def send(connection: socket.socket, **message: Any) -> None:
    """Send one message."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def event_data(event: Any) -> dict[str, Any]:
    """An event of a contest as plain data."""
    return {"kind": type(event).__name__, **asdict(event)}


def event_of(data: Mapping[str, Any]) -> TrialStarted | TrialRefused | RoundTimed:
    """The event again. Raises ValueError or KeyError where it is none."""
    told = {name: value for name, value in data.items() if name != "kind"}
    event: TrialStarted | TrialRefused | RoundTimed = _checked(_EVENTS[data["kind"]], told)
    return event


def result_data(contest: Contest) -> dict[str, Any]:
    """What a contest has found, as plain data."""
    whole = asdict(contest)
    return {field.name: whole[field.name] for field in fields(Found)}


def result_of(data: Mapping[str, Any]) -> Found:
    """What was found again. Raises ValueError or KeyError where it is none."""
    found: Found = _checked(Found, {field.name: data[field.name] for field in fields(Found)})
    if found.selection.winner not in {trial.candidate for trial in found.trials}:
        raise ValueError(f"the winner {found.selection.winner!r} is none of the candidates")
    return found


def _checked(kind: type[Any], data: Mapping[str, Any]) -> Any:
    try:
        return from_data(kind, data, f"a worker's {kind.__name__}", "end the worker")
    except ProfileError as error:
        raise ValueError(str(error)) from error
