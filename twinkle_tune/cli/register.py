"""``--register``: the user's own kernels, from a Python file that registers them or a TOML file of names."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from twinkle_tune.errors import RegistrationError, TuneError

_TABLES = ("layers", "functions")
_OBJECTS = ("layer_impl", "func_impl", "repo")
"""Arguments that only Python can give."""


def register_files(paths: Sequence[Path]) -> None:
    """Take the registrations of each file, in the order given.

    Raises:
        RegistrationError: a file is missing, cannot be read or run, or is of another kind.
    """
    for path in paths:
        if not path.is_file():
            raise RegistrationError(f"--register: {path} is no file, expected FILE.py or FILE.toml; check the path")
        match path.suffix.lower():
            case ".py":
                _run(path)
            case ".toml":
                _read(path)
            case other:
                raise RegistrationError(
                    f"--register: got {path} ({other or 'no ending'}), expected FILE.py or FILE.toml"
                )


def _run(path: Path) -> None:
    # As a module of its own name, so that the source of what it defines can be found and hashed.
    name = f"twinkle_tune_registered_{path.stem}"
    if name in sys.modules:
        raise RegistrationError(f"--register: {path}: a file of the name {path.name} was given already; rename one")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RegistrationError(f"--register: {path} cannot be imported as Python; check the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A script finds the files beside it; so does this one.
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[name]
        if isinstance(error, TuneError):
            raise
        raise RegistrationError(
            f"--register: {path} raised {type(error).__name__}: {error}; expected a file that "
            "calls register_* functions; --debug shows where"
        ) from error


def _read(path: Path) -> None:
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors
        raise RegistrationError(f"--register: {path} cannot be read as TOML ({error}); correct the file") from error
    odd = [name for name in config if name not in _TABLES]
    flat = [
        f"{table}.{name}"
        for table in _TABLES
        for name, entry in _entries(config.get(table, {}), f"{path}: [{table}]").items()
        if not isinstance(entry, dict)
    ]
    if odd or flat or not config:
        got = ", ".join(odd + flat) or "an empty file"
        raise RegistrationError(
            f"--register: {path}: got {got}, expected tables [layers.NAME] and [functions.NAME] with the "
            "arguments of register_kernels"
        )
    for table in _TABLES:
        for name, entry in config.get(table, {}).items():
            _check_entry(f"--register: {path}: [{table}.{name}]", entry)
    from twinkle_tune.kernel import register_kernels

    register_kernels(config)


def _check_entry(where: str, entry: dict[str, object]) -> None:
    """TOML is data: it names packages and repos, it does not stand for objects of Python, and names stay inside."""
    for name in _OBJECTS:
        if name in entry:
            raise RegistrationError(
                f"{where}: got {name} = {entry[name]!r:.80}, which is an object of Python, expected repo_path with "
                "package_name, or repo_id; register the object in a FILE.py and pass that"
            )
    package = entry.get("package_name")
    if isinstance(package, str) and not package.isidentifier():
        raise RegistrationError(
            f"{where}: got package_name = {package!r:.80}, expected the name of a package inside of repo_path; put "
            "the folder into repo_path"
        )


def _entries(table: object, where: str) -> dict[str, object]:
    if not isinstance(table, dict):
        raise RegistrationError(f"--register: {where} is no table, expected [layers.NAME] or [functions.NAME]")
    return table
