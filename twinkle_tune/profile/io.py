"""Reading profiles: whatever is not one is refused. Writing is profile/json_text.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from twinkle_tune.errors import ProfileError
from twinkle_tune.profile.checked import adapter_of, each_from_json, from_json, uncollected
from twinkle_tune.profile.files import read_file
from twinkle_tune.profile.format import SCHEMA
from twinkle_tune.profile.meaning import check_meaning
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.profile.shares import with_shares
from twinkle_tune.profile.strict import apart, top_of
from twinkle_tune.profile.upgrade import upgraded

_MOST_BYTES = 256 << 20
_ADVICE = "profile the model again"
_UNREADABLE = "{}: cannot be read as a profile ({}); expected a JSON file written by 'twinkle-tune profile'"


def load_profile(path: str | Path) -> Profile:
    """Read and check a profile.

    Raises:
        ProfileError: there is no such file, it is truncated, of another schema, or does not say what a
            profile must; the message names the file, the place in it and what was expected.
    """
    path = Path(path)
    try:
        content = read_file(path, _MOST_BYTES)
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise ProfileError(_UNREADABLE.format(path, error)) from error
    return read_profile(content, str(path))


def read_profile(content: bytes, path: str) -> Profile:
    """As :func:`load_profile`, of what is in the file; ``path`` names it in messages."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ProfileError(_UNREADABLE.format(path, error)) from error
    try:
        parts = apart(text, "contests")
        schema = top_of(parts, "schema")
    except ValueError as error:
        raise ProfileError(
            f"{path}: not valid JSON ({error}), expected a whole profile; it may be truncated: "
            "restore it or profile the model again"
        ) from error
    rest, items = parts.rest, parts.items
    del text, parts  # the text goes with the last of its items
    return _profile(schema, rest, items, path)


def _profile(found: object, rest: str, items: Iterator[str], where: str) -> Profile:
    """The profile of a schema's number, the text without the contests, and the text of each of these."""
    if type(found) is not int or found < 1:
        raise ProfileError(
            f"{where}: got no schema number ({found!r:.80}), expected schema {SCHEMA}; is this a profile?"
        )
    if found > SCHEMA:
        raise ProfileError(f"{where}: got schema {found!r:.80}, expected {SCHEMA}; upgrade twinkle_tune")
    profile = from_json(Profile, rest, where, _ADVICE)
    with uncollected():
        # One after another: all of them as JSON take several times the memory of the text.
        made = each_from_json(Contest, items, where, "contests", _ADVICE)
        contests = tuple(made if found == SCHEMA else map(upgraded, made))
        if contests:
            profile = replace(profile, contests=contests)
        check_meaning(profile, where)
        return with_shares(replace(profile, schema=SCHEMA))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the format, as published in docs/profile.schema.json."""
    schema = adapter_of(Profile).json_schema()
    for table in (schema, *schema["$defs"].values()):
        if "properties" in table:
            table["additionalProperties"] = False  # as load_profile, which refuses a field that it does not know
    required = ["schema", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "required": required}
