"""``python -m twinkle_tune.run train.py …``: a script as it is, watched.

Torch is not imported before the script imports it: what a script sets before that (threads, visible devices) counts.
The rest of this package is imported at the first call of a module: a script that has none pays nothing for it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from twinkle_tune.script.late import once_imported
from twinkle_tune.script.program import Ended, Program, run_program

if TYPE_CHECKING:
    from torch import nn

    from twinkle_tune.script.session import Session

_PROGRAM = "python -m twinkle_tune.run"


def main(argv: Sequence[str]) -> NoReturn:
    """Run a script and end the process with its exit code. What is done for its models never changes that."""
    options, program = _parsed(argv)
    start = _Start(options, program)
    once_imported("torch", start.listen)
    ended = run_program(program)
    start.end(ended)
    sys.exit(ended.code)


class _Start:
    """Begins a session at the first call of a module."""

    def __init__(self, options: argparse.Namespace, program: Program) -> None:
        self._options, self._program, self._pid = options, program, os.getpid()
        self._session: Session | None = None
        self._unlisten: Callable[[], None] = lambda: None

    def listen(self) -> None:
        """Torch is there. Whoever imports it may be half of this package, so no more of it is imported now."""
        from twinkle_tune.script import outermost

        self._unlisten = lambda: outermost.unlisten(self)
        outermost.listen(self)

    def called(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], None] | None:
        """As of :class:`~twinkle_tune.script.outermost.Listens`."""
        self._unlisten()
        if os.getpid() != self._pid:
            return None
        try:
            self._session = self._begun()
            return self._session.called(module, args, kwargs)
        except Exception as error:  # of an installation that is not whole: the script is not to know
            sys.stderr.write(f"twinkle-tune: nothing is watched: {type(error).__name__}: {error}\n")
            return None

    def _begun(self) -> Session:
        import torch

        with torch.inference_mode(False):
            from twinkle_tune.call.drawn import random_kept

            with random_kept():
                from twinkle_tune.script.session import Asked, Session
        options, program = self._options, self._program
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
        return session

    def end(self, ended: Ended) -> None:
        """The script has ended."""
        self._unlisten()
        if self._session is not None:
            self._session.end(ended.how, is_fine=ended.is_fine)


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
