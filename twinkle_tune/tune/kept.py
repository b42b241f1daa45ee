"""The profiles of whole models that are kept for later scripts: where, by what, and that a damaged one is in no way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from torch import nn

from twinkle_tune.environment import current_environment
from twinkle_tune.errors import ProfileError, in_a_line
from twinkle_tune.kernel.setups import digest_of_model
from twinkle_tune.mode import Mode
from twinkle_tune.profile.folders import make_private, usable_folder
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Profile
from twinkle_tune.version import TOOL
from twinkle_tune.workload import digest_of

Tell = Callable[[str], None]


def place_of(model: nn.Module, mode: Mode, device: str, tell: Tell, autocast: str = "") -> Path:
    """Where the profile of a model is kept: by its class, settings, layers and size, the machine, the mode, autocast.

    Args:
        model: as it stands now.
        mode, device: how and where it runs.
        tell: is given a line where the cache folder cannot be used, and another one is.
        autocast: the dtype that autocast casts to inside of it; "" for off.

    Raises:
        TuneError: no folder can be used at all.
    """
    asked = {"model": digest_of_model(model), "mode": str(mode), "tool": TOOL}
    asked["environment"] = current_environment(device).fingerprint
    if autocast:
        asked["autocast"] = autocast
    return usable_folder(tell) / "models" / f"{digest_of(asked)}.json"


def stored(path: Path, tell: Tell) -> Profile | None:
    """The profile that is kept there; None where there is none, or what is there is no profile (any more), and removed.

    Raises:
        ProfileError: the disk does not give it.
    """
    try:
        return load_profile(path) if path.exists() else None
    except ProfileError as error:
        if isinstance(error.__cause__, OSError):
            raise
        tell(f"the model is tuned anew ({in_a_line(error, 300)})")
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def may_find_more(profile: Profile, budget_s: float | None) -> bool:
    """Whether a run of so many seconds (None for no limit) may find more than a profile that was not finished has."""
    had_s = None if profile.run is None else profile.run.budget_s
    return not profile.complete and had_s is not None and (budget_s is None or budget_s > had_s)


def keep(profile: Profile, path: Path, tell: Tell) -> None:
    """Keep it there; where that fails a line says so."""
    try:
        make_private(path.parent)
        profile.save(path)
    except Exception as error:  # it can be applied all the same
        tell(f"the profile is not kept ({in_a_line(error, 200)})")
