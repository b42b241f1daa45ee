"""Whether a profile is of a model at all: whose profile it is, told in one line."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from twinkle_tune.kernel.plan import Kept
from twinkle_tune.profile.schema import Profile
from twinkle_tune.workload import target_of

NOTHING_TO_BIND = (
    "nothing is registered that this model could take, and there is no profile: nothing is bound; "
    "profile the model (tune_model) and pass profile=, or register a kernel for one of its layers"
)


def nothing_to_bind(kept: Iterable[Kept]) -> str:
    """What is said where nothing is registered that a model could take: with what the mapping of ``kernels`` has."""
    why = [f"{each.slot}: {each.reason}" for each in kept]
    return NOTHING_TO_BIND + (f" ({'; '.join(why)})" if why else "")


def another_model(model: nn.Module, profile: Profile) -> str:
    """Why nothing of a profile fits a model: that it is another model's; "" where the model's class was profiled.

    A model inside a wrapper is the one that was profiled, and so is one of a class that was made from it.
    """
    classes = {target_of(cls) for module in model.modules() for cls in type(module).__mro__}
    facts = profile.model
    if facts.target in classes:
        return ""
    profiled, own = facts.target.rpartition(":")[2], type(model).__qualname__
    named = "" if facts.name == profiled else f" ({facts.name})"
    if profiled == own:
        profiled, own = facts.target, target_of(type(model))
    return (
        f"this profile is of {profiled}{named}, your model is {own}: nothing matched; "
        "profile this model, or pass its own profile"
    )
