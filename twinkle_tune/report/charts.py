"""The forms of the plots, as Vega-Lite specifications made with Altair; their data comes apart, as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from twinkle_tune.report.look import PAGE, PAPER, SERIES, config

Kind = Literal["ratios", "parts", "shapes", "memory", "parity", "trend", "why", "timeline", "run"]
Spec = dict[str, Any]

MISSING = "The plots need altair and vl-convert-python, which are not installed: pip install altair vl-convert-python"
"""What a report says instead of its plots."""

_HEIGHTS: Mapping[Kind, int] = {"shapes": 240, "trend": 260}
_ROLES = ["original", "winner", "slower", "other"]
_FORMS = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]


def available() -> bool:
    """Whether plots can be made here."""
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


@cache
def _chart(kind: Kind, on_page: bool) -> Spec:
    makers: Mapping[Kind, Callable[[Mapping[str, str]], Any]] = {
        "ratios": _ratios,
        "parts": _parts,
        "shapes": _shapes,
        "memory": _memory,
        "parity": _parity,
        "trend": _trend,
        "why": _why,
        "timeline": _timeline,
        "run": _run,
    }
    colours = PAGE if on_page else PAPER
    made = makers[kind](colours)
    spec: Spec = made.to_dict()
    del spec["$schema"]  # an address: nothing here is to look like one
    spec["config"] = config(colours)
    return spec


def spec(kind: Kind, rows: list[dict[str, Any]], *, on_page: bool) -> Spec:
    """A whole specification, data included."""
    made = {**_chart(kind, on_page), "height": height(kind, rows), "datasets": {"rows": rows}}
    return _named(made, series(kind, rows))


def height(kind: Kind, rows: Sequence[Mapping[str, Any]]) -> int:
    """Pixels of a plot's inside: a line a name where names stand down the side."""
    if kind in _HEIGHTS:
        return _HEIGHTS[kind]
    if kind == "timeline":
        return 34 * len({row["lane"] for row in rows})
    lines = len({row["name"] for row in rows})
    pairs = len({(row["name"], row.get("when", row.get("role"))) for row in rows}) > lines
    return lines * (40 if pairs and kind in ("parts", "memory") else 26)


