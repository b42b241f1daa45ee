"""``twinkle-tune list``: the slots of a model, and who would compete for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinkle_tune.cli.device import choose_device
from twinkle_tune.cli.options import parse_count
from twinkle_tune.cli.profile import MODEL_HELP
from twinkle_tune.cli.register import register_files
from twinkle_tune.cli.say import say, show_json

if TYPE_CHECKING:
    from twinkle_tune.kernel.target import Target
    from twinkle_tune.mode import Mode
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

    from twinkle_tune.kernel.find import find_slots

    rows = [(target, _contestants(target, kind, parsed)) for target in find_slots(whole)]
    if as_json:
        show_json({"model": model, "mode": parsed, "device": kind, "slots": _data(rows)})
    elif rows:
        _print_table(rows, f"{model}, {parsed} on {kind}")
    else:
        say(f"{model}: no slots; register one with --register, or register_external_layer in Python")


def _contestants(target: Target, device: str, mode: Mode) -> tuple[Candidate, ...]:
    from twinkle_tune.kernel.find import contestants

    module = target.instances[0][1] if target.instances else None
    return contestants(target.slot, device, mode, module=module, function=target.function)


def _data(rows: list[tuple[Target, tuple[Candidate, ...]]]) -> list[dict[str, object]]:
    return [
        {
            "slot": target.slot.name,
            "kind": target.slot.kind,
            "target": target.slot.target,
            "instances": [path for path, _ in target.instances],
            "candidates": [{"name": candidate.name, "source": candidate.source.kind} for candidate in candidates],
        }
        for target, candidates in rows
    ]


def _print_table(rows: list[tuple[Target, tuple[Candidate, ...]]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("slot", "replaces", "instances", "candidates"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "instances" else "left")
    for target, candidates in rows:
        count = str(len(target.instances)) if target.instances else "(function)"
        table.add_row(target.slot.name, target.slot.target, count, ", ".join(each.name for each in candidates))
    Console().print(table)
