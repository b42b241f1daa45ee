"""Profiles that are given by name: a file, or a collection on the Hub and in it the one for this model and machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from twinkle_tune.environment import changes, current_environment
from twinkle_tune.errors import BindError, ProfileError, StaleProfileError, TuneError, in_a_line
from twinkle_tune.kernel.elsewhere import try_here
from twinkle_tune.kernel.match import another_model
from twinkle_tune.kernel.plan import Kept, Plan
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
        ProfileError: the file cannot be read, the name is none, or it is neither.
    """
    if not (profile is None or isinstance(profile, (str, Path, Profile))):
        raise ProfileError(
            f"profile: got a {type(profile).__name__}, expected a path, 'hub:owner/name' or a Profile; "
            "tune_model(model, inputs) makes one"
        )
    if isinstance(profile, str) and profile.startswith(PREFIX):
        return parse_place(profile)
    return load_profile(profile) if isinstance(profile, (str, Path)) else profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A profile that was given, as it comes to a model.

    Attributes:
        plan: what of it is bound.
        whose: whose it is, where it came from the Hub; a sentence.
        told: that it was made elsewhere, and what came of its winners here; "" where they were not tried.
        lost: its winners that were not confirmed here.
    """

    plan: Plan
    whose: str = ""
    told: str = ""
    lost: tuple[Kept, ...] = ()


def given(
    model: nn.Module | None,
    profile: Profile | Place,
    device: str,
    mode: Mode,
    registry: Registry,
    inputs: object = None,
) -> Given:
    """What a profile comes to on a model: on a machine like its own without a contest, on another after trying it.

    Args:
        model: what is to be bound.
        profile: the profile, or the collection to look for one.
        device, mode: how the model is to run.
        registry: where candidates are found.
        inputs: example inputs to try the winners of another machine on; None where that is not wanted.

    Raises:
        BindError: there is no model.
    """
    if model is None:
        raise BindError("profile: got model=None, expected the model that was profiled; pass the model")
    name = whose = ""
    if isinstance(profile, Place):
        try:
            profile, shelf = profile_from_hub(profile, model, mode, device, is_tried=inputs is not None)
        except TuneError as error:
            return Given(plan=Plan(stale=(str(error),)))
        name, whose = str(shelf), f"The profile is of {shelf}, published by {shelf.place.publisher}."
    differs = changes(profile.environment, current_environment(device))
    if differs and inputs is not None and (profile.mode, profile.device) == (mode, device):
        called = f"{name or 'the profile'}, made elsewhere ({'; '.join(differs)})"
        return _tried(model, inputs, profile, called, whose, registry)
    return Given(plan=_plan(model, profile, device, mode, registry), whose=whose)


def _tried(model: nn.Module, inputs: object, there: Profile, called: str, whose: str, registry: Registry) -> Given:
    """What is left of a profile from elsewhere after its winners were tried here; whatever goes wrong, nothing."""
    if not there.winners and not there.setups:
        return Given(
            plan=Plan(), whose=whose, told=f"{called}: its originals won everywhere; nothing is tried or bound"
        )
    another = another_model(model, there)
    try:
        tried = try_here(model, inputs, there, called, registry)
    except Exception as error:  # of the user's model, a compiler, the disk: the original runs
        why = str(error) if isinstance(error, TuneError) else in_a_line(error, 300)
        return Given(plan=Plan(stale=(f"{called}: its winners could not be tried here: {another or why}",)))
    plan = _plan(model, tried.profile, there.device, there.mode, registry)
    if plan.is_empty and another:
        return Given(plan=Plan(stale=(f"{called}: {another}",)))
    return Given(plan=replace(plan, kept=(*plan.kept, *tried.lost)), whose=whose, told=tried.told, lost=tried.lost)


def _plan(model: nn.Module, profile: Profile, device: str, mode: Mode, registry: Registry) -> Plan:
    plan = plan_profile(model, profile, device, mode, registry)
    if plan.is_empty and (why := another_model(model, profile)):
        return Plan(stale=(why,))
    return plan


def profile_from_hub(
    place: Place, model: nn.Module, mode: Mode, device: str, *, is_tried: bool
) -> tuple[Profile, Shelf]:
    """The profile of a collection that is of this model and mode, and was made on a machine like this one.

    Args:
        place: the collection.
        model, mode, device: what it must be of.
        is_tried: whether one from another machine will do, since its winners are going to be tried here.

    Raises:
        SourceError, ProfileError: the collection, or the profile, cannot be had or does not say what it must.
        StaleProfileError: none fits; the message says what the nearest was made with.
    """
    shelf, match = nearest(place, model, mode, device)
    if match.differs and not is_tried:
        raise StaleProfileError(
            f"{shelf}: its nearest profile of this model was made elsewhere ({'; '.join(match.differs)}), and its "
            "winners were not tried here; pass example_inputs= to have them tried, or try them with "
            "'twinkle-tune profile --from-hub'"
        )
    return fetch(shelf, match.listed), shelf


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
