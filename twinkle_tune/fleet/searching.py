"""One search on many devices: a worker on each, all of which share a study."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from twinkle_tune.environment import Environment, current_environment
from twinkle_tune.errors import TuneError
from twinkle_tune.fleet.ray_devices import (
    PREFIX,
    RayError,
    connect,
    device_of,
    devices_in,
    devices_of,
    differs,
    lost_in_words,
)
from twinkle_tune.measure.clock import clock_for
from twinkle_tune.ops.all import op_named
from twinkle_tune.ops.op import OpCall
from twinkle_tune.ops.space import Config
from twinkle_tune.search.record import SearchResult, SearchSettings, SharedStudy
from twinkle_tune.search.tuning import tuned
from twinkle_tune.tune.shared import set_settings, settings_to_send

_ANSWERS_S = 60.0
"""So long a device may take to say what it is: one that another run uses does not."""

Results = dict[str, SearchResult]
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched, as it travels.

    Attributes:
        op, dims, dtype, variant: the call, the dtype as torch names it ("bfloat16").
        trains: whether the backward is searched, too.
        settings: of each side's search; the budget is that of all workers.
        known: configs worth a try.
        study: where the workers share it: a file that all of them see, or the URL of a server.
    """

    op: str
    dims: Mapping[str, int]
    dtype: str
    variant: str
    trains: bool
    settings: SearchSettings
    known: tuple[Config, ...]
    study: str


class Searcher:
    """A worker, in a process of its own on the machine of its device."""

    def __init__(self, device: str, settings: Mapping[str, object]) -> None:
        """Take possession of the device: "cuda:1"; ``settings`` are those of the process of the run."""
        kind, _, number = device.partition(":")
        if number and kind != "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = number
        self._device = kind
        set_settings(dict(settings))

    def environment(self) -> Environment:
        """What the device is."""
        return current_environment(self._device)

    def process(self) -> int:
        """This process's id."""
        return os.getpid()

    def search(self, asked: Search, worker: str, workers: int) -> Results:
        """Do this worker's share, and race the fastest of all by itself."""
        return tuned(
            OpCall(
                op=op_named(asked.op),
                dims=dict(asked.dims),
                dtype=getattr(torch, asked.dtype),
                variant=asked.variant,
            ),
            "cuda:0" if self._device == "cuda" else self._device,
            clock_for(self._device),
            asked.settings,
            trains=asked.trains,
            known=asked.known,
            journal=SharedStudy(place=asked.study, worker=worker, workers=workers),
        )


def searched(address: str | None, device: str, asked: Search, say: Say) -> Results:
    """Search on all devices of a cluster that are what this machine's device is; each tries its share of the budget.

    A worker that is lost has its config tried by another one, and its share taken over; what came to an end stays.

    Args:
        address: as of :func:`twinkle_tune.fleet.ray_devices.connect`.
        device: "cuda".
        asked: the search.
        say: is given a line where a worker begins, is lost or is done.

    Returns:
        Of the worker that was done first, by side: all of them go on with its winner.

    Raises:
        RayError: Ray is not installed or not reached, no device fits, or all workers were lost.
        TuneError: as a worker raised it.
    """
    ray = connect(address, devices_of(device))
    workers = _workers(ray, device)
    try:
        asks = {actor.search.remote(asked, name, len(workers)): name for name, actor in workers.items()}
        for name in workers:
            say(f"{name}: searches, one of {len(workers)}")
        return _first(ray, asks, say)
    finally:
        for actor in workers.values():
            ray.kill(actor)


def _first(ray: Any, asks: dict[Any, str], say: Say) -> Results:
    """What the first worker that is done has found. The others are given the time to end."""
    first: Results | None = None
    why = ""
    while asks:
        (ready, *_), _ = ray.wait(list(asks), num_returns=1)
        name = asks.pop(ready)
        try:
            found: Results = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TuneError):
                raise error.cause from error
            why = f"{name}: {lost_in_words(error)}"
            say(f"lost {why}")
        except ray.exceptions.RayError as error:
            why = f"{name}: {lost_in_words(error)}"
            say(f"lost {why}")
        else:
            say(f"{name}: done")
            first = found if first is None else first
    if first is None:
        raise RayError(f"all workers of the search were lost, at last {why}; repeat the command, which goes on")
    return first


def _workers(ray: Any, device: str) -> dict[str, Any]:
    """A worker on each device that is what this machine's is, by the names of their resources."""
    wanted = current_environment(device)
    there = devices_in(ray, wanted.device)
    made = {
        name: ray.remote(Searcher)
        .options(resources={name: 1}, num_cpus=0, max_restarts=0)
        .remote(device_of(name), settings_to_send())
        for name in there
    }
    asked = {actor.environment.remote(): name for name, actor in made.items()}
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWERS_S) if asked else ([], [])
    fits, others = {}, []
    for each in ready:
        name = asked.pop(each)
        try:
            environment: Environment = ray.get(each)
        except ray.exceptions.RayError as error:
            others.append(f"{name}: {lost_in_words(error)}")
            continue
        if environment.fingerprint == wanted.fingerprint:
            fits[name] = made[name]
        else:
            others.append(f"{name}: {differs(environment, wanted)}")
    others += [f"{name}: in use by another run or not answering" for name in asked.values()]
    for name, actor in made.items():
        if name not in fits:
            ray.kill(actor)
    if not fits:
        none = f"no resource of the cluster is named '{PREFIX}{wanted.device}:...'"
        raise RayError(
            f"no device for the search ({'; '.join(others) or none}), expected one that is what this machine's is"
        )
    return fits
