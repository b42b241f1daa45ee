"""``twinkle-tune store``: past outcomes, which other runs take instead of measuring again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinkle_tune.cli.options import STORE_HELP, parse_age
from twinkle_tune.cli.say import say, show_json, tell

if TYPE_CHECKING:
    from twinkle_tune.profile.outcomes import Outcomes

Named = Annotated[str | None, typer.Option("--store", metavar="FILE|URL", help=STORE_HELP)]

store = typer.Typer(
    name="store",
    help="List, export or delete cached results.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@store.command("list")
def list_outcomes(
    store_named: Named = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List the cached results, newest first."""
    from dataclasses import asdict

    found = _open(store_named)
    rows = found.rows() if found is not None else ()
    if as_json:
        show_json([asdict(row) for row in rows])
        return
    for row in rows:
        say(f"{row.measured}  {row.mode:<13} {row.device:<5} {row.environment}  {row.workload}  {row.slot}")
    tell(f"{len(rows)} outcome{'' if len(rows) == 1 else 's'}{_where(found, store_named)}")


@store.command()
def export(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, JSON lines.")],
    store_named: Named = None,
) -> None:
    """Write all cached results to a file, with their evidence."""
    from twinkle_tune.cli.write import check_writable, write_together

    check_writable([path])
    found = _open(store_named)
    lines = [f"{line}\n" for line in found.export()] if found is not None else []
    write_together({path: "".join(lines)}, "choose another path", "the outcomes ")
    tell(f"wrote {path}: {len(lines)} outcome{'' if len(lines) == 1 else 's'}{_where(found, store_named)}")


@store.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option(metavar="30d", help="Delete only results older than this.  [default: all]")
    ] = None,
    store_named: Named = None,
) -> None:
    """Delete cached results."""
    age_s = parse_age("--older-than", older_than)
    found = _open(store_named)
    gone = 0 if found is None else found.prune(age_s or 0.0)
    say(f"removed {gone} outcome{'' if gone == 1 else 's'}{_where(found, store_named)}")


def _open(named: str | None) -> Outcomes | None:
    """The store if there is one: no file is made only to be looked at."""
    from twinkle_tune.profile.stores import store_at, store_place

    place = store_place(named)
    return None if place is None or (isinstance(place, Path) and not place.exists()) else store_at(place)


def _where(found: Outcomes | None, named: str | None) -> str:
    from twinkle_tune.profile.stores import store_place

    return f" in {found.where}" if found is not None else f": there is no store ({store_place(named) or 'turned off'})"
