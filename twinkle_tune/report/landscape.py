"""What a search saw, as one SVG: for each parameter the times of the configs by its value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from twinkle_tune.ops.space import Config
from twinkle_tune.search.record import Tried

_WIDTH, _HEIGHT, _GAP, _TOP = 220, 170, 48, 54


def landscape_svg(title: str, tried: Sequence[Tried], winner: Config | None) -> str:
    """A panel a parameter: a dot a config that ran, higher is slower (logarithmic); the winner is a filled ring.

    Args:
        title: above the panels.
        tried: of one search.
        winner: its config; parameters that the search did not have are left out.
    """
    ran = [(each.config, each.time_us) for each in tried if each.time_us is not None]
    names = list(ran[0][0]) if ran else []
    width = max(1, len(names)) * (_WIDTH + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT + _TOP + _GAP}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_GAP}" y="20" font-size="14">{escape(title)}</text>',
    ]
    if not ran:
        parts.append(f'<text x="{_GAP}" y="{_TOP}">no config ran</text>')
    for index, name in enumerate(names):
        parts += _panel(_GAP + index * (_WIDTH + _GAP), name, ran, winner)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: int, name: str, ran: Sequence[tuple[Config, float]], winner: Config | None) -> list[str]:
    values = sorted({config[name] for config, _ in ran})
    low, high = (math.log(bound) for bound in (min(t for _, t in ran), max(t for _, t in ran)))
    bottom = _TOP + _HEIGHT

    def x(value: int) -> float:
        return left + _WIDTH * (values.index(value) + 0.5) / len(values)

    def y(time_us: float) -> float:
        return bottom - 8 - (_HEIGHT - 16) * (math.log(time_us) - low) / (high - low or 1)

    parts = [
        f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{left + _WIDTH / 2}" y="{_TOP - 8}" text-anchor="middle">{escape(name)}</text>',
        *(f'<text x="{left - 4}" y="{y(math.exp(t)) + 4:.1f}" text-anchor="end">{math.exp(t):.4g}</text>'
          for t in ((low, high) if left == _GAP else ())),
        *(f'<text x="{x(v):.1f}" y="{bottom + 16}" text-anchor="middle">{v}</text>' for v in values),
    ]  # fmt: skip
    for config, time_us in ran:
        won = winner is not None and _is_part(config, winner)
        look = 'r="6" fill="#d55e00"' if won else 'r="3" fill="#0072b2" fill-opacity="0.5"'
        parts.append(f'<circle cx="{x(config[name]):.1f}" cy="{y(time_us):.1f}" {look}/>')
    return parts


def _is_part(config: Config, whole: Mapping[str, int]) -> bool:
    return all(whole.get(name) == value for name, value in config.items())
