"""What a profile says of how it was made, taken as data: nothing that it names is run or imported."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from twinkle_tune.cli.profile import profile as profile_command
from twinkle_tune.errors import ModelError, RegistrationError

if TYPE_CHECKING:
    from twinkle_tune.profile.schema import Profile

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The model and the options of a profile's command line, as texts; None where not given."""

    model: str
    device: str | None = None
    dtype: str | None = None
    batch: str | None = None
    seq_len: str | None = None
    layers: str | None = None


def recorded_options(profile: Profile, model: str | None, *, registered: bool) -> Recorded:
    """How to make the model and inputs of a profile again.

    Args:
        profile: whose command line is read.
        model: what the user asked for; the profile's preset or Hub id if not given. A factory or a directory
            is never taken from a profile, for it is code of somebody's.
        registered: whether the user gave kernels to register; those that the profile names are not run.

    Raises:
        ModelError: no model was given, and the profile's is none that may be taken from it.
        RegistrationError: the profile was made with registered kernels, and the user gave none.
    """
    options = _options(profile.command)
    files = [str(file) for file in options.get("register") or ()]
    if files and not registered:
        named = " ".join(f"--register {shlex.quote(file)}" for file in files)
        raise RegistrationError(
            f"the profile was made with {named}, got none, expected the kernels from you: a profile is data and "
            f"runs no files; if you trust them, repeat with {named}"
        )
    found = Recorded(
        model=model or _named_model(options.get("model"), profile),
        **{name: options.get(name) for name in ("device", "dtype", "batch", "seq_len", "layers")},
    )
    # The device's number is of the machine on which the profile was made; its kind is checked by the profile.
    same = found.device is not None and found.device.partition(":")[0] == profile.device
    return found if same else replace(found, device=None)


def _named_model(named: object, profile: Profile) -> str:
    from twinkle_tune.models.presets import PRESETS

    name = str(named or profile.model.name)
    if name in PRESETS or _is_hub_id(name):
        return name
    raise ModelError(
        f"model: the profile is of {name!r}, which is neither a preset nor a Hub id, and code is not run because a "
        "profile names it; name the model: twinkle-tune verify PROFILE MODEL"
    )


def _is_hub_id(name: str) -> bool:
    from pathlib import Path

    owner, slash, rest = name.partition("/")
    plain = all(part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in (owner, rest))
    return bool(slash) and plain and not owner.startswith(".") and not Path(name).exists()


def _options(command: str) -> dict[str, Any]:
    """The parsed options of a "twinkle-tune profile …" line; empty where it is none."""
    try:
        words = shlex.split(command)
    except ValueError:
        return {}
    if words[:2] != ["twinkle-tune", "profile"]:
        return {}
    only = typer.Typer(add_completion=False)
    only.command()(profile_command)
    parser: Any = typer.main.get_command(only)
    try:
        # Parsed as the command line would; nothing is called.
        parsed: dict[str, Any] = parser.make_context("profile", words[2:]).params
    except (_UsageError, typer.Exit):  # of another version, or made by hand
        return {}
    return parsed
