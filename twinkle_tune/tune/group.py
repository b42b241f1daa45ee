"""The processes of a job that tune together: each with the same contests, all with the same profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from twinkle_tune.capture.capture import Observation
from twinkle_tune.capture.step import Step
from twinkle_tune.environment import Environment
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.ranks import Ranks
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.peers import Peers, each_of, from_first, whole
from twinkle_tune.profile.json_text import profile_text
from twinkle_tune.profile.past import Question
from twinkle_tune.profile.schema import Profile
from twinkle_tune.source.digest import digest_text
from twinkle_tune.tune.run import Run


def tuned_by(group: object, find: Callable[[], Profile]) -> Profile:
    """The profile that all processes of a group come to; without a group (None) that of this one.

    Raises:
        BindError: it is no group, or this process is not in it.
        PeerError: another process met an error; of this one its own is raised.
        TuneError: they do different things, or choose differently.
    """
    if group is None:
        return find()
    ranks = Ranks.of(group)

    def found() -> Profile:
        mine = find()
        check_alike("the winners", _winners(mine))
        first = from_first("the profile", lambda: mine)
        check_alike("the profile", [digest_text(profile_text(first))])
        return first

    return whole(Peers(ranks.told, ranks.rank), found)[ranks.rank]


def check_group(*, executor: object, ways: bool) -> None:
    """Refuse what processes cannot do together.

    Raises:
        TuneError: contests elsewhere than in these processes, or ways of running the whole model.
    """
    if executor is not None:
        raise TuneError(
            f"executor: got {type(executor).__name__} with a group, expected None: the group's own processes hold its "
            "contests"
        )
    if ways:
        raise TuneError("ways: got True with a group, expected False: each process would compile by itself")


def processes_of_the_job() -> int:
    """How many processes torch.distributed has here; 1 where it does not run."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def check_alike(what: str, mine: Iterable[str]) -> None:
    """Refuse what is not the same in each process.

    Raises:
        TuneError: in all of them, with the first that is another on one than on rank 0.
    """
    first, *others = each_of(what, tuple(mine))
    for rank, other in enumerate(others, start=1):
        if other != first:
            told = next((each for each in other if each not in first), "") or "(not there)"
            expected = next((each for each in first if each not in other), "") or "(not there)"
            raise TuneError(
                f"{what}: got {told} on rank {rank} and {expected} on rank 0, expected the same on each; give each the "
                "same model, inputs, arguments, packages and kind of device"
            )


def run_told(run: Run, environment: Environment, steps: Sequence[Step], slots: Iterable[Occurrence]) -> Iterator[str]:
    """What a run is asked for, where, and of which model: a line for each thing."""
    yield from (f"{name} {value}" for name, value in sorted(run.terms.told.items()))
    yield f"seed {run.terms.seed}, budget_s {run.budget.seconds}, candidates {run.wanted}"
    yield from (f"{name} {value}" for name, value in sorted(environment.facts.items()))
    yield from (f"step {step.label}" for step in steps)
    yield from (f"{each.slot.name} at {', '.join(path for path, _ in each.instances)}" for each in slots)


def contests_told(questions: Iterable[Question], observations: Sequence[Observation]) -> Iterator[str]:
    """Contests, a line each: which slot is called how and where, and the code of who competes."""
    for asked, each in zip(questions, observations, strict=True):
        yield f"{each.slot.name} at {', '.join(each.instances)}, {asked.workload}: {dict(asked.candidates)}"


def _winners(profile: Profile) -> list[str]:
    """What a profile would bind, a line for each contest."""
    return [
        f"{c.selection.winner} for {c.slot.name} ({', '.join(c.instances)}) {c.workload.key}"
        for c in sorted(profile.contests, key=lambda c: (c.slot.name, c.workload.key, c.instances))
    ]
