"""What the package itself costs: ``make bench`` writes the figures to reports/bench.json and reports/bench.md."""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.figures import FIGURES, Figure
from twinkle_tune.environment import current_environment

FOLDER = Path("reports")


def main() -> int:
    """Measure every figure, write both files, and fail if a figure misses its goal."""
    environment = current_environment("cpu")
    figures = []
    for measure in FIGURES:
        figure = measure()
        figures.append(figure)
        print(f"{figure.name}: {figure.text} ({'met' if figure.met else 'MISSED'}: {figure.goal_text})")
    made = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": environment.device_name,
        "threads": environment.threads,
        "torch": environment.torch,
        "python": platform.python_version(),
    }
    FOLDER.mkdir(exist_ok=True)
    data = {**made, "figures": [figure.as_dict() for figure in figures]}
    (FOLDER / "bench.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (FOLDER / "bench.md").write_text(_page(made, figures), encoding="utf-8")
    print(f"wrote {FOLDER / 'bench.json'} and {FOLDER / 'bench.md'}")
    return 0 if all(figure.met for figure in figures) else 1


def _page(made: dict[str, object], figures: list[Figure]) -> str:
    lines = [
        "# What the package itself costs",
        "",
        "Made by `make bench`. Each figure is a median over repeated runs, with the smallest and largest beside it.",
        "",
        f"{made['date']}, {made['machine']}, {made['threads']} threads, torch {made['torch']}, "
        f"Python {made['python']}. "
        "Measured on a CPU; says nothing about a GPU.",
        "",
        "| what | figure | goal | met |",
        "|---|---|---|---|",
        *(f"| {f.name} | {f.text} | {f.goal_text} | {'yes' if f.met else 'no'} |" for f in figures),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
