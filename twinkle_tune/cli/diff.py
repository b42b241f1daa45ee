"""``twinkle-tune diff``: what changed from one profile to another; exit code 1 where something got slower."""

from __future__ import annotations

import re
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinkle_tune.cli.say import say, show, show_json
from twinkle_tune.errors import ProfileError, TuneError

if TYPE_CHECKING:
    from twinkle_tune.profile.schema import Profile
    from twinkle_tune.report.review import FailOn, Review


class DiffFormat(StrEnum):
    """How a comparison is written."""

    TEXT = "text"
    MD = "md"
    JSON = "json"


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="The older profile.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The newer one, of the same model and mode.")],
    fail_on: Annotated[
        str, typer.Option("--fail-on", metavar="step,5%", help="What leads to exit code 1: step, lost, 5%, or several.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Also show what did not change.")] = False,
    format: Annotated[DiffFormat, typer.Option("--format", "-f", help="md is for a pull request.")] = DiffFormat.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Compare two profiles; exit code 1 if something got slower.

    The whole model comes first. A slot that lost its winner is listed and is no failure, unless --fail-on names
    "lost". With "step" only the whole model counts; "5%" tolerates up to 5% more time. Of profiles by
    memory, more memory counts, and more time than their objective allows. Nothing to compare is exit code 2.
    """
    from twinkle_tune.profile.io import load_profile
    from twinkle_tune.report.review import markdown, review

    accepted = parse_fail_on(fail_on)
    old, new = load_profile(before), load_profile(after)
    require_same(old, new)
    found = review(old, new, accepted, everything=everything)
    form = DiffFormat.JSON if as_json else format
    if form is DiffFormat.JSON:
        show_json(_data(found))
    elif form is DiffFormat.MD:
        show(markdown(found))
    else:
        print_review(found)
    if found.refused:
        raise typer.Exit(1)


def parse_fail_on(text: str) -> FailOn:
    """What ``--fail-on`` means: "step", "lost" and a percentage, separated by commas; "" for anything slower.

    Raises:
        TuneError: it is something else.
    """
    from twinkle_tune.report.review import FailOn

    words = [word.strip() for word in text.split(",")] if text.strip() else []
    shares = [float(word[:-1]) / 100 for word in words if re.fullmatch(r"\d+(?:\.\d+)?%", word)]
    if len(shares) > 1 or len(shares) + sum(word in ("step", "lost") for word in words) != len(words):
        raise TuneError(f"--fail-on: got {text!r}, expected step, lost, a percentage such as 5%, or several: step,5%")
    return FailOn(is_steps_only="step" in words, is_lost="lost" in words, share=shares[0] if shares else 0.0)


def require_same(old: Profile, new: Profile) -> None:
    """Two profiles of the same model, mode, dtype, device and objective.

    Raises:
        ProfileError: they are of different things.
    """
    of_old, of_new = ((p.model.name, str(p.mode), p.model.dtype, p.device, str(p.aim)) for p in (old, new))
    if of_old != of_new:
        raise ProfileError(
            f"diff: got profiles of {', '.join(of_old)} and of {', '.join(of_new)}, expected the same model, mode, "
            "dtype, device and objective; to see different ones side by side use 'twinkle-tune report' with both"
        )


def print_review(found: Review) -> None:
    """Print a comparison: what was measured differently, the whole model, then each kind of change."""
    from twinkle_tune.report.review import sentence

    if found.elsewhere:
        say(sentence(found))
    if found.steps:
        say("The whole model, against its original:")
    for line in found.steps:
        say(f"  {line}")
    for head, lines in found.groups:
        say(f"{head}:")
        for line in lines:
            say(f"  {line}")
    say(found.summary)


def _data(found: Review) -> dict[str, object]:
    return {
        "environment": found.elsewhere.split("; ") if found.elsewhere else [],
        "steps": list(found.steps),
        "changes": [asdict(change) for change in found.found],
        "worse": sum(change.kind == "regression" for change in found.found),
        "refused": len(found.refused),
    }
