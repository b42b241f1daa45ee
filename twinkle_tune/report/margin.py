"""How close a candidate's tensors came to their limits."""

from __future__ import annotations

from twinkle_tune.outcome import ParityFigure
from twinkle_tune.report.text import is_figure


def closest(parity: tuple[ParityFigure, ...]) -> dict[str, float | str | None]:
    """The comparison that came closest to its limit; nothing where nothing was compared."""
    if not parity:
        return {}
    worst = max(parity, key=nearness)
    return {
        "parity_margin": nearness(worst) if is_figure(nearness(worst)) else None,
        "parity_tensor": worst.tensor,
        "parity_error": worst.error,
        "parity_limit": worst.limit,
    }


def nearness(figure: ParityFigure) -> float:
    """Error over limit; up to 1 passes."""
    if figure.error == 0:
        return 0.0
    return figure.error / figure.limit if figure.limit > 0 else float("inf")
