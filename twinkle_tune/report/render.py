"""One door to every format of report that is a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, assert_never

from twinkle_tune.profile.schema import Profile

Format = Literal["html", "md", "csv", "json", "trace"]


def render(profile: Profile, format: Format, path: str = "profile.json") -> str:
    """The report of a profile as text.

    Args:
        profile: what to report on.
        format: "html" is a whole page, "md" GitHub's Markdown, "csv" one line a raw sample, "json" every other table,
            "trace" a timeline that Perfetto and speedscope open.
        path: where the reader finds the profile, for the lines to copy in the HTML and Markdown reports.
    """
    return _writer(format, path)(profile)


def _writer(format: Format, path: str) -> Callable[[Profile], str]:
    # Imported here, so that nobody needs Jinja2 for a CSV file.
    match format:
        case "html":
            from twinkle_tune.report.html import html_text

            return lambda profile: html_text(profile, path)
        case "md":
            from twinkle_tune.report.markdown import markdown_text

            return lambda profile: markdown_text(profile, path)
        case "csv":
            from twinkle_tune.report.data import csv_text

            return csv_text
        case "json":
            from twinkle_tune.report.data import json_text

            return json_text
        case "trace":
            from twinkle_tune.report.trace import trace_text

            return trace_text
        case _:
            assert_never(format)
