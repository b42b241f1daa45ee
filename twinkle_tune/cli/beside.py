"""Where the profile of a run goes that was stopped: never over one that says more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twinkle_tune.cli.options import partial_paths
from twinkle_tune.cli.say import tell

if TYPE_CHECKING:
    from twinkle_tune.profile.schema import Profile


def place_of(made: Profile, at: Path, path: Path, *, force: bool, interrupted: bool = False) -> tuple[Path, Path]:
    """Where a profile goes, and how that is told.

    One of a run that was done takes the place of what is there, and so does any with ``force``. Of a run that its
    budget stopped, one that says more stays, and of an interrupted run whatever is there. The profile then goes beside
    it, over the first of "p.partial.json", "p.partial-2.json", ... that does not say more either.

    Args:
        made: the profile.
        at, path: the place, and how the user calls it.
        force: whether anything may be replaced.
        interrupted: whether somebody ended the run.
    """
    if force or not at.is_file() or (made.complete and not interrupted):
        return at, path
    if not interrupted:
        from twinkle_tune.profile.fuller import finished

        there = _fuller(at, made)
        if there is None:
            return at, path
        tell(
            f"twinkle-tune: {path} stays as it was: {finished(there.contests)} of its {len(there.contests)} contests "
            f"are finished, of this run's {finished(made.contests)} of {len(made.contests)}; this one goes beside it "
            "(--force replaces it)"
        )
    beside = zip(partial_paths(at), partial_paths(path), strict=True)
    return next(pair for pair in beside if not pair[0].is_file() or _fuller(pair[0], made) is None)


def _fuller(path: Path, made: Profile) -> Profile | None:
    """The profile in a file, if it says more than another one; None for a file that is no profile."""
    from twinkle_tune.errors import ProfileError
    from twinkle_tune.profile.fuller import is_fuller
    from twinkle_tune.profile.io import load_profile

    try:
        there = load_profile(path)
    except ProfileError:
        return None
    return there if is_fuller(there, made) else None
