"""A report as one HTML page that needs nothing else: no script, no network, light and dark, on paper too."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

from twinkle_tune.profile.schema import Profile
from twinkle_tune.report.view import view


def html_text(profile: Profile, path: str = "profile.json") -> str:
    """The whole page. ``path`` is where the reader finds the profile."""
    return _template().render(report=view(profile, path))


@cache
def _template() -> Template:
    source = files("twinkle_tune.report").joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    # Names and reasons come from models and kernels that anyone may have written: everything is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)