def series(kind: Kind, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names that have a colour and a form each; empty where the forms of a plot are those of roles."""
    if kind == "why":
        return [part for part in WHY if any(row["part"] == part for row in rows)]
    return list(dict.fromkeys(row["name"] for row in rows)) if kind in ("shapes", "trend") else []


def _named(made: Spec, names: list[str]) -> Spec:
    """The specification with these names as what its colours and forms stand for; page.js does the same."""
    if not names:
        return made
    # Only where both are told the same names do colour and form share a legend.
    made = deepcopy(made)
    for layer in made["layer"]:
        for channel in ("color", "shape"):
            place = layer["encoding"].get(channel, {})
            # Where each name has its own colour at all times the legend alone is of those that are there.
            if "values" in place.get("legend", {}):
                place["legend"]["values"] = names
            elif "scale" in place:
                place["scale"]["domain"] = names
    return made


def form(kind: Kind) -> Spec:
    """The specification of a page's plots of one kind, without data."""
    return _chart(kind, True)


def _layered(*layers: Any, right: int = 12) -> Any:
    import altair as alt

    return alt.layer(*layers).properties(
        width="container",
        padding={"left": 4, "top": 6, "right": right, "bottom": 4},
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )


def _plain() -> Any:
    import altair as alt

    return alt.Chart(alt.NamedData("rows"))


def _by_role(colours: Mapping[str, str]) -> tuple[Any, Any]:
    import altair as alt

    shades = [colours["soft"], colours["win"], colours["warn"], colours["bar"]]
    colour = alt.Color("role:N", scale=alt.Scale(domain=_ROLES, range=shades), legend=None)
    forms = alt.Scale(domain=_ROLES, range=["diamond", "circle", "triangle-up", "circle"])
    return colour, alt.Shape("role:N", scale=forms, legend=None)


def _ratios(colours: Mapping[str, str]) -> Any:
    """Names down, ratios to the original across, each with its interval; what has none says why."""
    import altair as alt

    colour, shape = _by_role(colours)
    y = alt.Y("name:N", sort=None, title=None)
    x = alt.X(
        "ratio:Q",
        title="time ÷ original",
        scale=alt.Scale(zero=False, nice=False, padding=10),
        axis=alt.Axis(tickCount=6),
    )
    rows = _plain().transform_filter("isValid(datum.ratio)").encode(y=y)
    one = _plain().mark_rule(strokeDash=[3, 3]).encode(x=alt.datum(1, type="quantitative"))
    whisker = rows.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q", color=colour)
    point = rows.mark_point(filled=True, size=80, opacity=1).encode(
        x=x, color=colour, shape=shape, tooltip=alt.Tooltip("tip:N")
    )
    figure = rows.mark_text(align="left", dx=8).encode(x=alt.value("width"), text="text:N")
    refused = (
        _plain()
        .transform_filter("!isValid(datum.ratio)")
        .mark_text(align="left", limit={"expr": "width"}, color=colours["warn"], fontStyle="italic")
        .encode(y=y, x=alt.value(4), text="text:N", tooltip=alt.Tooltip("tip:N"))
    )
    return _layered(one, whisker, point, figure, refused, right=64)


def _parts(colours: Mapping[str, str]) -> Any:
    """Shares of a step's time, before and after, a pair of bars a slot."""
    import altair as alt

    when = ["before", "after"]
    scale = alt.Scale(domain=when, range=[colours["bar"], colours["win"]])
    rows = _plain().encode(
        y=alt.Y("name:N", sort=None, title=None, scale=alt.Scale(paddingInner=0.3)),
        yOffset=alt.YOffset("when:N", sort=when),
        x=alt.X("share:Q", title="share of the original step's time", axis=alt.Axis(format="%", tickCount=5)),
    )
    bars = rows.mark_bar(cornerRadiusEnd=2).encode(
        color=alt.Color("when:N", scale=scale, title=None), tooltip=alt.Tooltip("tip:N")
    )
    figures = rows.mark_text(align="left", dx=4, fontSize=11).encode(text="text:N")
    return _layered(bars, figures, right=48)


def _series(colours: Mapping[str, str], name: str) -> tuple[Any, Any]:
    import altair as alt

    shades = [colours[f"series-{index}"] for index in range(SERIES)]
    return (
        alt.Color(f"{name}:N", sort=None, scale=alt.Scale(range=shades), title=None),
        alt.Shape(f"{name}:N", sort=None, scale=alt.Scale(range=_FORMS), title=None),
    )


def _shapes(colours: Mapping[str, str]) -> Any:
    """Ratios over row counts, a line a candidate, and below which winner is bound from where to where."""
    import altair as alt

    colour, shape = _series(colours, "name")
    x = alt.X("rows:Q", title="rows", scale=alt.Scale(type="log", nice=False, padding=16), axis=alt.Axis(grid=False))
    y = alt.Y("ratio:Q", title="time ÷ original", scale=alt.Scale(zero=False, nice=True))
    rows = _plain().transform_filter("datum.what == 'point'").encode(x=x, color=colour)
    one = _plain().mark_rule(strokeDash=[3, 3]).encode(y=alt.datum(1, type="quantitative"))
    lines = rows.mark_line(strokeWidth=1.5, opacity=0.7).encode(y=y)
    whisker = rows.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q")
    point = rows.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape, tooltip=alt.Tooltip("tip:N"))
    bound = (
        _plain()
        .transform_filter("datum.what == 'range'")
        .mark_rule(strokeWidth=9, strokeCap="round", opacity=0.45)
        .encode(
            x=x,
            x2="to:Q",
            y=alt.value(0),
            color=colour,
            tooltip=alt.Tooltip("tip:N"),
        )
    )
    return _layered(one, bound, lines, whisker, point)


def _memory(colours: Mapping[str, str]) -> Any:
    """Device memory of one call, the original's and the winner's."""
    import altair as alt

    order = ["original", "winner"]
    scale = alt.Scale(domain=order, range=[colours["bar"], colours["win"]])
    rows = _plain().encode(
        y=alt.Y("name:N", sort=None, title=None, scale=alt.Scale(paddingInner=0.3)),
        yOffset=alt.YOffset("role:N", sort=order),
        x=alt.X("mib:Q", title="MiB beyond what was allocated before the call"),
    )
    bars = rows.mark_bar(cornerRadiusEnd=2).encode(
        color=alt.Color("role:N", scale=scale, title=None), tooltip=alt.Tooltip("tip:N")
    )
    figures = rows.mark_text(align="left", dx=4, fontSize=11).encode(text="text:N")
    return _layered(bars, figures, right=72)


