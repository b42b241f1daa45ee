"""What was seen of a model's calls, with shares that are those of before, or of another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from twinkle_tune.capture.capture import Capture, Observation
from twinkle_tune.errors import TuneError
from twinkle_tune.peers import from_first, peers
from twinkle_tune.profile.schema import StepResult
from twinkle_tune.profile.whole import Share, WholeAnswer

Bounds = Mapping[int, Mapping[str, float]]
"""Shares of steps by their labels, by the id of an observation."""


def answer_of(seen: Capture, bounds: Bounds) -> WholeAnswer:
    """What was seen, to be remembered or told."""
    return WholeAnswer(
        steps=tuple(StepResult(label=label, alone_us=times_us) for label, times_us in seen.alone_us),
        shares=tuple(_share(each, bounds[id(each)]) for each in seen.observations),
    )


def as_first(seen: Capture, bounds: Bounds) -> tuple[Capture, Bounds]:
    """The same with rank 0's shares, of several processes that tune together: by them contests are ordered and let go.

    Raises:
        TuneError: rank 0 saw other calls.
    """
    if peers() is None:
        return seen, bounds
    found = as_seen(seen, from_first("the shares", lambda: answer_of(seen, bounds)))
    if found is None:
        raise TuneError("the model's calls are others than on rank 0, or several are alike; expected the same on each")
    return found


def _share(observation: Observation, bound: Mapping[str, float]) -> Share:
    return Share(
        slot=observation.slot.name,
        workload=observation.workload.key,
        instances=observation.instances,
        seen=observation.seen,
        bounds=tuple(bound.items()),
    )


def as_seen(seen: Capture, known: WholeAnswer) -> tuple[Capture, Bounds] | None:
    """What is seen now with the shares of then; None where there are others."""
    then = {(share.slot, share.workload, share.instances): share for share in known.shares}
    places = [(o.slot.name, o.workload.key, o.instances) for o in seen.observations]
    if set(places) != then.keys() or len(places) != len(then):
        return None
    pairs = zip(seen.observations, (then[place] for place in places), strict=True)
    observations = [(replace(each, seen=share.seen), share) for each, share in pairs]
    alone = tuple((step.label, step.alone_us) for step in known.steps)
    again = replace(
        seen,
        observations=tuple(each for each, _ in observations),
        alone_us=alone,
        step_us=tuple((label, median(times_us)) for label, times_us in alone),
    )
    return again, {id(each): dict(share.bounds) for each, share in observations}
