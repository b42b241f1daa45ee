"""Profiles that are given by name: a file, or a collection on the Hub and in it the one for this model and machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from torch import nn

from twinkle_tune.environment import current_environment
from twinkle_tune.errors import BindError, StaleProfileError, TuneError
from twinkle_tune.kernel.match import another_model
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.plan_profile import plan_profile
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.profile.collection import Match, Wanted, best
from twinkle_tune.profile.hub import PREFIX, Place, Shelf, fetch, open_shelf, parse_place
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Profile
from twinkle_tune.workload import target_of


def opened(profile: str | Path | Profile | None) -> Profile | Place | None:
    """A profile, or the collection on the Hub ("hub:owner/name") that it is to be looked for in.

    Raises:
        ProfileError: the file cannot be read, or the name is none.
    """
    if isinstance(profile, str) and profile.startswith(PREFIX):
        return parse_place(profile)
    return load_profile(profile) if isinstance(profile, (str, Path)) else profile


def plan_of(
    model: nn.Module | None, profile: Profile | Place, device: str, mode: Mode, registry: Registry
) -> tuple[Plan, str]:
    """The plan of a profile, and whose it is where it came from the Hub.

    Raises:
        BindError: there is no model.
    """
    if model is None:
        raise BindError("profile: got model=None, expected the model that was profiled; pass the model")
    whose = ""
    if isinstance(profile, Place):
        try:
            profile, whose = profile_from_hub(profile, model, mode, device)
        except TuneError as error:
            return Plan(stale=(str(error),)), ""
    plan = plan_profile(model, profile, device, mode, registry)
    if plan.is_empty and (why := another_model(model, profile)):
        plan = Plan(stale=(why,))
    return plan, whose


def profile_from_hub(place: Place, model: nn.Module, mode: Mode, device: str) -> tuple[Profile, str]:
    """The profile of a collection that is of this model and mode, and was made on a machine like this one.

    Returns:
        The profile, and whose it is: repo, publisher and commit.

    Raises:
        SourceError, ProfileError: the collection, or the profile, cannot be had or does not say what it must.
        StaleProfileError: none fits; the message says what the nearest was made with.
    """
    shelf, match = nearest(place, model, mode, device)
    if match.differs:
        raise StaleProfileError(
            f"{shelf}: its nearest profile of this model was made elsewhere ({'; '.join(match.differs)}), and its "
            "winners were not tried here; try them with 'twinkle-tune profile --from-hub'"
        )
    return fetch(shelf, match.listed), f"The profile is of {shelf}, published by {place.publisher}."


def nearest(place: Place, model: nn.Module, mode: Mode, device: str) -> tuple[Shelf, Match]:
    """The collection, and its profile of this model and mode whose machine is the nearest.

    Raises:
        SourceError, ProfileError: the collection cannot be had.
        StaleProfileError: it has none of this model and mode.
    """
    shelf = open_shelf(place)
    found = best(shelf.collection.profiles, wanted_of(model, mode, device))
    if isinstance(found, str):
        raise StaleProfileError(f"{shelf}: {found}; profile the model, and push the profile")
    return shelf, found


def wanted_of(model: nn.Module, mode: Mode, device: str) -> Wanted:
    """What a profile of this model is looked for by."""
    return Wanted(
        target=target_of(type(model)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=main_dtype(model),
        mode=mode,
        environment=current_environment(device),
    )


def main_dtype(model: nn.Module) -> str:
    """The dtype of most of a model's parameters ("bfloat16"); "" where it has none."""
    counts: Counter[str] = Counter()
    for parameter in model.parameters():
        counts[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return counts.most_common(1)[0][0] if counts else ""
