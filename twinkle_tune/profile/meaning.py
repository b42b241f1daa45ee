"""What a profile must mean beyond the types of its fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime

import torch

from twinkle_tune.device import DEVICES
from twinkle_tune.errors import ProfileError
from twinkle_tune.objective import Objective
from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.profile.setup import CompiledStep
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.workload import TensorSpec

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LEAST, _MOST = 1e-30, 1e30
"""What no clock gives: beyond these a quotient of two figures may overflow."""
_MOST_CALLS = 2**53
"""Sums of them still are numbers of 64 bits."""
_PARAMETER = re.compile(r"[a-z][a-z0-9_]*")


def check_meaning(profile: Profile, where: str) -> None:
    """Refuse a profile whose fields contradict each other.

    Raises:
        ProfileError: with the first contradiction; ``where`` names the profile.
    """
    for problem in _problems(profile):
        raise ProfileError(f"{where}: {problem}; restore it or profile the model again")


def check_contest(contest: Contest, where: str) -> None:
    """Refuse a contest whose fields contradict each other.

    Raises:
        ProfileError: as :func:`check_meaning`.
    """
    for problem in _contest_problems(contest):
        raise ProfileError(f"{where}: contest of {contest.slot.name}: {problem}")


def check_whole(
    steps: Sequence[StepResult], compiled: Sequence[CompiledStep], contests: Sequence[Contest], where: str
) -> None:
    """Refuse figures of the whole model that contradict themselves.

    Raises:
        ProfileError: as :func:`check_meaning`.
    """
    for problem in (*(each for step in steps for each in _step_problems(step)), *_compiled_problems(compiled)):
        raise ProfileError(f"{where}: {problem}")
    for contest in contests:
        check_contest(contest, where)


def _problems(profile: Profile) -> Iterator[str]:
    if profile.device not in DEVICES:
        yield f"device: got {profile.device!r}, expected one of {', '.join(DEVICES)}"
    if profile.device != profile.environment.device:
        yield f"device: got {profile.device!r}, expected the environment's, {profile.environment.device!r}"
    if (profile.slowdown is None) == (profile.objective is Objective.BALANCED) or profile.aim.most < 1:
        got = f"{profile.slowdown} with the objective {profile.objective}"
        yield f"slowdown: got {got}, expected a number of at least 1 for balanced, none for others"
    for name in ("took_s", "budget_s", "needs_s") if profile.run is not None else ():
        seconds = getattr(profile.run, name)
        if seconds is not None and not 0 <= seconds < math.inf:
            yield f"run: got {name} {seconds}, expected seconds"
    if profile.run is not None and profile.run.calls is not None and profile.run.calls < 1:
        yield f"run: got {profile.run.calls} calls, expected at least 1, or null for no limit"
    yield from _count_problems(profile)
    for step in profile.steps:
        yield from _step_problems(step)
    yield from _compiled_problems(profile.compiled)
    for index, contest in enumerate(profile.contests):
        for problem in _contest_problems(contest):
            yield f"contest {index} of {contest.slot.name}: {problem}"


def _compiled_problems(compiled: Sequence[CompiledStep]) -> Iterator[str]:
    known: set[tuple[str, str]] = set()
    for step in compiled:
        if not step.way or (step.label, step.way) in known:
            yield f"compiled step {step.label}: got the way {step.way!r}, expected each by its name once"
        known.add((step.label, step.way))
        if not all(map(_is_time, (*step.original_us, *step.compiled_us))) or step.compile_s < 0:
            yield f"compiled step {step.label}: got a time that is not positive"
        if not _is_interval(step.low, step.ratio, step.high):
            yield f"compiled step {step.label}: got ratio {step.ratio}, expected low <= ratio <= high"
        if min(step.original_peak_bytes or 0, step.compiled_peak_bytes or 0) < 0:
            yield f"compiled step {step.label}: got a negative peak of memory"


def _step_problems(step: StepResult) -> Iterator[str]:
    if len(step.original_us) != len(step.tuned_us):
        yield f"step {step.label}: got {len(step.original_us)} and {len(step.tuned_us)} times, expected pairs"
    if not all(_is_time(t) for t in (*step.original_us, *step.tuned_us, *step.alone_us)):
        yield f"step {step.label}: got a time that is not positive"
    if not _is_interval(step.low, step.ratio, step.high):
        yield f"step {step.label}: got ratio {step.ratio} in {step.low} to {step.high}, expected low <= ratio <= high"
    if min(step.original_peak_bytes or 0, step.tuned_peak_bytes or 0) < 0:
        yield f"step {step.label}: got a negative peak of memory"


def _contest_problems(contest: Contest) -> Iterator[str]:
    names = [trial.candidate for trial in contest.trials]
    if len(set(names)) != len(names):
        yield f"got two trials of one name in {', '.join(names)}, expected each once"
    if names and ORIGINAL not in names:
        yield f"got trials of {', '.join(names) or 'nobody'}, expected the original among them"
    for trial in contest.confirmation:
        if trial.candidate not in names:
            yield f"got a second trial of {trial.candidate!r}, expected one of its trials ({', '.join(names)})"
    for trial in (*contest.trials, *contest.confirmation):
        if isinstance(trial.outcome, Measurement):
            yield from _measurement_problems(trial.candidate, trial.outcome)
        if trial.commit and not _COMMIT.fullmatch(trial.commit):
            yield f"trial of {trial.candidate}: got the commit {trial.commit!r:.60}, expected 40 hexadecimal digits"
        if trial.config is not None and not (trial.config and all(map(_PARAMETER.fullmatch, trial.config))):
            yield f"trial of {trial.candidate}: got the config {dict(trial.config)!r:.80}, expected names and values"
    for timings in contest.timings:
        known = [us for us in (timings.host_us, timings.forward_us) if us is not None]
        if not all(map(_is_time, (*timings.cold_us, *timings.graph_us, *known))) or (timings.backward_us or 0) < 0:
            yield f"further times of {timings.candidate}: got one that is not positive, expected positive times"
        if timings.candidate not in names:
            yield f"got further times of {timings.candidate!r}, expected one of its trials ({', '.join(names)})"
    if contest.timed_on is not None and contest.timed_on.calls < 1:
        yield f"got {contest.timed_on.calls} calls of the slot in a timed call, expected at least 1"
    chosen = contest.selection
    if chosen.winner not in names and (names or chosen.winner != ORIGINAL):
        yield f"got the winner {chosen.winner!r}, expected one of its trials ({', '.join(names)})"
    elif chosen.winner != ORIGINAL and not isinstance(contest.trial(chosen.winner).outcome, Measurement):
        yield f"got the winner {chosen.winner!r}, which was {contest.trial(chosen.winner).outcome.kind}"
    if chosen.status and (chosen.status == "won") != (chosen.winner != ORIGINAL):
        yield f"got the status {chosen.status!r} with the winner {chosen.winner!r}, expected 'won' for a kernel alone"
    if chosen.visible_gain is not None and not 0 < chosen.visible_gain < 1:
        yield f"got a visible gain of {chosen.visible_gain}, expected a share between 0 and 1"
    if chosen.most_saved is not None and not 0 <= chosen.most_saved <= 1:
        yield f"got {chosen.most_saved} of a step that could be saved at most, expected a share from 0 to 1"
    if chosen.rounds < 0:
        yield f"got {chosen.rounds} rounds, expected none below 0"
    if not _is_interval(chosen.low, chosen.ratio, chosen.high):
        yield f"got ratio {chosen.ratio} in {chosen.low} to {chosen.high}, expected low <= ratio <= high"
    if chosen.memory_ratio is not None and not 0 <= chosen.memory_ratio < _MOST:
        yield f"got a memory ratio of {chosen.memory_ratio}, expected none below 0"
    shares = [share for seen in contest.seen for share in (seen.share, seen.in_model) if share is not None]
    if not all(0 <= share <= 1 for share in shares) or not all(0 <= seen.calls <= _MOST_CALLS for seen in contest.seen):
        yield "got a share outside 0 to 1, or a number of calls below 0 or beyond 2^53"
    for spec in contest.workload.tensors:
        yield from _tensor_problems(spec)


def _measurement_problems(name: str, found: Measurement) -> Iterator[str]:
    times_us = found.times_us
    if not times_us or not all(_LEAST < time_us < _MOST for time_us in times_us):
        yield f"trial of {name}: got no times, or one that is not positive, expected positive times"
    if found.graph_breaks < 0 or found.recompilations < 0:
        yield f"trial of {name}: got a negative count of graph breaks or recompilations"
    for figure in found.parity:
        if not (0 <= figure.error < 1e50 and 0 <= figure.limit < 1e50) or 0 < figure.limit < 1e-250:
            yield f"trial of {name}: got the error {figure.error} at a limit of {figure.limit}"
    if (found.peak_bytes or 0) < 0:
        yield f"trial of {name}: got a negative peak of memory"
    if not _is_time(found.first_call_us):
        yield f"trial of {name}: got a first call of {found.first_call_us} us, expected a time"


def _tensor_problems(spec: TensorSpec) -> Iterator[str]:
    if not isinstance(getattr(torch, spec.dtype, None), torch.dtype):
        yield f"got a tensor of dtype {spec.dtype!r}, expected the name of a torch.dtype"
    if len(spec.shape) != len(spec.stride) or any(size < 0 for size in spec.shape):
        yield f"got the shape {list(spec.shape)} and stride {list(spec.stride)}, expected as many sizes, none negative"


def _is_time(value: float) -> bool:
    return _LEAST < value < _MOST


def _is_interval(low: float, ratio: float, high: float) -> bool:
    return _LEAST < low <= ratio <= high < _MOST


def _count_problems(profile: Profile) -> Iterator[str]:
    made, environment = profile.model, profile.environment
    counts = {
        "model.parameters": made.parameters,
        "environment.memory_bytes": environment.memory_bytes,
        "environment.threads": environment.threads,
        "environment.processors": environment.processors,
        "environment.load": environment.load,
    }
    for name, count in counts.items():
        if count < 0:
            yield f"{name}: got {count}, expected none below 0"
    try:
        datetime.fromisoformat(profile.created)
    except ValueError:
        yield f"created: got {profile.created!r:.60}, expected a time as ISO 8601 has it"
