"""A collection of profiles: a repo on the Hub with a list of them, by model, mode and machine. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from twinkle_tune.environment import Environment, changes
from twinkle_tune.errors import ProfileError
from twinkle_tune.mode import Mode
from twinkle_tune.objective import Objective
from twinkle_tune.profile.checked import from_json
from twinkle_tune.profile.schema import Profile

LIST = "profiles.json"
"""The file of a collection that lists its profiles."""
FORMAT = 1
_PATH = re.compile(r"profiles/[a-z0-9][a-z0-9.-]{0,99}/[a-z0-9][a-z0-9.-]{0,199}\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 10_000
_ADVICE = "expected a list that 'twinkle-tune push' has written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A profile of a collection.

    Attributes:
        path: of its file in the repo, a folder a device.
        sha256: of that file: 64 hexadecimal digits.
        bytes: its length.
        name: what the model was called by who profiled it, for people.
        target, parameters, dtype: which model it is of: its class, its number of parameters, and the dtype of most.
        mode, device, objective: how it was profiled.
        environment: where.
        created: when (UTC, ISO 8601).
        verdict: what the winners gain, in a sentence.
        winners: how many calls something other than the original won.
        gains: by step of the whole model, the time with the winners over the original's.
    """

    path: str
    sha256: str
    bytes: int
    name: str
    target: str
    parameters: int
    dtype: str
    mode: Mode
    device: str
    objective: Objective
    environment: Environment
    created: str
    verdict: str
    winners: int
    gains: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """The list of a collection's profiles, ordered by path."""

    format: int = FORMAT
    profiles: tuple[Listed, ...] = ()

    def with_profile(self, listed: Listed) -> Collection:
        """The list with one more; one of the same path is replaced."""
        others = [each for each in self.profiles if each.path != listed.path]
        return replace(self, profiles=tuple(sorted((*others, listed), key=lambda each: each.path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a profile is looked for: the model (its class, parameters and their dtype), the mode, and this machine."""

    target: str
    parameters: int
    dtype: str
    mode: Mode
    environment: Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The profile that fits best.

    ``differs`` says in what its machine is another ("torch: 2.12.0 then, 2.13.0 now"); empty where it is this one.
    """

    listed: Listed
    differs: tuple[str, ...]


def read_list(content: bytes, where: str) -> Collection:
    """The list of a collection, checked: strictly, and no path leads out of its folder.

    Raises:
        ProfileError: it is none, is of a newer format, or names what no list names.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ProfileError(f"{where}: not UTF-8 ({error}); {_ADVICE}") from error
    found = from_json(Collection, text, where, _ADVICE)
    if found.format != FORMAT:
        raise ProfileError(f"{where}: got format {found.format}, expected {FORMAT}; upgrade twinkle_tune")
    if len(found.profiles) > _MOST:
        raise ProfileError(
            f"{where}: got {len(found.profiles)} profiles, expected at most {_MOST}; split the collection"
        )
    for each in found.profiles:
        for name, value, form in (("path", each.path, _PATH), ("sha256", each.sha256, _DIGEST)):
            if not form.fullmatch(value) or ".." in value:
                raise ProfileError(f"{where}: got the {name} {value!r:.80}, expected {form.pattern}; {_ADVICE}")
        if each.bytes < 0 or each.parameters < 0:
            raise ProfileError(f"{where}: {each.path}: got a negative number; {_ADVICE}")
    return found


def listed(profile: Profile, content: bytes, path: str) -> Listed:
    """A profile as a collection lists it; ``content`` is its file, which will be at ``path``."""
    return Listed(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        name=profile.model.name,
        target=profile.model.target,
        parameters=profile.model.parameters,
        dtype=profile.model.dtype,
        mode=profile.mode,
        device=profile.device,
        objective=profile.objective,
        environment=profile.environment,
        created=profile.created,
        verdict=profile.verdict,
        winners=len(profile.winners),
        gains={step.label: step.ratio for step in profile.steps if not step.left_out},
    )


def path_of(profile: Profile) -> str:
    """Where a collection keeps a profile: by device, model and mode, and a digest of what it must not be mixed with.

    A later profile of the same model on the same machine takes its place.
    """
    facts = (profile.model.target, profile.model.parameters, profile.model.dtype, str(profile.aim))
    apart = hashlib.sha256(repr((*facts, profile.environment.fingerprint)).encode()).hexdigest()[:12]
    name = f"{_slug(profile.model.name)[:120]}-{_slug(profile.mode)}-{apart}.json"
    return f"profiles/{_slug(profile.environment.device_name)[:80]}/{name}"


def best(profiles: Iterable[Listed], wanted: Wanted) -> Match | str:
    """The profile that fits best, or why none does.

    It must be of the model, the mode and the device type that are wanted. Of these the one whose machine differs in the
    fewest facts is the nearest; of several, one by time, and then the newest.
    """
    left = list(profiles)
    where = (
        ("model class", lambda each: each.target, wanted.target),
        ("number of parameters", lambda each: each.parameters, wanted.parameters),
        ("dtype", lambda each: each.dtype, wanted.dtype),
        ("mode", lambda each: str(each.mode), str(wanted.mode)),
        ("device", lambda each: each.device, wanted.environment.device),
    )
    for what, value_of, value in where:
        fitting = [each for each in left if value_of(each) == value]
        if not fitting:
            there = sorted({str(value_of(each)) for each in left})
            shown = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
            return f"it has none of this {what} ({value}), only of {shown}" if there else "it has no profiles"
        left = fitting
    matches = [Match(listed=each, differs=tuple(changes(each.environment, wanted.environment))) for each in left]
    matches.sort(key=lambda match: match.listed.created, reverse=True)
    return min(matches, key=lambda match: (len(match.differs), match.listed.objective is not Objective.TIME))


def _slug(text: str) -> str:
    plain = re.sub(r"\((?:r|tm|c)\)", " ", text.lower())
    return re.sub(r"[^a-z0-9.]+", "-", re.sub(r"\.\.+", ".", plain)).strip("-.") or "unnamed"
