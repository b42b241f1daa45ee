"""``twinkle-tune diff``: what changed from one profile to another; exit code 1 where something got slower."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="The older profile.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The newer profile, of the same model and mode.")],
    everything: Annotated[bool, typer.Option("--all", help="Show what did not change, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON, and nothing else.")] = False,
) -> None:
    """Compare two profiles; exit with 1 where a step or a slot is slower beyond its intervals.

    Profiles by memory: where one takes more memory, or is slower than their objective allows.
    """
    from twinkle_tune.environment import changes as environment_changes
    from twinkle_tune.errors import ProfileError
    from twinkle_tune.profile.io import load_profile
    from twinkle_tune.report.compare import changes, regressions
    from twinkle_tune.report.text import one_line

    old, new = load_profile(before), load_profile(after)
    of_old, of_new = ((p.model.name, str(p.mode), p.model.dtype, p.device, str(p.aim)) for p in (old, new))
    if of_old != of_new:
        raise ProfileError(
            f"diff: got profiles of {', '.join(of_old)} and of {', '.join(of_new)}, expected the same model, mode, "
            "dtype, device and objective; to see different ones side by side use 'twinkle-tune report' with both"
        )
    found = changes(old, new)
    worse = regressions(found)
    elsewhere = environment_changes(old.environment, new.environment)
    if as_json:
        data = {"environment": list(elsewhere), "changes": [asdict(change) for change in found], "worse": len(worse)}
        typer.echo(json.dumps(data, indent=2))
    else:
        for what in elsewhere:
            typer.echo(f"environment: {one_line(what)}")
        for change in found:
            if everything or change.kind != "same":
                winners = f" {change.winner_before} → {change.winner_after}" if change.winner_after else ""
                typer.echo(one_line(f"{change.kind}: {change.where}:{winners} {change.text}"))
        count = f"{len(worse)} regression{'' if len(worse) == 1 else 's'}" if worse else "no regression"
        typer.echo(f"{count} among {len(found)} figures")
    if worse:
        raise typer.Exit(1)
