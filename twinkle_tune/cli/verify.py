"""``twinkle-tune verify``: does a profile still hold here and now?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinkle_tune.cli.device import use_device
from twinkle_tune.cli.options import IN_PROCESS_HELP, MODEL_HELP, parse_count, parse_sizes
from twinkle_tune.cli.past import locked
from twinkle_tune.cli.recorded import Recorded, recorded_options
from twinkle_tune.cli.register import register_files
from twinkle_tune.cli.running import executor_of, listener
from twinkle_tune.cli.say import say, show_json, tell

if TYPE_CHECKING:
    from twinkle_tune.profile.schema import Profile
    from twinkle_tune.tune.verify import Check, Verification

HOLDS, FAILS = 0, 1


def verify(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="Written by 'twinkle-tune profile'.")],
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help=f"{MODEL_HELP} [default: the profile's preset or Hub id]")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="As in profile.  [default: that of the profile]")] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="1,8", help="Batch sizes.  [default: those of the profile]")
    ] = None,
    seq_len: Annotated[
        str | None, typer.Option(metavar="128,2048", help="Tokens.  [default: those of the profile]")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="N", help="Layers kept.  [default: those of the profile]")
    ] = None,
    register: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Your kernels; a profile never names them.")
    ] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help=IN_PROCESS_HELP)] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fail if another run uses the device.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Check that the winners of PROFILE still hold.

    Each winner is checked again: whether its code is the same, whether it is right, and whether it is still faster or
    smaller. The exit code is 1 if one is not.
    """
    from twinkle_tune.models import load_model
    from twinkle_tune.profile.io import load_profile

    made = load_profile(profile)
    recorded = recorded_options(made, model, registered=bool(register))
    batches = parse_sizes("--batch", batch or recorded.batch)
    seq_lens = parse_sizes("--seq-len", seq_len or recorded.seq_len)
    depth = parse_count("--layers", layers or recorded.layers)
    place, _ = use_device(recorded.device or made.device)
    try:
        with locked(place, None, wait=not no_wait):
            register_files(register or [])
            loaded = load_model(recorded.model, place, dtype or recorded.dtype, depth, batches, seq_lens, made.mode)

            from twinkle_tune.tune.verify import verify_profile

            with listener(quiet=as_json) as listen, executor_of(in_process=in_process) as executor:
                found = verify_profile(made, loaded.model, loaded.inputs, on_event=listen, executor=executor)
    except KeyboardInterrupt:
        tell("twinkle-tune: interrupted; nothing was verified")
        raise
    if as_json:
        show_json(verification_data(found, str(profile), recorded))
    else:
        _print(found, made)
    raise typer.Exit(HOLDS if found.holds else FAILS)


def verification_data(found: Verification, path: str, recorded: Recorded) -> dict[str, Any]:
    """What ``--json`` prints: ratios are of the original's time (memory ratios: of its peak), null where not known."""
    return {
        "profile": path,
        "model": recorded.model,
        "holds": found.holds,
        "stale": list(found.stale),
        "setups": [
            {
                "step": check.setup.label,
                "way": check.setup.name,
                "holds": not check.kind,
                "problem": check.kind,
                "text": check.text,
                "ratio": check.ratio,
                "low": check.low,
                "high": check.high,
            }
            for check in found.setups
        ],
        "checks": [
            {
                "slot": check.contest.slot.name,
                "workload": check.contest.workload.key,
                "instances": list(check.contest.instances),
                "winner": check.contest.selection.winner,
                "holds": not check.problems,
                "problems": [{"kind": problem.kind, "text": problem.text} for problem in check.problems],
                "recorded_ratio": check.contest.selection.ratio,
                "ratio": check.ratio,
                "low": check.low,
                "high": check.high,
                "recorded_memory_ratio": check.contest.selection.memory_ratio,
                "memory_ratio": check.memory_ratio,
            }
            for check in found.checks
        ],
    }


def _print(found: Verification, profile: Profile) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from twinkle_tune.report.text import call_text, one_line, ratio_text

    console = Console()
    # Text, never markup: a profile is data of somebody else's.
    if found.checks:
        table = Table(title=f"{len(found.checks)} winners, verified here and now", title_justify="left")
        for heading in ("slot", "call", "winner", "then", "now", "verdict"):
            table.add_column(heading, overflow="fold")
        for check in found.checks:
            contest = check.contest
            now = "-" if check.ratio is None else ratio_text(check.ratio, check.low or 1.0, check.high or 1.0)
            then = ratio_text(contest.selection.ratio)
            if profile.aim.is_memory:
                then = f"{then}, memory {ratio_text(contest.selection.memory_ratio)}"
                now = f"{now}, memory {ratio_text(check.memory_ratio)}"
            cells = (
                contest.slot.name,
                call_text(contest.workload),
                contest.selection.winner,
                then,
                now,
                _verdict(check),
            )
            table.add_row(*(Text(one_line(cell, 400)) for cell in cells))
        console.print(table)
    for way in found.setups:
        now = "" if way.ratio is None else f" now {ratio_text(way.ratio, way.low or 1.0, way.high or 1.0)},"
        told = f"{way.kind}: {way.text}" if way.kind else "holds"
        console.print(Text(one_line(f"{way.setup.label} run by {way.setup.name}:{now} {told}", 400)), soft_wrap=True)
    for reason in found.stale:
        console.print(Text(f"stale: {one_line(reason, 400)}"), soft_wrap=True)
    failed = sum(bool(check.problems) for check in found.checks) + sum(bool(way.kind) for way in found.setups)
    if not profile.winners and not profile.setups:
        say("nothing to verify: the original won everywhere")
    elif found.holds:
        better = "smaller" if profile.aim.is_memory else "faster"
        say(f"the profile holds: every winner is what it was, right, and {better} than the original")
    else:
        total = len(found.checks) + len(found.setups)
        say(f"the profile does not hold: {failed} of {total} winners fail; profile the model again")


def _verdict(check: Check) -> str:
    return "; ".join(f"{problem.kind}: {problem.text}" for problem in check.problems) or "holds"
