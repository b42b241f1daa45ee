"""Digests of code: equal while the code is, different when it, or anything of its own package it uses, changes."""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any
from weakref import ref

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
    seen: dict[object, str] = {}
    _collect(obj, seen, _package_of(obj))
    return digest_text(*sorted(seen.values()))


def _collect(obj: object, seen: dict[object, str], package: str) -> None:
    obj = _unwrap(obj)
    if id(obj) in seen:
        return
    if isinstance(obj, (type, FunctionType)):
        seen[id(obj)] = _text_of(obj)
        if package == "torch":
            return  # what torch's own code uses is told by torch's version, which the environment holds
        for name, used in _used_by(obj, package):
            if isinstance(used, _CONSTANTS):
                seen[id(obj), name] = f"{obj.__qualname__} {name}={_constant_text(used)}"
            elif _package_of(used) == package:
                _collect(used, seen, package)
        for name, held in _held_by(obj):
            # What a closure holds is part of the code, whichever package it comes from: a decorator's inner function.
            if isinstance(held, _CONSTANTS):
                seen[id(obj), name] = f"{obj.__qualname__} {name}={_constant_text(held)}"
            else:
                _collect(held, seen, _package_of(held))
    elif isinstance(obj, functools.partial):
        seen[id(obj)] = f"partial {_constant_text(obj.args)} {_constant_text(tuple(sorted(obj.keywords.items())))}"
        _collect(obj.func, seen, package)
    elif callable(obj) and _package_of(type(obj)) == package:
        _collect(type(obj), seen, package)
    else:
        seen[id(obj)] = f"{_package_of(obj)}:{getattr(obj, '__qualname__', type(obj).__qualname__)}"


def _unwrap(obj: object) -> object:
    """The function behind a bound method, a cache or a Triton kernel. A decorator's wrapper is code of its own."""
    if isinstance(obj, (type, FunctionType, functools.partial)):
        return obj
    for attribute in ("__func__", "__wrapped__", "fn", "func"):
        inner = getattr(obj, attribute, None)
        if isinstance(inner, (FunctionType, type)):
            return inner
    return obj


_texts: dict[int, tuple[ref[Any], str]] = {}
"""Source texts by the id of what they are of, while that is there: to find a class inspect parses its whole file."""


def _text_of(obj: type | FunctionType) -> str:
    of = obj.__code__ if isinstance(obj, FunctionType) else obj
    known = _texts.get(id(of))
    if known is not None and known[0]() is of:
        return known[1]
    try:
        # Of the code object: for a wrapper inspect would show what is wrapped.
        text = _without_comments(inspect.getsource(of))
    except (OSError, TypeError, SyntaxError):
        # A lambda inside an expression, or code without a file.
        codes = [function.__code__ for function in _functions_of(obj)]
        text = " ".join((obj.__qualname__ if of is obj else "", *map(_code_text, codes)))
        if of is obj:
            return text  # a class's methods may be exchanged, so it is not kept
    _texts[id(of)] = ref(of, functools.partial(_forget, id(of))), text
    return text


def _forget(key: int, gone: ref[Any]) -> None:
    _texts.pop(key, None)


def _without_comments(source: str) -> str:
    """Source text as its syntax tree says it."""
    tree = ast.parse(textwrap.dedent(source))
    _drop_docstrings(tree)
    return ast.unparse(tree)


def _code_text(code: CodeType) -> str:
    constants = [_code_text(c) if isinstance(c, CodeType) else _constant_text(c) for c in code.co_consts]
    return f"{code.co_code.hex()}{code.co_names}{constants}"


def _constant_text(value: object) -> str:
    """As ``repr``, but the same in every process: without addresses, sets in order."""
    if isinstance(value, frozenset):
        return f"frozenset({', '.join(sorted(map(_constant_text, value)))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant_text, value))})"
    text = repr(value)
    return text if " at 0x" not in text else f"{type(value).__module__}.{type(value).__qualname__}"


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]


def _used_by(obj: type | FunctionType, package: str) -> Iterator[tuple[str, object]]:
    """Name and value of what a function, or any function of a class, reads of its package; and a class's bases."""
    if isinstance(obj, type):
        yield from ((base.__qualname__, base) for base in obj.__bases__)
    for function in _functions_of(obj):
        if str(function.__globals__.get("__name__")).split(".")[0] == package:
            yield from _named(_names_in(function.__code__), function.__globals__, package, set())


def _named(
    names: Sequence[str], space: Mapping[str, object], package: str, modules: set[str]
) -> Iterator[tuple[str, object]]:
    for name in names:
        found = space.get(name)
        if not isinstance(found, ModuleType):
            if found is not None:
                yield name, found
        elif found.__name__.split(".")[0] == package and found.__name__ not in modules:
            # "module.function": the attribute may be any of the names that the code loads.
            modules.add(found.__name__)
            yield from ((f"{name}.{inner}", value) for inner, value in _named(names, vars(found), package, modules))


def _held_by(obj: type | FunctionType) -> Iterator[tuple[str, object]]:
    """Name and value of defaults and closure cells."""
    for function in _functions_of(obj):
        yield from ((f"default {index}", value) for index, value in enumerate(function.__defaults__ or ()))
        yield from (function.__kwdefaults__ or {}).items()
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in cells if _filled(cell))


def _functions_of(obj: type | FunctionType) -> list[FunctionType]:
    if not isinstance(obj, type):
        return [obj]
    return [f for f in (_unwrap(value) for value in vars(obj).values()) if isinstance(f, FunctionType)]


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> tuple[str, ...]:
    """The names that code reads of its module, or as an attribute; not those that it sets there (a counter)."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"}
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names_in(constant)]
    return tuple(dict.fromkeys([*(name for name in code.co_names if name not in own), *inner]))


def _package_of(obj: object) -> str:
    module = getattr(obj, "__module__", None) or type(obj).__module__
    return str(module).split(".")[0]
