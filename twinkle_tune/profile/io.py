"""Profiles on disk: validated on reading, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twinkle_tune.errors import ProfileError
from twinkle_tune.profile.checked import adapter_of, from_json, to_data, top_of
from twinkle_tune.profile.files import read_file, write_file
from twinkle_tune.profile.meaning import check_meaning
from twinkle_tune.profile.schema import SCHEMA, Profile

_WIDTH = 110
_MOST_BYTES = 256 << 20


def load_profile(path: str | Path) -> Profile:
    """Read and check a profile.

    Raises:
        ProfileError: there is no such file, it is truncated, of another schema, or does not say what a
            profile must; the message names the file, the place in it and what was expected.
    """
    path = Path(path)
    try:
        content = read_file(path, _MOST_BYTES)
        text = content.decode()
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError, as is a NUL in the path
        raise ProfileError(
            f"{path}: cannot be read as a profile ({error}); expected a JSON file written by 'twinkle-tune profile'"
        ) from error
    try:
        found = top_of(text, "schema")
    except ValueError as error:
        raise ProfileError(
            f"{path}: not valid JSON ({error}), expected a whole profile; it may be truncated: "
            "restore it or profile the model again"
        ) from error
    del text  # which is as large again
    return _profile(found, content, str(path))


def profile_from_data(data: object, where: str) -> Profile:
    """The profile that parsed JSON stands for; ``where`` names it in messages.

    Raises:
        ProfileError: as :func:`load_profile`.
    """
    return _profile(data.get("schema") if isinstance(data, dict) else None, json.dumps(data), where)


def _profile(found: object, text: str | bytes, where: str) -> Profile:
    if type(found) is not int or found < 1:
        raise ProfileError(
            f"{where}: got no schema number ({found!r:.80}), expected schema {SCHEMA}; is this a profile?"
        )
    if found != SCHEMA:
        step = "upgrade twinkle_tune" if found > SCHEMA else "profile the model again"
        raise ProfileError(f"{where}: got schema {found!r:.80}, expected {SCHEMA}; {step}")
    profile = from_json(Profile, text, where, "profile the model again")
    check_meaning(profile, where)
    return profile


def write_profile(profile: Profile, path: str | Path) -> Path:
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


def profile_text(profile: Profile) -> str:
    """A profile as JSON text: fields in the order of the schema, short lists on one line."""
    return _pretty(to_data(profile)) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the format, as published in docs/profile.schema.json."""
    schema = adapter_of(Profile).json_schema()
    for table in (schema, *schema["$defs"].values()):
        if "properties" in table:
            table["additionalProperties"] = False  # as load_profile, which refuses a field that it does not know
    required = ["schema", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "required": required}


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
