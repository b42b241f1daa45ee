"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from twinkle_tune.cli.diff import diff
from twinkle_tune.cli.env import env
from twinkle_tune.cli.export import export
from twinkle_tune.cli.fleet import fleet
from twinkle_tune.cli.list import list_slots
from twinkle_tune.cli.profile import profile
from twinkle_tune.cli.report import report
from twinkle_tune.cli.run import run as run_script
from twinkle_tune.cli.say import PipeClosedError, flush, give_up_stdout, results_apart, say, tell
from twinkle_tune.cli.share import index, pull, push
from twinkle_tune.cli.stop import Stops, stoppable
from twinkle_tune.cli.store import store
from twinkle_tune.cli.tune import tune
from twinkle_tune.cli.typed import remembered
from twinkle_tune.cli.usage import usage_text
from twinkle_tune.cli.verify import verify
from twinkle_tune.errors import TuneError, in_a_line

_DEBUG = "--debug"
_ERROR = 2
_PIPE_CLOSED = 141
"""As of a process that SIGPIPE ended: no verdict, for its reader has gone."""
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
app.command("run", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})(run_script)
app.command()(report)
app.command("list")(list_slots)
app.command()(fleet)
app.command()(verify)
app.command()(diff)
app.command()(tune)
app.command()(export)
app.command()(push)
app.command()(pull)
app.command()(index)
app.command()(env)
app.add_typer(store)


def _show_version(wanted: bool) -> None:
    if wanted:
        import twinkle_tune

        say(f"twinkle-tune {twinkle_tune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool, typer.Option(_DEBUG, help="Show the traceback of an error (also: TWINKLE_TUNE_DEBUG=1).")
    ] = False,
) -> None:
    # Both are dealt with elsewhere (the callback, run()) and stand here for --help.
    del version, debug


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    0 fine, 1 not so (slower, does not hold), 2 an error, 130, 143 and 129 stopped by SIGINT, SIGTERM and SIGHUP,
    141 nobody reads the output any more.
    """
    _find_modules_here()
    try:
        code = run(sys.argv[1:] if argv is None else argv)
    except Exception:  # with --debug; 1, which Python ends with, would be a verdict
        traceback.print_exc()
        code = _ERROR
    if code in (_ERROR, _PIPE_CLOSED):
        give_up_stdout()
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run one command. Whatever goes wrong is one line on stderr; with ``--debug`` an error is raised.

    Returns:
        The exit code.
    """
    debug = _DEBUG in argv or os.environ.get("TWINKLE_TUNE_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in argv if argument != _DEBUG]
    stops = Stops()
    try:
        with stoppable(stops), remembered(arguments), results_apart("--json" in arguments):
            code = _invoke(arguments)
            flush()
    except _UsageError as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        # Without a command at all the usage error is the help itself.
        return _fail(f"{usage_text(error, message)}; see '{_command_of(error)} --help'") if message else _ERROR
    except (KeyboardInterrupt, typer.Abort):
        return stops.code
    except (PipeClosedError, BrokenPipeError):
        return _PIPE_CLOSED
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # Rich's way to say so
            return _PIPE_CLOSED
        return _fail(f"got {in_a_line(left)} from code that was run, expected that it returns; remove its sys.exit()")
    except TuneError as error:
        if debug:
            raise
        return _fail(str(error))
    except OSError as error:
        if debug:
            raise
        return _fail(f"{error}; make room, or choose another path")
    except BaseException as error:
        if debug and isinstance(error, Exception):
            raise
        return _fail(f"unexpected {in_a_line(error)}; {_DEBUG} shows where: please report it if it is not your code")
    return code


def _invoke(arguments: list[str]) -> int:
    # Not Typer's own main(), for which a closed pipe is exit code 1.
    command = typer.main.get_command(app)
    try:
        with command.make_context("twinkle-tune", arguments) as context:
            code = command.invoke(context)
    except typer.Exit as leave:
        code = leave.exit_code
    return code if isinstance(code, int) else 0


def _find_modules_here() -> None:
    """Let a console script find the modules of the folder that it is called in, as ``python -m`` does."""
    try:
        here = os.getcwd()
    except OSError:  # it was removed meanwhile
        return
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _command_of(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return str(getattr(context, "command_path", "twinkle-tune"))


def _fail(message: str) -> int:
    tell(f"twinkle-tune: error: {message}")
    return _ERROR
