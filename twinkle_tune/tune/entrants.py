"""Who competes in a contest."""

from __future__ import annotations

import re
from collections.abc import Sequence

from twinkle_tune.capture.capture import Observation
from twinkle_tune.errors import RegistrationError
from twinkle_tune.kernel.find import contestants
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode
from twinkle_tune.slot import ORIGINAL, Candidate
from twinkle_tune.terms import Terms
from twinkle_tune.words import did_you_mean


def only_wanted(entrants: Sequence[Candidate], wanted: Sequence[str] | None) -> tuple[Candidate, ...]:
    """The original, and of its rivals those with a wanted name, kind or name prefix; all of them for None."""
    return tuple(c for c in entrants if c.name == ORIGINAL or wanted is None or any(_is_wanted(c, w) for w in wanted))


def check_wanted(wanted: Sequence[str] | None, offered: Sequence[Candidate], device: str, mode: Mode) -> None:
    """Refuse a wanted name that none of those has who are offered to a model's slots.

    Raises:
        RegistrationError: with that name.
    """
    for name in wanted or ():
        if name != ORIGINAL and not any(_is_wanted(candidate, name) for candidate in offered):
            known = sorted({candidate.name for candidate in offered} - {ORIGINAL})
            # "FastNorm" is what its author calls "impl:FastNorm".
            short = {re.split(r"[:.]", each)[-1].lower(): each for each in known}
            hint = did_you_mean(name, known, short) or "; see the names with 'twinkle-tune list'"
            raise RegistrationError(
                f"candidates: got {name!r}, which no slot of this model has for device {device} in mode {mode}{hint}"
            )


def is_ours(observation: Observation, entrants: Sequence[Candidate], terms: Terms) -> bool:
    """Whether nobody competes for a slot but the original and the catalog's candidates."""
    known = {candidate.name for candidate in contestants(observation.occurrence, terms.device, terms.mode, Registry())}
    return all(candidate.name in known for candidate in entrants)


def _is_wanted(candidate: Candidate, wanted: str) -> bool:
    prefix = candidate.name.startswith((f"{wanted}.", f"{wanted}:"))
    return candidate.name == wanted or candidate.source.kind == wanted or prefix
