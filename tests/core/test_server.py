"""What is shown of a server's URL."""

from __future__ import annotations

import pytest

from twinkle_tune.cli.typed import command_line, remembered
from twinkle_tune.server import shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se:cr@t/1@host/db x", "postgresql://me:***@host/db x"),
        ("postgresql://host/db?user=me&password=secret&sslmode=require", None),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("/folder/store.sqlite", "/folder/store.sqlite"),
    ],
)
def test_no_password_is_shown(text: str, seen: str | None) -> None:
    """Everything else of the text stays."""
    assert shown(text) == (seen or text.replace("secret", "***"))


def test_a_profile_s_command_has_no_password() -> None:
    """Nor have those who wait for the run's lock, who are shown the same line."""
    with remembered(["profile", "qwen3-tiny", "--store", "postgresql://me:secret@host/db"]):
        assert command_line() == "twinkle-tune profile qwen3-tiny --store 'postgresql://me:***@host/db'"
