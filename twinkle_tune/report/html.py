"""Reports as one HTML file that needs nothing else: no network, light and dark, on paper too.

A page is made piece by piece and never held as a whole: that of a large profile is larger than the profile.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from twinkle_tune.kernel.unlooked import YOURS
from twinkle_tune.outcome import Measurement
from twinkle_tune.profile.checked import uncollected
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report import charts
from twinkle_tune.report.lines import FURTHER
from twinkle_tune.report.plot import Plot
from twinkle_tune.report.plots import plots
from twinkle_tune.report.rows import races
from twinkle_tune.report.text import one_line
from twinkle_tune.report.versus import versus, versus_plots
from twinkle_tune.report.view import contest_parts, view

FOLDED_BEYOND = 12
"""With more contests than these the page begins with all of them folded."""
_AT_ONCE = 100
"""So many of a page's small pieces are handed out as one."""


def html_pieces(profile: Profile, path: str = "profile.json") -> Iterator[str]:
    """The whole page, in pieces. ``path`` is where the reader finds the profile."""
    # Nothing of it is in circles, and to look for some goes through the whole profile again and again.
    with uncollected():
        yield from _page(
            "report.html.j2",
            plots(profile),
            _samples(profile),
            report=view(profile, path),
            contests=contest_parts(profile),
            further=FURTHER,
            yours=YOURS,
            unfold=len(profile.contests) <= FOLDED_BEYOND,
        )


def comparison_pieces(profiles: Sequence[Profile], paths: Sequence[str]) -> Iterator[str]:
    """One page of several profiles, in pieces; ``paths`` are where the reader finds them."""
    with uncollected():
        yield from _page("compare.html.j2", versus_plots(profiles), iter(()), shown=versus(profiles, paths))


def _page(template: str, plots: Iterable[Plot], samples: Iterator[tuple[str, str]], **names: Any) -> Iterator[str]:
    """A template as a page, with the plots' data, the raw samples and the scripts that show them."""
    if not charts.available():
        plots = ()
    # What the page says of each plot comes first and its data last: as text that is a small part of the profile.
    drawn, drawings = {}, {}
    for plot in plots:
        drawn[plot.name], drawings[plot.name] = replace(plot, rows=()), _json(_plot(plot))
    kinds = dict.fromkeys(plot.kind for plot in drawn.values())
    data = [
        ("forms", ((kind, _json(charts.form(kind))) for kind in kinds)),
        ("plots", iter(drawings.items())),
        ("samples", samples),
    ]
    scripts = [_library()] if drawn else []
    scripts.append(_file("page.js"))
    pieces = _template(template).generate(
        **names,
        plots=drawn,
        style=Markup(_file("style.css")),  # a file of this package
        data=map(Markup, _json_pieces(data)),  # no "<" is left in them
        scripts=[Markup(script) for script in scripts],  # files of this package and of the library
        policy=_policy(scripts),
        missing="" if charts.available() else charts.MISSING,
    )
    while some := list(islice(pieces, _AT_ONCE)):
        yield "".join(some)


def _plot(plot: Plot) -> dict[str, Any]:
    return {
        "kind": plot.kind,
        "height": charts.height(plot.kind, plot.rows),
        "series": charts.series(plot.kind, plot.rows),
        "rows": plot.rows,
    }


def _samples(profile: Profile) -> Iterator[tuple[str, str]]:
    """Raw times by the place on the page that shows them, as JSON; microseconds, a list a candidate."""
    for number, step in enumerate(profile.steps, 1):
        if step.original_us:
            times = [("original", step.original_us), ("with the winners", step.tuned_us)]
            yield f"step-{number}", _sheet(step.label, times)
    for number, contest in enumerate(profile.contests, 1):
        times = [
            (t.candidate if race == 1 else f"{t.candidate}, timed again", t.outcome.times_us)
            for race, held in races(contest)
            for t in held
            if isinstance(t.outcome, Measurement)
        ]
        if times:
            yield f"contest-{number}", _sheet(contest.slot.name, times)


def _sheet(title: str, times: Iterable[tuple[str, Sequence[float]]]) -> str:
    columns = list(times)
    sheet = {
        "title": one_line(title, 80),
        "names": [one_line(name, 80) for name, _ in columns],
        "times_us": [list(column) for _, column in columns],
    }
    return _json(sheet)


def _json_pieces(data: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> Iterator[str]:
    """The JSON of a table of tables, a value at a time; the innermost values are JSON already."""
    yield "{"
    for place, (name, table) in enumerate(data):
        yield f"{',' * bool(place)}{_json(name)}:{{"
        for inner, (key, value) in enumerate(table):
            yield f"{',' * bool(inner)}{_json(key)}:{value}"
        yield "}"
    yield "}"


def _json(data: object) -> str:
    """JSON that cannot end the element which holds it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _policy(scripts: Iterable[str]) -> str:
    """What the page may do: run these very scripts, use styles, and nothing else; nothing is loaded or sent."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    made: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # In a function of its own: the bundle's names are not the page's.
    return f"(() => {{\n{made}\n}})();".replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _file(name: str) -> str:
    return files("twinkle_tune.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Template:
    from jinja2 import FunctionLoader

    # Names and reasons come from models and kernels that anyone may have written: everything is escaped.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_file)
    )
    return environment.get_template(name)
