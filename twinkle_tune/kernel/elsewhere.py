"""A profile that was made on another machine: its winners are tried here before they are bound."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from twinkle_tune.kernel.plan import Kept
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.offered import offered
from twinkle_tune.profile.schema import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of the winners of another machine.

    Attributes:
        profile: of this machine, with those that were right and better here.
        told: whose they were, how many were tried, and how many confirmed.
        lost: the others, and why each keeps its original.
    """

    profile: Profile
    told: str
    lost: tuple[Kept, ...]


def try_here(model: nn.Module, example_inputs: object, there: Profile, whose: str, registry: Registry) -> Tried:
    """Try the winners of a profile that was made elsewhere on a model's own calls; the model has its originals then.

    This room holds no contests: who does is of a later one (:mod:`twinkle_tune.tune.tried`).

    Args:
        model: on the profile's device.
        example_inputs: as of :func:`twinkle_tune.tune_model`.
        there: the profile.
        whose: how it is called ("friends/profiles at commit 0123456789ab").
        registry: where candidates are found.
    """
    made: Tried = offered("tried")(model, example_inputs, there, whose, registry)
    return made
