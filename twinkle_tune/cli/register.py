"""``--register``: the user's own kernels, from a Python file that registers them or a TOML file of names."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from twinkle_tune.errors import RegistrationError, TuneError, in_a_line

_TABLES = ("layers", "functions")
_OBJECTS = ("layer_impl", "func_impl", "repo")
"""Arguments that only Python can give."""
_TEXTS = (
    "repo_path", "package_name", "layer_name", "repo_id", "revision", "version", "device", "mode", "target_module",
)  # fmt: skip


def register_files(paths: Sequence[Path]) -> None:
    """Take the registrations of each file, in the order given.

    Raises:
        RegistrationError: a file is missing, cannot be read or run, or is of another kind.
    """
    from twinkle_tune.models.factory import working_directory_kept

    # Before the first is run: what is relative is so to the folder in which the command was started.
    places = [path.absolute() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if not _is_file(place):
            raise RegistrationError(f"--register: {path} is no file, expected FILE.py or FILE.toml; check the path")
        match path.suffix.lower():
            case ".py":
                with working_directory_kept():
                    _run(path, place)
            case ".toml":
                _read(path, place)
            case other:
                raise RegistrationError(
                    f"--register: got {path} ({other or 'no ending'}), expected FILE.py or FILE.toml"
                )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or none
        return False


def _run(path: Path, place: Path) -> None:
    # As a module of its own name, so that the source of what it defines can be found and hashed.
    name = f"twinkle_tune_registered_{path.stem}"
    if name in sys.modules:
        raise RegistrationError(f"--register: {path}: a file of the name {path.name} was given already; rename one")
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise RegistrationError(f"--register: {path} cannot be imported as Python; check the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A script finds the files beside it; so does this one.
    sys.path.insert(0, str(place.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # the user's code may raise anything, and a script calls sys.exit()
        sys.modules.pop(name, None)
        if isinstance(error, (TuneError, KeyboardInterrupt)):
            raise
        raise RegistrationError(
            f"--register: {path} raised {in_a_line(error)}; expected a file that "
            "calls register_* functions; --debug shows where"
        ) from error


def _read(path: Path, place: Path) -> None:
    try:
        config = tomllib.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # an error of TOML or of UTF-8 is a ValueError
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RegistrationError(f"--register: {path} cannot be read as TOML ({why}); correct the file") from error
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
            if not name or "\0" in name:
                raise RegistrationError(
                    f"--register: {path}: [{table}]: got the name {name!r:.80}, expected one of letters"
                )
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
    for name, value in entry.items():
        # What the arguments' types say is for Python's checkers; a file's types are checked here, by name.
        is_right = (
            isinstance(value, str) or (name == "version" and type(value) is int) or name not in (*_TEXTS, "version")
        )
        if not is_right or (isinstance(value, str) and ("\0" in value or not value)):
            expected = "a whole number or a text" if name == "version" else "a text"
            raise RegistrationError(f"{where}: got {name} = {value!r:.80}, expected {expected}; correct the file")
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
