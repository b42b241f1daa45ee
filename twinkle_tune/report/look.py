"""How plots look: colours of the page and of image files, and what Vega-Lite is told of type and lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SERIES = 8
"""How many candidates have a colour and a form of their own where several are drawn as lines."""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
PAGE = {
    name: f"var(--{name})"
    for name in ("text", "soft", "line", "bar", "win", "warn", *(f"series-{index}" for index in range(SERIES)))
}
"""Colours of a page: the style sheet's, so that plots follow light, dark and paper without being drawn again."""

PAPER = {
    "text": "#1a1f26",
    "soft": "#566070",
    "line": "#dde2e8",
    "bar": "#8d99a8",
    "win": "#08734f",
    "warn": "#a13d00",
    "series-0": "#566070",
    "series-1": "#08734f",
    "series-2": "#1f5fbf",
    "series-3": "#a13d00",
    "series-4": "#7a3fa8",
    "series-5": "#8a5a00",
    "series-6": "#b0306a",
    "series-7": "#0f6b7a",
}
"""Colours of an image file: the light page's, on white."""


def config(colours: Mapping[str, str]) -> dict[str, Any]:
    """Vega-Lite's configuration in these colours."""
    return {
        "background": "transparent",
        "font": FONT,
        # A plot is one image with a text; its figures are in a table for who cannot see it.
        "mark": {"aria": False},
        "view": {"stroke": None, "continuousWidth": 640},
        "axis": {
            "aria": False,
            "domainColor": colours["line"],
            "gridColor": colours["line"],
            "tickColor": colours["line"],
            "labelColor": colours["text"],
            "titleColor": colours["soft"],
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "titleFontSize": 12,
            "labelLimit": 170,
            "labelOverlap": True,
            "titlePadding": 8,
        },
        "axisY": {"grid": False, "domain": False, "ticks": False, "labelPadding": 8, "labelOverlap": False},
        "legend": {
            "aria": False,
            "orient": "top",
            "direction": "horizontal",
            "columns": 2,
            "labelColor": colours["text"],
            "titleColor": colours["soft"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "labelLimit": 150,
            "symbolStrokeWidth": 2,
            "symbolOpacity": 1,
        },
        "text": {"color": colours["text"], "fontSize": 12},
        "rule": {"color": colours["soft"]},
    }
