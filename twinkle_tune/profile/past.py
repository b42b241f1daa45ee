"""Contests that were run before: what decides whether an outcome still answers the question."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from twinkle_tune.cause import OF_MEMORY, Cause
from twinkle_tune.errors import ProfileError
from twinkle_tune.outcome import Measurement, Outcome, Rejection
from twinkle_tune.profile.checked import from_data
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.profile.meaning import check_contest
from twinkle_tune.profile.schema import Contest
from twinkle_tune.profile.strict import json_value
from twinkle_tune.profile.upgrade import upgraded
from twinkle_tune.terms import Terms
from twinkle_tune.workload import digest_of

_LASTING = ("signature", "capability", "parity")
"""Stages whose rejections say something of the candidate, not of the moment (no compiler, no memory, no network)."""
_OF_THE_MOMENT: tuple[Cause, ...] = ("raised", *OF_MEMORY, "no room", "crashed", "timeout")
"""Causes for which a candidate was refused while it was judged, and not by the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything that the outcome of a contest depends on.

    Attributes:
        slot, workload: the slot's name and the key of the call.
        terms: of the run, less its seed.
        environment: the fingerprint of the machine and its libraries.
        candidates: name and digest of each that competes, the original among them; "" where there is no digest.
        tool: name and version of this package: the rules of checking and timing are part of it.
        block: digest of the part of the model that is timed with each candidate in it; "" for the slot alone.
    """

    slot: str
    workload: str
    terms: Terms
    environment: str
    candidates: tuple[tuple[str, str], ...]
    tool: str
    block: str = ""

    @property
    def told(self) -> dict[str, Any]:
        """The question as plain data, for files: the terms beside the rest."""
        told = asdict(self) | self.terms.told
        del told["terms"]
        return told

    @property
    def key(self) -> str:
        """16 hexadecimal digits, equal where an outcome of one is an outcome of the other."""
        told = self.told | {"candidates": sorted(self.candidates)}
        # What does not apply is left out: those questions have the keys that they had before it was asked.
        return digest_of({name: value for name, value in told.items() if value not in ("", None)})


def is_lasting(contest: Contest) -> bool:
    """Whether a contest's outcome may be used in another run.

    Not where a candidate's code could not be had, or it could not be loaded, called or timed, or ended or held up
    the process that judged it: what was missing then may be there the next time. Nor where the search for its config
    was cut short.
    """
    return bool(contest.trials) and all(
        trial.digest and _lasts(trial.outcome) and not trial.config_cut_short for trial in contest.trials
    )


def _lasts(outcome: Outcome) -> bool:
    if not isinstance(outcome, Rejection):
        return isinstance(outcome, Measurement)
    return outcome.stage in _LASTING and outcome.cause not in _OF_THE_MOMENT


def contest_text(contest: Contest) -> str:
    """A contest as one line of JSON.

    Raises:
        ValueError: it holds a number or text that JSON lacks.
    """
    return json.dumps(to_data(contest), allow_nan=False)


def contest_from_text(text: str, where: str, advice: str) -> Contest:
    """Read and check a contest; ``where`` names it in messages, ``advice`` ends them.

    Raises:
        ProfileError: it is no JSON, or does not say what a contest must.
    """
    try:
        data = json_value(text)
    except ValueError as error:
        raise ProfileError(f"{where}: not valid JSON ({error}), expected a contest; {advice}") from error
    return contest_from_data(data, where, advice)


def contest_from_data(data: object, where: str, advice: str) -> Contest:
    """As :func:`contest_from_text`, of parsed JSON.

    Raises:
        ProfileError: as there.
    """
    contest = from_data(Contest, data, where, advice)
    check_contest(contest, where)
    assert isinstance(data, dict)  # or it had been refused
    is_older = any("config_cut_short" not in trial for trial in data["trials"])  # in a store from before schema 2
    return upgraded(contest) if is_older else contest
