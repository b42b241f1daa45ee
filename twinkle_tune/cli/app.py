"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from twinkle_tune.cli.diff import diff
from twinkle_tune.cli.env import env
from twinkle_tune.cli.export import export
from twinkle_tune.cli.list import list_slots
from twinkle_tune.cli.profile import profile
from twinkle_tune.cli.report import report
from twinkle_tune.cli.store import store
from twinkle_tune.cli.tune import tune
from twinkle_tune.cli.typed import remembered
from twinkle_tune.cli.verify import verify
from twinkle_tune.errors import TuneError

_DEBUG = "--debug"
_INTERRUPTED = 130
# Typer has carried its own copy of Click for some time; this finds the class in either.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="twinkle-tune",
    help="Find the fastest right kernel for each part of a PyTorch model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich takes longer to import than the rest of the start
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(profile)
app.command()(report)
app.command("list")(list_slots)
app.command()(verify)
app.command()(diff)
app.command()(tune)
app.command()(export)
app.command()(env)
app.add_typer(store)


def _show_version(wanted: bool) -> None:
    if wanted:
        import twinkle_tune

        typer.echo(f"twinkle-tune {twinkle_tune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
    debug: Annotated[
        bool, typer.Option(_DEBUG, help="Show the traceback of an error (also: TWINKLE_TUNE_DEBUG=1).")
    ] = False,
) -> None:
    # Both are dealt with elsewhere (the callback, run()) and stand here for --help.
    del version, debug


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code (0 fine, 1 not so, 2 an error, 130 interrupted)."""
    # A console script, unlike `python -m`, does not find the modules of the folder that it is called in.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run one command. An error of this package is one line on stderr; with ``--debug`` it is raised.

    Returns:
        The exit code.
    """
    debug = _DEBUG in argv or os.environ.get("TWINKLE_TUNE_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in argv if argument != _DEBUG]
    try:
        with remembered(arguments):
            code = typer.main.get_command(app).main(arguments, prog_name="twinkle-tune", standalone_mode=False)
    except TuneError as error:
        if debug:
            raise
        return _fail(str(error))
    except _UsageError as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        # Without a command at all the usage error is the help itself.
        return _fail(message.rstrip(".") + "; see 'twinkle-tune --help'") if message else 2
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    typer.echo(f"twinkle-tune: error: {message}", err=True)
    return 2
