"""``twinkle-tune fleet``: the profiles of a plan, one after another, and one page that compares them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinkle_tune.cli.options import profile_path
from twinkle_tune.cli.say import say, tell
from twinkle_tune.cli.write import check_writable, write_file

if TYPE_CHECKING:
    from twinkle_tune.fleet.plan import Plan, Planned
    from twinkle_tune.profile.schema import Profile

_FAILED = 1
_COMMAND = "from twinkle_tune.cli import main; main()"


def fleet(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="Models, modes and devices.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Make profiles anew that are there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Profile many models by a plan: models × modes × devices.

    Profiles go to one folder, with a page that compares them. Those that are there stay; what was stopped goes on.
    """
    from twinkle_tune.fleet.plan import read_plan

    read = read_plan(plan)
    if read.executor:
        from twinkle_tune.cli.running import check_executor

        check_executor(read.executor, in_process="--in-process" in read.options)
    paths = {planned: _path(read, planned) for planned in read.profiles}
    page = read.folder / "comparison.html"
    check_writable([*paths.values(), page])
    failed = []
    try:
        for number, (planned, path) in enumerate(paths.items(), start=1):
            head = f"[{number}/{len(paths)}] {planned.title}"
            made = None if fresh else _there(path)
            if made is not None:
                say(f"{head}: there already; {made.verdict}")
            elif dry_run:
                say(f"{head}: to be made: {path}")
            else:
                tell(f"{head} ...")
                said = _make(read, planned, path, fresh=fresh)
                say(f"{head}: {said.verdict if said is not None else 'failed, as was said above'}")
                failed += [] if said is not None else [planned.title]
    except KeyboardInterrupt:
        tell("twinkle-tune: the plan was stopped; the same command goes on")
        raise
    if not dry_run:
        _compare(page, paths)
    if failed:
        count = f"{len(failed)} of {len(paths)} failed"
        tell(f"twinkle-tune: {count} ({'; '.join(failed)}); the same command tries them again")
        raise typer.Exit(_FAILED)


def _path(plan: Plan, planned: Planned) -> Path:
    """Where a profile goes: a folder for each device."""
    named = profile_path(planned.device or "here", planned.model, planned.mode)
    return plan.folder / named.relative_to("profiles")


def _there(path: Path, *, whole: bool = True) -> Profile | None:
    """The profile, where it was made (as a whole, unless any will do)."""
    from twinkle_tune.profile.io import load_profile

    if not path.is_file():
        return None
    made = load_profile(path)
    return made if made.complete or not whole else None


def _make(plan: Plan, planned: Planned, path: Path, *, fresh: bool) -> Profile | None:
    """Make one profile; None where that failed.

    It has a process of its own: what a model does to that is no other model's trouble.
    """
    from twinkle_tune.tune.journal import journal_path

    words = ["-c", _COMMAND, "profile", planned.model, "--mode", planned.mode, *plan.options]
    if planned.is_elsewhere:
        return _make_there(plan, planned, words, path, fresh=fresh)
    words += ["--out", str(path.absolute())]
    words += ["--device", planned.device] if planned.device else []
    words += ["--executor", plan.executor] if plan.executor else []
    words += ["--fresh"] if fresh else ["--resume"] if journal_path(path).exists() else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()  # which does nothing more where the terminal has told it as well
        process.wait()
        raise
    return _there(path, whole=False) if code == 0 else None


def _make_there(plan: Plan, planned: Planned, words: list[str], path: Path, *, fresh: bool) -> Profile | None:
    from twinkle_tune.fleet.ray_devices import address_of
    from twinkle_tune.fleet.there import made_there

    made = made_there(address_of(plan.executor), planned.device, words, fresh=fresh)
    if made.code:
        tell(made.said.rstrip())
        return None
    write_file(path, made.profile, "choose another folder")
    return _there(path, whole=False)


def _compare(page: Path, paths: dict[Planned, Path]) -> None:
    from twinkle_tune.report.html import comparison_pieces

    made = [(path, found) for path in paths.values() if (found := _there(path, whole=False)) is not None]
    if len(made) < 2:
        return
    shown = [str(path.relative_to(page.parent)) for path, _ in made]
    write_file(page, comparison_pieces([found for _, found in made], shown))
    tell(f"wrote {page}")
