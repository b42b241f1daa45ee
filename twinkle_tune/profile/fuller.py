"""Which of two profiles says more: a run that had less time must not replace one that had more. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from twinkle_tune.profile.schema import Contest, Profile


def finished(contests: Iterable[Contest]) -> int:
    """How many contests had all their time."""
    return sum(contest.is_whole for contest in contests)


def is_fuller(there: Profile, made: Profile) -> bool:
    """Whether ``there`` would be lost for less: ``made`` was stopped, and ``there`` was not, or did more.

    That is finished more contests, or, with as many, found more ways of running the model.

    Of another model, mode or device it is lost in any case.
    """
    if made.complete:
        return False
    return there.complete or _done(there) > _done(made) or _question(there) != _question(made)


def _done(profile: Profile) -> tuple[int, int]:
    return finished(profile.contests), len(profile.setups)


def _question(profile: Profile) -> tuple[str, ...]:
    return profile.model.target, str(profile.mode), profile.device, str(profile.aim)