def _parity(colours: Mapping[str, str]) -> Any:
    """Error over limit; the limit is 1."""
    import altair as alt

    colour, shape = _by_role(colours)
    y = alt.Y("name:N", sort=None, title=None)
    x = alt.X("margin:Q", title="error ÷ limit, up to 1 passes", scale=alt.Scale(domainMin=0))
    limit = _plain().mark_rule(strokeWidth=2, color=colours["warn"]).encode(x=alt.datum(1, type="quantitative"))
    stem = _plain().mark_bar(size=2, color=colours["line"]).encode(y=y, x=x)
    point = (
        _plain()
        .mark_point(filled=True, size=70, opacity=1)
        .encode(y=y, x=x, color=colour, shape=shape, tooltip=alt.Tooltip("tip:N"))
    )
    return _layered(stem, limit, point)


def _trend(colours: Mapping[str, str]) -> Any:
    """Ratios over dates, a line a step; what got slower is marked with a word and a colour."""
    import altair as alt

    colour, shape = _series(colours, "name")
    x = alt.X("created:N", sort=None, title=None, axis=alt.Axis(labelAngle=0, labelLimit=110, labelOverlap=True))
    y = alt.Y("ratio:Q", title="time ÷ original", scale=alt.Scale(zero=False, nice=True))
    rows = _plain().encode(x=x, color=colour)
    one = _plain().mark_rule(strokeDash=[3, 3]).encode(y=alt.datum(1, type="quantitative"))
    lines = rows.mark_line(strokeWidth=1.5).encode(y=y)
    whisker = rows.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q")
    point = rows.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=shape, tooltip=alt.Tooltip("tip:N"))
    slower = (
        _plain()
        .transform_filter("datum.slower")
        .mark_text(dy=-14, fontWeight="bold", color=colours["warn"], text="regression")
        .encode(x=x, y=y)
    )
    return _layered(one, lines, whisker, point, slower)


WHY = ("saved by kernels", "nothing faster found", "undecided", "not replaceable")
"""The parts of a step in the plot that says where its time goes."""


def _why(colours: Mapping[str, str]) -> Any:
    """A bar a step: what was saved, what stays though it is replaceable, what is undecided and what no slot holds."""
    import altair as alt

    shades = [colours["win"], colours["bar"], colours["warn"], colours["line"]]
    legend = alt.Legend(values=list(WHY), labelLimit=0)
    colour = alt.Color("part:N", scale=alt.Scale(domain=list(WHY), range=shades), legend=legend, title=None)
    bars = (
        _plain()
        .mark_bar()
        .encode(
            y=alt.Y("name:N", sort=None, title=None),
            x=alt.X("from:Q", title="share of the step's time", axis=alt.Axis(format="%", tickCount=5)),
            x2="to:Q",
            color=colour,
            tooltip=alt.Tooltip("tip:N"),
        )
    )
    return _layered(bars)


def _timeline(colours: Mapping[str, str]) -> Any:
    """The parts of a step one after another, without and with the winners; slots inside of others are thinner."""
    import altair as alt

    # Green is a gain elsewhere on the page, and rust what is undecided; what is not replaceable is pale as there.
    shades = [colours["line"], *(colours[f"series-{index}"] for index in range(SERIES) if index not in (1, 3))]
    colour = alt.Color("name:N", sort=None, scale=alt.Scale(range=shades), title=None)
    rows = _plain().encode(
        y=alt.Y("lane:N", sort=None, title=None),
        x=alt.X("from:Q", title="ms, one part after another", axis=alt.Axis(tickCount=5)),
        x2="to:Q",
        tooltip=alt.Tooltip("tip:N"),
    )
    outer = rows.transform_filter("datum.depth == 0").mark_bar(size=24, stroke="white").encode(color=colour)
    inner = rows.transform_filter("datum.depth == 1").mark_bar(size=8, stroke="white").encode(color=colour)
    return _layered(outer, inner)


def _run(colours: Mapping[str, str]) -> Any:
    """A profiling run from its beginning to its end, a lane a phase."""
    import altair as alt

    bars = (
        _plain()
        .mark_bar(color=colours["bar"])
        .encode(
            y=alt.Y("name:N", sort=None, title=None),
            x=alt.X("from:Q", title="seconds since the run began", axis=alt.Axis(tickCount=6)),
            x2="to:Q",
            tooltip=alt.Tooltip("tip:N"),
        )
    )
    return _layered(bars)
