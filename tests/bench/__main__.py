"""What the package itself costs: ``make bench`` writes the figures to reports/bench.json and reports/bench.md."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.again import AGAIN
from tests.bench.figure import Figure
from tests.bench.figures import FIGURES
from tests.bench.large import LARGE
from tests.bench.page import made, made_line, write
from tests.bench.peak import PEAKS
from tests.bench.runs import RUNS
from tests.bench.stores import STORES
from tests.bench.watched import WATCHED

FOLDER = Path("reports")


def main() -> int:
    """Measure every figure, write both files, and fail if a figure misses its goal."""
    facts, figures = made("cpu"), []
    for measure in (*FIGURES, *LARGE, *STORES, *WATCHED, *AGAIN, *RUNS, *PEAKS):
        figure = measure()
        figures.append(figure)
        print(f"{figure.name}: {figure.text} ({'met' if figure.met else 'MISSED'}: {figure.goal_text})")
    data = {**facts, "figures": [figure.as_dict() for figure in figures]}
    write(FOLDER, "bench", data, _page(made_line(facts), figures))
    return 0 if all(figure.met for figure in figures) else 1


def _page(where: str, figures: list[Figure]) -> list[str]:
    return [
        "# What the package itself costs",
        "",
        "Made by `make bench`. Each figure is a median over repeated runs, with the smallest and largest beside it.",
        "",
        where,
        "",
        "| what | figure | goal | met |",
        "|---|---|---|---|",
        *(
            f"| {f.name} | {f.text} | {f.goal_text} | {'-' if f.skipped else 'yes' if f.met else 'no'} |"
            for f in figures
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
