"""Each plot of a report as an image file, made without a display or a browser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from twinkle_tune.errors import TuneError
from twinkle_tune.report import charts
from twinkle_tune.report.plot import Plot

ImageFormat = Literal["png", "svg"]

_WIDTH = 760
_SCALE = 2.0
"""Pixels a unit: sharp on a slide."""


def images(plots: Iterable[Plot], format: ImageFormat) -> Iterator[tuple[str, bytes]]:
    """File name and content of each plot, on white.

    Raises:
        TuneError: the packages that draw are not installed.
    """
    if not charts.available():
        raise TuneError(f"{format}: {charts.MISSING}")
    import vl_convert

    for plot in plots:
        spec = charts.spec(plot.kind, list(plot.rows), on_page=False)
        spec["width"] = _WIDTH
        spec["title"] = {"text": plot.title, "anchor": "start", "fontSize": 14, "fontWeight": "normal", "limit": _WIDTH}
        spec["config"] = {**spec["config"], "background": "white"}
        if format == "png":
            content: bytes = vl_convert.vegalite_to_png(spec, scale=_SCALE)
        else:
            content = vl_convert.vegalite_to_svg(spec).encode()
        yield f"{plot.name}.{format}", content
