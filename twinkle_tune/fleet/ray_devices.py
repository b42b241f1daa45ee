"""The devices of a Ray cluster: each is a custom resource of Ray's, which one process at a time holds."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from twinkle_tune.device import torch_type
from twinkle_tune.environment import Environment, current_environment
from twinkle_tune.errors import TuneError
from twinkle_tune.fleet.place import Message, Parcel, Place, parcel_of
from twinkle_tune.fleet.spread import Ended, Happened, Joined, Lost, Spread, Told
from twinkle_tune.profile.schema import Contest
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.package import Unportable
from twinkle_tune.tune.process import WorkerError
from twinkle_tune.tune.shared import settings_to_send
from twinkle_tune.tune.task import Task
from twinkle_tune.tune.wire import result_of

PREFIX = "twinkle:"
"""How the name of a resource begins that is a device: ``twinkle:cuda:0:host``."""
LARGE_BYTES = 1 << 20
"""A parcel that is larger goes through Ray's store, where a device that is tried later finds it as well."""
_POLL_S = 0.5
_LOOK_S = 2.0
_ANSWERS_S = 5.0


class RayError(TuneError):
    """Ray is not installed, the cluster cannot be reached, or its devices are not declared as they must be."""


def import_ray() -> Any:
    """The package. Raises RayError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise RayError(
            f"ray is not installed ({error}), expected it for contests on several devices; pip install "
            "'twinkle_tune[ray]', or leave out --executor"
        ) from error


def connect(address: str | None, here: Mapping[str, float]) -> Any:
    """Ray, connected to a cluster, or to one of this machine alone that is started for this process.

    Args:
        address: host and port of a cluster of which this machine is a node; None for that of the environment variable
            RAY_ADDRESS, and where there is none for one of this machine.
        here: resources of this machine, where a cluster is started.

    Raises:
        RayError: Ray is not installed, or nobody answers at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        return ray
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None:
        # Not "auto": of a cluster that has ended Ray finds the address as well, and waits for it for minutes.
        with _own_signals():
            ray.init(address="local", resources=dict(here), include_dashboard=False, **quiet)
        return ray
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _ANSWERS_S).close()
        with _own_signals():
            ray.init(address=address, **quiet)
    except (OSError, ValueError) as error:
        raise RayError(
            f"no Ray cluster at {address!r} ({error}), expected HOST:PORT of one of which this machine is a node; "
            f"start it here with 'ray start --address={address}'"
        ) from error
    return ray


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """SIGTERM and SIGINT do afterwards what they did: Ray would let SIGTERM end the process, and nothing be kept."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


def address_of(named: str) -> str | None:
    """Host and port of what ``--executor`` says; None for "ray" alone.

    Raises:
        RayError: it says something else.
    """
    if named == "ray":
        return None
    host, _, port = named.removeprefix("ray://").rpartition(":")
    if not named.startswith("ray://") or not host or not port.isdigit():
        raise RayError(f"--executor: got {named!r}, expected 'ray', or 'ray://HOST:PORT' for a cluster that runs")
    return f"{host}:{port}"


def on_ray(address: str | None, device: str) -> Spread:
    """Contests on the devices of a cluster that are what this machine's device is.

    Args:
        address: as of :func:`connect`. Where a cluster is started it has this machine's devices.
        device: "cpu" or "cuda".
    """
    ray = connect(address, devices_of(device))
    return Spread(RayDevices(ray=ray, wanted=current_environment(device), limits=Limits()))


def devices_of(device: str) -> dict[str, float]:
    """The devices of this machine, "cpu" or "cuda", as resources of Ray."""
    count = torch.cuda.device_count() if torch_type(device) == "cuda" else 1
    return {f"{PREFIX}{device}:{number}:here": 1.0 for number in range(count)}


def devices_in(ray: Any, kind: str) -> dict[str, float]:
    """The devices of a type that a cluster has now, by the names of their resources.

    Raises:
        RayError: a name stands for several devices, on which contests would run at once.
    """
    found = {
        name: amount for name, amount in ray.cluster_resources().items() if device_of(name).partition(":")[0] == kind
    }
    for name, amount in found.items():
        if amount != 1:
            raise RayError(f"{name}: got {amount:g} of this resource, expected 1; give each device its own name")
    return found


def device_of(resource: str) -> str:
    """The device of a resource's name: "cuda:0" of "twinkle:cuda:0:host"; "" where it names none."""
    parts = resource.removeprefix(PREFIX).split(":") if resource.startswith(PREFIX) else []
    if len(parts) < 2 or not all(parts):
        return ""
    return f"{parts[0]}:{parts[1]}" if parts[1].isdigit() else parts[0]


@dataclass(slots=True)
class _Actor:
    """The process that holds a device, and what it is asked for now."""

    process: Any
    asked: Any
    index: int | None = None


