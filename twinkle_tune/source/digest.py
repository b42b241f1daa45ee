"""Digests of code: equal while the code is, different when it, or anything of its own package it uses, changes."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from twinkle_tune.errors import SourceError

_CONSTANTS = (bool, int, float, str, bytes, tuple, frozenset, type(None))
_IGNORED_FOLDERS = {"__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def digest_text(*parts: str) -> str:
    """16 hexadecimal digits of some texts, kept apart from each other."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def digest_folder(folder: Path) -> str:
    """Digest of every file below a folder, names included; caches and version control left out.

    Raises:
        SourceError: the folder cannot be read.
    """
    whole = hashlib.sha256()
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not _IGNORED_FOLDERS.intersection(path.relative_to(folder).parts):
                whole.update(str(path.relative_to(folder)).encode() + b"\0")
                whole.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read ({error}); check the path and its permissions") from error
    return whole.hexdigest()[:16]


def digest_code(obj: object) -> str:
    """Digest of a function or class, and of what it uses from its own package.

    Comments and formatting do not count (the syntax tree is hashed). Followed are the functions and classes
    of the same top-level package that the code names, the plain constants it reads from its module, and the
    values of its closure. Code without source text (typed at a prompt) counts by its compiled form.
    """
    seen: dict[int, str] = {}
    _collect(obj, seen, _package_of(obj))
    return digest_text(*sorted(seen.values()))


def _collect(obj: object, seen: dict[int, str], package: str) -> None:
    obj = _unwrap(obj)
    if id(obj) in seen:
        return
    if isinstance(obj, type) or isinstance(obj, FunctionType):
        seen[id(obj)] = _text_of(obj)
        if package == "torch":
            return  # what torch's own code uses is told by torch's version, which the environment holds
        for used in _used_by(obj):
            if isinstance(used, _CONSTANTS):
                seen[id(used)] = repr(used)
            elif _package_of(used) == package:
                _collect(used, seen, package)
        for held in _held_by(obj):
            # What a closure holds is part of the code, whichever package it comes from: a decorator's inner function.
            if isinstance(held, _CONSTANTS):
                seen[id(held)] = repr(held)
            else:
                _collect(held, seen, _package_of(held))
    elif callable(obj) and hasattr(type(obj), "__call__") and _package_of(type(obj)) == package:
        _collect(type(obj), seen, package)
    else:
        seen[id(obj)] = f"{_package_of(obj)}:{getattr(obj, '__qualname__', type(obj).__qualname__)}"


def _unwrap(obj: object) -> object:
    """The function behind a bound method, a partial, a decorator's wrapper or a Triton kernel."""
    if isinstance(obj, type):
        return obj
    for attribute in ("__wrapped__",) if isinstance(obj, FunctionType) else ("__func__", "__wrapped__", "fn", "func"):
        inner = getattr(obj, attribute, None)
        if isinstance(inner, (FunctionType, type)):
            return _unwrap(inner)
    return obj


def _text_of(obj: Any) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(obj)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        # A lambda inside an expression, or code without a file.
        code = getattr(obj, "__code__", None)
        if code is None:
            return f"{obj.__qualname__}:{sorted(name for name in vars(obj) if not name.startswith('__'))}"
        return _code_text(code)
    _drop_docstrings(tree)
    return ast.dump(tree)


def _code_text(code: CodeType) -> str:
    constants = [_code_text(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()}{code.co_names}{constants}"


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]


def _used_by(obj: type | FunctionType) -> Iterator[object]:
    """The globals that a function, or any function of a class, names; and a class's bases."""
    if isinstance(obj, type):
        yield from (base for base in obj.__bases__ if base is not object)
    for function in _functions_of(obj):
        for path in _names_of(function.__code__):
            found = _look_up(path, function.__globals__)
            if found is not None:
                yield found


def _held_by(obj: type | FunctionType) -> Iterator[object]:
    """Defaults and closure cells."""
    for function in _functions_of(obj):
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        yield from (cell.cell_contents for cell in function.__closure__ or () if _filled(cell))


def _functions_of(obj: type | FunctionType) -> list[FunctionType]:
    if not isinstance(obj, type):
        return [obj]
    return [f for f in (_unwrap(value) for value in vars(obj).values()) if isinstance(f, FunctionType)]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _names_of(code: CodeType) -> Iterator[tuple[str, ...]]:
    for name in code.co_names:
        yield (name,)
    # "module.function": the attribute may be any of the names that the code loads.
    for first in code.co_names:
        for second in code.co_names:
            yield (first, second)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_of(constant)


def _look_up(path: tuple[str, ...], names: dict[str, Any]) -> object | None:
    found = names.get(path[0])
    if len(path) == 1:
        return None if isinstance(found, ModuleType) else found
    return vars(found).get(path[1]) if isinstance(found, ModuleType) else None


def _package_of(obj: object) -> str:
    module = getattr(obj, "__module__", None) or type(obj).__module__
    return str(module).split(".")[0]
