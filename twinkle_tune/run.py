"""``python -m twinkle_tune.run train.py …``: a script as it is, watched.

Torch is not imported before the script imports it: what a script sets before that (threads, visible devices) counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from twinkle_tune.script.late import once_imported
from twinkle_tune.script.program import Program, run_program

if TYPE_CHECKING:
    from twinkle_tune.script.session import Session

_PROGRAM = "python -m twinkle_tune.run"


def main(argv: Sequence[str]) -> NoReturn:
    """Run a script and end the process with its exit code. What is done for its models never changes that."""
    options, program = _parsed(argv)
    sessions: list[Session] = []

    def begin() -> None:
        from twinkle_tune.script.session import Asked, Session

        session = Session(
            Asked(
                then=options.then,
                budget=options.budget,
                calls=options.calls,
                keep_inputs=options.keep_inputs,
                record=options.record,
                script=(program.name, *program.arguments),
            )
        )
        session.begin()
        sessions.append(session)

    once_imported("torch", begin)
    ended = run_program(program)
    for session in sessions:
        session.end(ended.how, is_fine=ended.is_fine)
    sys.exit(ended.code)


def _parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, Program]:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Run a script as it is, and watch its models.")
    parser.add_argument("--then", choices=("apply", "profile", "online"), default="apply")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--keep-inputs", action="store_true")
    parser.add_argument("--record", type=Path)
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER)
    parser.add_argument("script", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    words = options.module or options.script[options.script[:1] == ["--"] :] or parser.error("expected a script")
    return options, Program(name=words[0], is_module=bool(options.module), arguments=tuple(words[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
