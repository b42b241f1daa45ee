"""``twinkle-tune list``: the slots of a model, and who would compete for them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinkle_tune.cli.device import choose_device, device_name
from twinkle_tune.cli.options import MODEL_HELP, parse_count, profile_path
from twinkle_tune.cli.register import register_files
from twinkle_tune.cli.say import say, show_json

if TYPE_CHECKING:
    from twinkle_tune.mode import Mode
    from twinkle_tune.occurrence import Occurrence
    from twinkle_tune.slot import Candidate


def list_slots(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    mode: Annotated[str, typer.Option(help="inference, train, compile or train+compile.")] = "inference",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...  [default: cuda if present]")] = None,
    layers: Annotated[str | None, typer.Option(metavar="N", help="Keep only the first N layers.")] = None,
    register: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Your kernels: .py or .toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show what of MODEL is replaceable, and by what.

    It loads no weights and times nothing.
    """
    from twinkle_tune.device import parse_device
    from twinkle_tune.mode import parse_mode
    from twinkle_tune.models import outline

    parsed, kind = parse_mode(mode), parse_device(choose_device(device))
    register_files(register or [])
    whole = outline(model, layers=parse_count("--layers", layers))

    from twinkle_tune.kernel.find import contestants, find_slots
    from twinkle_tune.kernel.unlooked import unlooked, unlooked_text

    rows = [(each, contestants(each, kind, parsed)) for each in find_slots(whole)]
    rest = unlooked(whole)
    if as_json:
        show_json({"model": model, "mode": parsed, "device": kind, "slots": _data(rows), "unlooked": list(rest)})
        return
    if rows:
        _print_slots(rows, f"{model}, {parsed} on {kind}")
        for line in (work_text([len(found) for _, found in rows]), last_run_text(model, kind, parsed)):
            if line:
                say(line)
    else:
        say(f"{model}: no slots; register one with --register, or register_external_layer in Python")
    if rest:
        say(unlooked_text(rest))


def work_text(counts: Sequence[int]) -> str:
    """What a run would have to do, by how many candidates each slot has, the original among them."""
    rivals, slots = sum(counts) - len(counts), len(counts)
    tries = f"{rivals} candidate{'' if rivals == 1 else 's'} for {slots} slot{'' if slots == 1 else 's'}"
    return f"A run tries {tries}, at each size that the model calls. --budget 5m stops it after that time."


def last_run_text(model: str, device: str, mode: Mode) -> str:
    """What the last run of the model took on this device, by its profile; "" where there is none that says so."""
    from twinkle_tune.device import is_available
    from twinkle_tune.errors import ProfileError
    from twinkle_tune.profile.io import load_profile
    from twinkle_tune.words import span

    if not is_available(device):
        return ""
    path = profile_path(device_name(device), model, mode)
    try:
        made = load_profile(path)
    except ProfileError:
        return ""  # none is there, or none that can be read
    if made.run is None:
        return ""
    recalled = made.run.recalled or 0
    known = f", of which {recalled} {'was' if recalled == 1 else 'were'} known before" if recalled else ""
    known += ", and what the whole model says" if made.run.recalled_whole else ""
    ended = " and was stopped" if made.run.stopped else ""
    return f"The last run took {span(made.run.took_s)}{ended}: {len(made.contests)} contests{known} ({path})."


def _data(rows: list[tuple[Occurrence, tuple[Candidate, ...]]]) -> list[dict[str, object]]:
    return [
        {
            "slot": each.slot.name,
            "kind": each.slot.kind,
            "target": each.slot.target,
            "instances": [path for path, _ in each.instances],
            "candidates": [{"name": candidate.name, "source": candidate.source.kind} for candidate in candidates],
        }
        for each, candidates in rows
    ]


def _print_slots(rows: list[tuple[Occurrence, tuple[Candidate, ...]]], title: str) -> None:
    """A slot a line, and below it what it replaces and who would compete; no name is broken."""
    from rich.console import Console

    from twinkle_tune.report.layout import wrapped
    from twinkle_tune.report.text import short_name

    width = shutil.get_terminal_size((110, 24)).columns
    console = Console(width=width, highlight=False)
    lines = wrapped(title, width, style="bold")
    for each, candidates in rows:
        instances = len(each.instances)
        count = f"{instances} instance{'' if instances == 1 else 's'}" if instances else "a function"
        lines += wrapped(f"{short_name(each.slot.name)}: {count} of {each.slot.target}", width)
        lines += wrapped(", ".join(candidate.name for candidate in candidates), width, indent=4)
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore", crop=False)
