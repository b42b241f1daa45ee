"""What the pages in reports/ share: on what machine and when, and how the files are written."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil, comb
from pathlib import Path

from twinkle_tune.environment import current_environment

Made = dict[str, str | int]


def made(device: str) -> Made:
    """Date, machine and versions of what is measured now."""
    environment = current_environment(device)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": device,
        "machine": environment.device_name,
        "threads": environment.threads,
        "torch": environment.torch,
        "python": platform.python_version(),
    }


def made_line(made: Made) -> str:
    """The same in a line for a page."""
    if str(made["device"]).startswith("cpu"):
        where = f"{made['threads']} threads, torch {made['torch']}, Python {made['python']}. Measured on a CPU; "
        return f"{made['date']}, {made['machine']}, {where}says nothing about a GPU."
    return f"{made['date']}, {made['machine']}, torch {made['torch']}, Python {made['python']}."


def write(folder: Path, name: str, data: object, lines: Sequence[str]) -> None:
    """Write ``name``.json and ``name``.md into the folder, and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print(f"wrote {folder / f'{name}.json'} and {folder / f'{name}.md'}")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def binomial_upper(found: int, tried: int, confidence: float = 0.95) -> float:
    """The largest rate at which so few would still be found with probability 1 - confidence (Clopper and Pearson).

    One-sided, exact; by halving the interval.
    """
    if found >= tried:
        return 1.0
    low, high = found / tried, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        seldom = sum(comb(tried, k) * rate**k * (1 - rate) ** (tried - k) for k in range(found + 1))
        low, high = (rate, high) if seldom > 1 - confidence else (low, rate)
    return high
