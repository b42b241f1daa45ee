"""One door to every format of report that is a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, assert_never

from twinkle_tune.profile.schema import Profile

Format = Literal["html", "md", "csv", "json", "trace"]


def render(profile: Profile, format: Format, path: str = "profile.json") -> str:
    """The report of a profile as text. Arguments as of :func:`pieces`."""
    return "".join(pieces(profile, format, path))


def pieces(profile: Profile, format: Format, path: str = "profile.json") -> Iterator[str]:
    """The report of a profile as text, in pieces: what is written needs never be held as a whole.

    Args:
        profile: what to report on.
        format: "html" is a whole page, "md" GitHub's Markdown, "csv" one line a raw sample, "json" every other table,
            "trace" a timeline that Perfetto and speedscope open.
        path: where the reader finds the profile, for the lines to copy in the HTML and Markdown reports.
    """
    # Imported here, so that nobody needs Jinja2 for a CSV file.
    match format:
        case "html":
            from twinkle_tune.report.html import html_pieces

            return html_pieces(profile, path)
        case "md":
            from twinkle_tune.report.markdown import markdown_text

            return iter([markdown_text(profile, path)])
        case "csv":
            from twinkle_tune.report.data import csv_text

            return iter([csv_text(profile)])
        case "json":
            from twinkle_tune.report.data import json_text

            return iter([json_text(profile)])
        case "trace":
            from twinkle_tune.report.trace import trace_text

            return iter([trace_text(profile)])
        case _:
            assert_never(format)
