"""What a worker process and its run tell each other: lines of JSON over a socket of their own.

The worker runs strangers' code, so that what comes from it is data and no more: nothing is unpickled, and a line that
does not say what it must is the end of that worker.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from twinkle_tune.outcome import (
    Conditions,
    DeviceState,
    Measurement,
    Outcome,
    ParityFigure,
    Rejection,
    Selection,
    Stage,
    Status,
    Timings,
    Trial,
    Untimed,
)
from twinkle_tune.profile.schema import Contest, TimedOn
from twinkle_tune.tune.events import RoundTimed, TrialRefused, TrialStarted

_EVENTS = {kind.__name__: kind for kind in (TrialStarted, TrialRefused, RoundTimed)}
_FIELDS = {
    "candidate": str,
    "stage": str,
    "reason": str,
    "number": int,
    "alive": int,
    "best": str,
    "ratio": float,
}
LONGEST_LINE = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a contest has found: of a :class:`Contest` all that its run does not know."""

    trials: tuple[Trial, ...]
    selection: Selection
    conditions: tuple[Conditions, ...] = ()
    timings: tuple[Timings, ...] = ()
    timed_on: TimedOn | None = None


def send(connection: socket.socket, **message: Any) -> None:
    """Send one message."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def event_data(event: Any) -> dict[str, Any]:
    """An event of a contest as plain data."""
    return {"kind": type(event).__name__, **asdict(event)}


def event_of(data: Mapping[str, Any]) -> TrialStarted | TrialRefused | RoundTimed:
    """The event again. Raises ValueError, KeyError or TypeError where it is none."""
    fields = {name: _FIELDS[name](value) for name, value in data.items() if name != "kind"}
    if "stage" in fields:
        stage_of(fields["stage"])
    made: TrialStarted | TrialRefused | RoundTimed = _EVENTS[data["kind"]](**fields)
    return made


def result_data(contest: Contest) -> dict[str, Any]:
    """What a contest has found, as plain data."""
    return {
        "trials": [asdict(trial) for trial in contest.trials],
        "selection": asdict(contest.selection),
        "conditions": [asdict(each) for each in contest.conditions],
        "timings": [asdict(each) for each in contest.timings],
        "timed_on": None if contest.timed_on is None else asdict(contest.timed_on),
    }


def result_of(data: Mapping[str, Any]) -> Found:
    """What was found again. Raises ValueError, KeyError or TypeError where it is none."""
    trials = tuple(
        Trial(
            candidate=str(each["candidate"]),
            source=str(each["source"]),
            digest=str(each["digest"]),
            outcome=_outcome(each["outcome"]),
            commit=str(each["commit"]),
            config=_config(each["config"]),
            config_origin=str(each["config_origin"]),
        )
        for each in data["trials"]
    )
    chosen = data["selection"]
    selection = Selection(
        winner=str(chosen["winner"]),
        ratio=float(chosen["ratio"]),
        low=float(chosen["low"]),
        high=float(chosen["high"]),
        rounds=int(chosen["rounds"]),
        memory_ratio=None if chosen["memory_ratio"] is None else float(chosen["memory_ratio"]),
        reason=str(chosen["reason"]),
        status=_one_of(chosen["status"], ("", *get_args(Status))),
        visible_gain=_number(chosen["visible_gain"]),
    )
    if selection.winner not in {trial.candidate for trial in trials}:
        raise ValueError(f"the winner {selection.winner!r} is none of the candidates")
    return Found(
        trials=trials,
        selection=selection,
        conditions=tuple(_conditions(each) for each in data["conditions"]),
        timings=tuple(_timings(each) for each in data["timings"]),
        timed_on=_timed_on(data["timed_on"]),
    )


def stage_of(name: object) -> Stage:
    """A stage by its name. Raises ValueError where there is none."""
    found: Stage = _one_of(name, get_args(Stage))
    return found


def _one_of(name: object, names: Sequence[str]) -> Any:
    """The text of a worker as one of the names that there are."""
    if name not in names:
        raise ValueError(f"{name!r} is none of {', '.join(names)}")
    return name


def _conditions(data: Mapping[str, Any]) -> Conditions:
    return Conditions(
        before=_state(data["before"]),
        after=_state(data["after"]),
        repeated=tuple(str(why) for why in data["repeated"]),
    )


def _state(data: Mapping[str, Any]) -> DeviceState:
    throttled = data["throttled"]
    return DeviceState(
        clock_mhz=_number(data["clock_mhz"]),
        temperature_c=_number(data["temperature_c"]),
        throttling=str(data["throttling"]),
        throttled=None if throttled is None else int(throttled),
    )


def _timings(data: Mapping[str, Any]) -> Timings:
    return Timings(
        candidate=str(data["candidate"]),
        cold_us=tuple(float(time_us) for time_us in data["cold_us"]),
        graph_us=tuple(float(time_us) for time_us in data["graph_us"]),
        host_us=_number(data["host_us"]),
        forward_us=_number(data["forward_us"]),
        backward_us=_number(data["backward_us"]),
        notes=tuple(str(note) for note in data["notes"]),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _timed_on(data: Mapping[str, Any] | None) -> TimedOn | None:
    if data is None:
        return None
    return TimedOn(
        block=str(data["block"]),
        path=str(data["path"]),
        calls=int(data["calls"]),
        why_alone=str(data["why_alone"]),
    )


def _config(data: Mapping[str, Any] | None) -> dict[str, int] | None:
    return None if data is None else {str(name): int(value) for name, value in data.items()}


def _outcome(data: Mapping[str, Any]) -> Outcome:
    if data["kind"] == "rejection":
        return Rejection(stage=stage_of(data["stage"]), reason=str(data["reason"]))
    if data["kind"] == "untimed":
        return Untimed(
            cause=_one_of(data["cause"], ("budget", "interpreter")),
            right=bool(data["right"]),
            reason=str(data["reason"]),
        )
    peak = data["peak_bytes"]
    return Measurement(
        times_us=tuple(float(time_us) for time_us in data["times_us"]),
        first_call_us=float(data["first_call_us"]),
        peak_bytes=None if peak is None else int(peak),
        parity=tuple(
            ParityFigure(
                tensor=str(each["tensor"]),
                point=int(each["point"]),
                error=float(each["error"]),
                limit=float(each["limit"]),
            )
            for each in data["parity"]
        ),
        deterministic=bool(data["deterministic"]),
        notes=tuple(str(note) for note in data["notes"]),
        left_race=str(data["left_race"]),
        graph_breaks=int(data["graph_breaks"]),
        recompilations=int(data["recompilations"]),
    )
