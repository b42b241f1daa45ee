"""Frozen values as JSON text, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinkle_tune.errors import ProfileError
from twinkle_tune.profile.files import write_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_WIDTH = 110


def to_data(value: DataclassInstance) -> Any:
    """A frozen value as JSON has it: tables, and lists for tuples. Writing needs no validation, so no pydantic."""
    return _plain(asdict(value))


def write_profile(profile: DataclassInstance, path: str | Path) -> Path:
    """Write a profile in one step: an existing file is replaced only by a whole new one, of the same mode and owner.

    A symbolic link is followed; what exists and is no regular file (a pipe, /dev/stdout) is written to as it is.

    Raises:
        ProfileError: the folder cannot be made or written to (or the disk is full), it is a folder or a socket, or
            the profile holds a number that JSON lacks (an infinity).
    """
    path = Path(path)
    try:
        write_file(path, profile_text(profile).encode())
    except (OSError, ValueError) as error:  # ValueError: a number or text that JSON cannot hold
        raise ProfileError(
            f"{path}: the profile cannot be written ({error}); an existing file is as it was; choose another path"
        ) from error
    return path


def profile_text(profile: DataclassInstance) -> str:
    """A profile as JSON text: fields in the order of the schema, short lists on one line."""
    return _pretty(to_data(profile)) + "\n"


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    return [_plain(item) for item in data] if isinstance(data, (list, tuple)) else data


def _pretty(data: Any, indent: int = 0) -> str:
    """JSON with two spaces of indentation in which whatever fits a line, or is a list of numbers, stands on one."""
    flat = json.dumps(data, ensure_ascii=False, allow_nan=False)
    numbers = isinstance(data, list) and all(isinstance(item, (int, float)) for item in data)
    if numbers or len(flat) + indent <= _WIDTH or not isinstance(data, (dict, list)):
        return flat
    pad, end = " " * (indent + 2), " " * indent
    if isinstance(data, dict):
        body = [f"{pad}{json.dumps(key)}: {_pretty(value, indent + 2)}" for key, value in data.items()]
        return "{\n" + ",\n".join(body) + f"\n{end}}}"
    return "[\n" + ",\n".join(pad + _pretty(item, indent + 2) for item in data) + f"\n{end}]"
