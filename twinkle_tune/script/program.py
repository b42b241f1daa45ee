"""Running a script in this process as Python runs it: its own ``__main__``, arguments, path, exit code, traceback."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
from dataclasses import dataclass
from types import CodeType, ModuleType, TracebackType
from typing import Any

_FAILED = 1
_NOT_THERE = 2
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is to be run.

    Attributes:
        name: a file, or a module's name.
        is_module: which of the two.
        arguments: what stands behind it.
    """

    name: str
    is_module: bool
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a script ended.

    Attributes:
        code: its exit code.
        how: in words, for people: "exit code 1", "ValueError: no data".
    """

    code: int
    how: str

    @property
    def is_fine(self) -> bool:
        """Whether it did what it was to do."""
        return self.code == 0


def run_program(program: Program) -> Ended:
    """Run it to its end. What it raises is shown as Python shows it, without our frames; nothing comes out of here."""
    try:
        code, main = _module_code(program) if program.is_module else _file_code(program)
    except _CannotStart as error:
        sys.stderr.write(f"{error}\n")
        return Ended(code=error.code, how=str(error))
    except SyntaxError:
        return _shown(None)
    sys.modules["__main__"] = main
    try:
        exec(code, main.__dict__)
    except SystemExit as left:
        return _left(left)
    except BaseException:
        return _shown(code)
    return Ended(code=0, how="exit code 0")


class _CannotStart(Exception):
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def _file_code(program: Program) -> tuple[CodeType, ModuleType]:
    path = program.name
    sys.argv = [path, *program.arguments]
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        text = f"{sys.executable}: can't open file {os.path.abspath(path)!r}: [Errno {error.errno}] {error.strerror}"
        raise _CannotStart(text, _NOT_THERE) from error
    code = compile(source, path, "exec", dont_inherit=True)
    return code, _main(__file__=os.path.abspath(path), __cached__=None, __spec__=None, __package__=None)


def _module_code(program: Program) -> tuple[CodeType, ModuleType]:
    sys.path[0] = os.getcwd()
    sys.argv = ["-m", *program.arguments]
    name = program.name
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise _CannotStart(f"{sys.executable}: No module named {error.name}", _FAILED) from error
    loader: Any = None if spec is None else spec.loader
    code = None if loader is None or not hasattr(loader, "get_code") else loader.get_code(name)
    if spec is None or code is None:
        raise _CannotStart(f"{sys.executable}: No module named {name}", _FAILED)
    sys.argv[0] = spec.origin or name
    more = {"__file__": spec.origin, "__cached__": spec.cached, "__spec__": spec, "__package__": spec.parent}
    return code, _main(**more)


def _main(**names: object) -> ModuleType:
    main = ModuleType("__main__")
    main.__dict__.update(names, __builtins__=builtins)
    return main


def _left(left: SystemExit) -> Ended:
    if left.code is None or isinstance(left.code, int):
        code = int(left.code or 0) & 0xFF
    else:
        sys.stderr.write(f"{left.code}\n")
        code = _FAILED
    return Ended(code=code, how=f"exit code {code}")


def _shown(code: CodeType | None) -> Ended:
    """Show what was raised, from the script's own frame on (a SyntaxError without any)."""
    kind, error, trace = sys.exc_info()
    assert kind is not None
    assert error is not None
    own: TracebackType | None = trace
    while own is not None and own.tb_frame.f_code is not code:
        own = own.tb_next
    error.__traceback__ = own
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, own
    sys.excepthook(kind, error, own)
    is_interrupt = issubclass(kind, KeyboardInterrupt)
    return Ended(code=_INTERRUPTED if is_interrupt else _FAILED, how=kind.__name__)