@dataclass(slots=True)
class RayDevices:
    """The devices of one kind of a cluster, as :class:`twinkle_tune.fleet.spread.Devices`.

    Attributes:
        ray: connected.
        wanted: the environment that they must have.
        limits: of worker processes; None for contests in the process that holds the device.
    """

    ray: Any
    wanted: Environment
    limits: Limits | None = None
    _actors: dict[str, _Actor] = field(default_factory=dict)
    _others: dict[str, Environment] = field(default_factory=dict)
    _asked: dict[str, Task] = field(default_factory=dict)
    _sent: dict[int, tuple[Task, Any]] = field(default_factory=dict)
    _soon: list[Happened] = field(default_factory=list)
    _look_at_s: float = 0.0

    def begin(self, device: str, task: Task) -> None:
        """As of the protocol."""
        try:
            parcel = self._parcel(task)
        except (Unportable, OSError) as error:
            why = f"it cannot be sent to another machine ({error}); profile it without --executor"
            self._soon.append(Ended(device=device, contest=None, reason=why))
            return
        self._asked[device] = task
        actor = self._actors[device]
        actor.index = task.index
        actor.asked = actor.process.hold.options(num_returns="streaming").remote(parcel)

    def wait(self) -> list[Happened]:
        """As of the protocol."""
        if time.monotonic() >= self._look_at_s:
            self._look()
            self._look_at_s = time.monotonic() + _LOOK_S
        soon, self._soon = self._soon, []
        if soon:
            return soon
        asked = {actor.asked: name for name, actor in self._actors.items() if actor.asked is not None}
        if not asked:
            time.sleep(_POLL_S)
            return []
        ready, _ = self.ray.wait(list(asked), num_returns=1, timeout=_POLL_S)
        return [found for each in ready if (found := self._heard(asked[each])) is not None]

    def stop(self) -> None:
        """As of the protocol: the processes that hold devices end, and let go of them."""
        for name in list(self._actors):
            self._end(name)
        self._sent.clear()
        self._soon.clear()
        self._look_at_s = 0.0

    def why_none(self, kind: str) -> str:
        """As of the protocol."""
        there = [name for name in devices_in(self.ray, self.wanted.device) if name not in self._others]
        busy = f"in use by another run or not answering: {', '.join(there)}" if there else ""
        other = "; ".join(f"{name}: {differs(env, self.wanted)}" for name, env in self._others.items())
        none = f"no resource of the cluster is named '{PREFIX}{self.wanted.device}:...'"
        return "; ".join(filter(None, (busy, other))) or none

    def _parcel(self, task: Task) -> Any:
        """What is sent: the same for each device on which the same race is begun."""
        sent = self._sent.get(task.index)
        if sent is None or sent[0] is not task:
            parcel: Parcel = parcel_of(task)
            sent = task, self.ray.put(parcel) if len(parcel.data) > LARGE_BYTES else parcel
            self._sent[task.index] = sent
        return sent[1]

    def _look(self) -> None:
        """Ask devices that are new what they are, and forget those that are gone."""
        there = devices_in(self.ray, self.wanted.device)
        for name in [name for name in self._others if name not in there]:
            del self._others[name]
        for name in there:
            if name not in self._actors and name not in self._others:
                process = (
                    self.ray.remote(Place)
                    .options(resources={name: 1}, num_cpus=0, max_restarts=0)
                    .remote(device_of(name), settings_to_send(), self.limits)
                )
                self._actors[name] = _Actor(process, process.environment.remote())
        for name in [name for name, actor in self._actors.items() if name not in there and actor.index is None]:
            self._end(name)
            self._soon.append(Lost(device=name, reason="its node left the cluster"))

    def _heard(self, name: str) -> Happened | None:
        actor = self._actors[name]
        try:
            if actor.index is None:
                return self._joined(name, self.ray.get(actor.asked))
            message: Message = self.ray.get(next(actor.asked))
        except (self.ray.exceptions.RayError, StopIteration) as error:
            self._end(name)
            return Lost(device=name, reason=lost_in_words(error))
        return self._said(name, actor, message)

    def _joined(self, name: str, environment: Environment) -> Happened | None:
        self._actors[name].asked = None
        if environment.fingerprint != self.wanted.fingerprint:
            self._end(name)
            self._others[name] = environment
            return None
        return Joined(device=name, kind=environment.fingerprint)

    def _said(self, name: str, actor: _Actor, message: Message) -> Happened:
        kind, what = message
        if kind == "event":
            return Told(device=name, event=what)
        if kind == "other":
            self._end(name)
            return Lost(device=name, reason=str(what))
        task = self._asked.pop(name)
        actor.asked = actor.index = None
        self._sent.pop(task.index, None)
        if kind == "error":
            raise WorkerError(f"{name}: {what}")
        if kind == "undecided":
            return Ended(device=name, contest=None, reason=str(what))
        if kind == "unportable":
            why = f"it cannot be held on {name} ({what}); profile it without --executor"
            return Ended(device=name, contest=None, reason=why)
        contest: Contest = task.observation.contest(result_of(what))
        return Ended(device=name, contest=contest)

    def _end(self, name: str) -> None:
        actor = self._actors.pop(name)
        self._asked.pop(name, None)
        with contextlib.suppress(Exception):  # it may be gone already, with its node
            self.ray.kill(actor.process)


def differs(there: Environment, here: Environment) -> str:
    """In what a device is another than this machine's."""
    facts, own = there.facts, here.facts
    return ", ".join(
        f"{name} {facts.get(name)} there, {own[name]} here" for name in own if facts.get(name) != own[name]
    )


def lost_in_words(error: BaseException) -> str:
    """Why a device's process is lost."""
    kind = type(error).__name__
    match kind:
        case "ActorDiedError" | "ActorUnavailableError" | "NodeDiedError" | "WorkerCrashedError":
            return "its process or its machine ended"
        case "StopIteration":
            return "its process ended without an answer"
    return f"{kind}: {(str(error).strip().splitlines() or [''])[-1]:.160}"
