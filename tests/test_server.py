"""A database server is named by a URL, which is shown without its password, however it is written."""

from __future__ import annotations

import pytest

from twinkle_tune.server import shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:SECRET@h/db",
        "postgresql://me@corp:SECRET@h/db",
        "postgresql://team/me:SECRET@h:5432/db",
        "postgresql+psycopg://u:SEC RET@h/db",
        "postgresql://u:SEC@RET@h/db",
        "postgresql://h/db?user=u&password=SECRET",
        "postgresql://h/db?PASSWORD=SEC RET",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    """Not where it should have been quoted, nor as a parameter; the place of the server stays."""
    told = shown(f"--store: got {url}")
    assert "SEC" not in told
    assert "RET" not in told
    assert "***" in told
    assert "h" in told.rpartition("://")[2]


@pytest.mark.parametrize("text", ["postgresql://me@h:5432/db", "hub:owner/name@main", "ray://10.0.0.1:6379"])
def test_what_has_no_password_is_shown_whole(text: str) -> None:
    """It names what the command is to be repeated with."""
    assert shown(text) == text
