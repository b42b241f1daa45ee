"""The reports of the profiles that ship: ``make reports`` writes them, and a test says when they are out of date."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from twinkle_tune.profile.io import load_profile
from twinkle_tune.report import charts
from twinkle_tune.report.render import Format, render

ROOT = Path(__file__).parents[2]
FORMATS: tuple[Format, ...] = ("html", "md")


def shipped(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Each report's path below ``root`` and its text, made from the profiles there; the same on every machine."""
    for path in sorted((root / "profiles").glob("*/*.json")):
        place = path.relative_to(root)
        for form in FORMATS:
            target = Path("reports", place.parent.name, f"{place.stem}.{form}")
            yield target, render(load_profile(path), form, place.as_posix())


def stale(root: Path = ROOT) -> list[str]:
    """What of ``reports/`` is not what the profiles say: a line each."""
    expected = dict(shipped(root))
    there = set(_there(root))
    lines = [f"{path}: no profile has this report" for path in sorted(there - expected.keys())]
    lines += [f"{path}: is missing" for path in sorted(expected.keys() - there)]
    changed = [p for p in sorted(there & expected.keys()) if (root / p).read_text(encoding="utf-8") != expected[p]]
    return [*lines, *(f"{path}: differs from its profile" for path in changed)]


def _there(root: Path) -> Iterator[Path]:
    """The reports that are there; a page with its figures beside it as JSON is another command's."""
    for form in FORMATS:
        for path in (root / "reports").glob(f"*/*.{form}"):
            if not path.with_suffix(".json").exists():
                yield path.relative_to(root)


def write(root: Path = ROOT) -> int:
    """Write every report and remove those without a profile; returns how many were written."""
    expected = dict(shipped(root))
    for path in set(_there(root)) - expected.keys():
        (root / path).unlink()
    for path, text in expected.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return len(expected)


if __name__ == "__main__":
    if not charts.available():
        sys.exit(f"make reports: {charts.MISSING}")
    print(f"wrote {write()} reports to reports/")
