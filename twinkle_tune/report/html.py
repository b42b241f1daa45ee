"""Reports as one HTML file that needs nothing else: no network, light and dark, on paper too."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
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
from twinkle_tune.report.view import view

FOLDED_BEYOND = 12
"""With more contests than these the page begins with all of them folded."""


@uncollected()
def html_text(profile: Profile, path: str = "profile.json") -> str:
    """The whole page. ``path`` is where the reader finds the profile."""
    drawn = plots(profile) if charts.available() else ()
    return page(
        "report.html.j2",
        drawn,
        samples=_samples(profile),
        report=view(profile, path),
        further=FURTHER,
        yours=YOURS,
        plots={plot.name: plot for plot in drawn},
        unfold=len(profile.contests) <= FOLDED_BEYOND,
    )


def comparison_text(profiles: Sequence[Profile], paths: Sequence[str]) -> str:
    """One page of several profiles; ``paths`` are where the reader finds them."""
    drawn = versus_plots(profiles) if charts.available() else ()
    return page("compare.html.j2", drawn, samples={}, shown=versus(profiles, paths), plots=drawn)


def page(template: str, drawn: Sequence[Plot], samples: Mapping[str, Any], **names: Any) -> str:
    """A template as a page, with the plots' data, the raw samples and the scripts that show them."""
    data = {
        "forms": {kind: charts.form(kind) for kind in dict.fromkeys(plot.kind for plot in drawn)},
        "plots": {plot.name: _plot(plot) for plot in drawn},
        "samples": samples,
    }
    scripts = [_library()] if drawn else []
    scripts.append(_file("page.js"))
    return _template(template).render(
        **names,
        style=Markup(_file("style.css")),  # a file of this package
        data=Markup(_json(data)),  # no "<" is left in it
        scripts=[Markup(script) for script in scripts],  # files of this package and of the library
        policy=_policy(scripts),
        missing="" if charts.available() else charts.MISSING,
    )


def _plot(plot: Plot) -> dict[str, Any]:
    return {
        "kind": plot.kind,
        "height": charts.height(plot.kind, plot.rows),
        "series": charts.series(plot.kind, plot.rows),
        "rows": plot.rows,
    }


def _samples(profile: Profile) -> dict[str, Any]:
    """Raw times by the place on the page that shows them; microseconds, a list a candidate."""
    found: dict[str, Any] = {}
    for number, step in enumerate(profile.steps, 1):
        if step.original_us:
            found[f"step-{number}"] = _sheet(
                step.label, [("original", step.original_us), ("with the winners", step.tuned_us)]
            )
    for number, contest in enumerate(profile.contests, 1):
        times = [
            (t.candidate if race == 1 else f"{t.candidate}, timed again", t.outcome.times_us)
            for race, held in races(contest)
            for t in held
            if isinstance(t.outcome, Measurement)
        ]
        if times:
            found[f"contest-{number}"] = _sheet(contest.slot.name, times)
    return found


def _sheet(title: str, times: Iterable[tuple[str, Sequence[float]]]) -> dict[str, Any]:
    columns = list(times)
    return {
        "title": one_line(title, 80),
        "names": [one_line(name, 80) for name, _ in columns],
        "times_us": [list(column) for _, column in columns],
    }


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
