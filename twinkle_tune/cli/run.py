"""``twinkle-tune run``: a script as it is, in its own process; what is kept for its models is applied, or made."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from twinkle_tune.cli.options import parse_budget, parse_count
from twinkle_tune.cli.write import check_writable
from twinkle_tune.errors import TuneError

_PYTHON = re.compile(r"python[\d.]*")
_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_LAUNCHERS = ("torchrun", "accelerate", "deepspeed", "mpirun")
_HOW = "write it as you run it: twinkle-tune run -- python train.py …"


def run(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="The script: python train.py …, or python -m module …")
    ],
    then: Annotated[
        str,
        typer.Option(help="apply: use the profiles that are kept; profile: tune the models after it, and keep that."),
    ] = "apply",
    online: Annotated[
        bool, typer.Option("--online", help="Where nothing is kept, race inside of the script's own steps.")
    ] = False,
    budget: Annotated[str, typer.Option(metavar="5m", help="Stop tuning (online: judging) after this time.")] = "5m",
    calls: Annotated[
        str, typer.Option(metavar="N", help="Describe the first N calls after a new model came up.")
    ] = "100",
    keep_inputs: Annotated[
        bool, typer.Option("--keep-inputs", help="Tune on copies of real inputs, not on made ones.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the recording goes.  [default: the cache folder]")
    ] = None,
) -> None:
    """Run a Python script as it is, and find its models by watching.

    The script's output, exit code and traceback are its own; what is said of its models goes to stderr. A model whose
    profile is kept (of an earlier run with --then profile, or of optimize_model) runs with that.
    """
    if then not in ("apply", "profile"):
        raise TuneError(f"--then: got {then!r:.80}, expected apply or profile")
    if online and then == "profile":
        raise TuneError("--online and --then profile: got both, expected one: race in the script's steps, or after it")
    parse_budget(budget)
    parse_count("--calls", calls)
    options = ["--then", "online" if online else then, "--budget", budget, "--calls", calls]
    if keep_inputs:
        options.append("--keep-inputs")
    if record is not None:
        check_writable([record])
        options += ["--record", str(record)]
    _become(with_us(command, options))


def with_us(command: Sequence[str], options: Sequence[str]) -> list[str]:
    """The command that runs a script under ``twinkle_tune.run``, of the command that runs it.

    Raises:
        TuneError: it is not Python that runs it, or no script is named.
    """
    words = list(command)
    first = Path(words[0]).name
    if first in _LAUNCHERS:
        raise TuneError(
            f"run: got {first}, which starts processes of its own, expected python; let it start ours: "
            f"{first} … -m twinkle_tune.run train.py"
        )
    if _PYTHON.fullmatch(first):
        python, rest = words[0], words[1:]
    elif first.endswith(".py"):
        python, rest = sys.executable, words
    else:
        raise TuneError(f"run: got {words[0]!r:.80}, expected python and a script; {_HOW}")
    flags: list[str] = []
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        if rest[0] in ("-", "-c"):
            raise TuneError(f"run: got {rest[0]}, expected a script that is a file or a module; {_HOW}")
        count = 2 if rest[0] in _WITH_VALUE else 1
        flags, rest = [*flags, *rest[:count]], rest[count:]
    if not rest or rest == ["-m"]:
        raise TuneError(f"run: got {' '.join(words)!r:.80}, which names no script; {_HOW}")
    return [python, *flags, "-m", "twinkle_tune.run", *options, *rest]


def _become(command: list[str]) -> NoReturn:
    """Let this process be that command: its signals and its exit code are nobody else's then."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise TuneError(f"run: {command[0]} cannot be started ({error.strerror}); name another Python") from error
