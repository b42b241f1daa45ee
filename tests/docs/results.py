"""The page of measured results: ``make reports`` writes docs/results.md, and a test says when it is out of date.

Every figure of the page is read from the JSON files of reports/, or from the profiles that ship.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from twinkle_tune.profile.io import load_profile
from twinkle_tune.report.recommend import advice_text

ROOT = Path(__file__).parents[2]
PAGE = Path("docs", "results.md")
_HEAD = """\
# Measured results

What was measured so far, on which machine and when. This page is written by `make reports` from the figures under
`reports/`. Each line leads to its page there, which says how it was done. No GPU code of this package has been run on a
GPU so far, unless a line below names a GPU as its machine. What was replayed or counted says nothing about speed.
"""
_UNDATED = "not dated"


def page(root: Path = ROOT) -> str:
    """The page in Markdown."""
    lines = [_HEAD, "| what | result | machine | date | made by |", "|---|---|---|---|---|"]
    lines += [
        _line(root, path) for path in sorted((root / "reports").rglob("*.json")) if path.with_suffix(".md").exists()
    ]
    profiles = list(_profiles(root))
    if profiles:
        lines += [
            "",
            "## Profiles that ship",
            "",
            "| profile | what to do with it | machine | date |",
            "|---|---|---|---|",
            *profiles,
        ]
    return "\n".join([*lines, ""])


def _line(root: Path, path: Path) -> str:
    data, text = json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".md").read_text(encoding="utf-8")
    title, command = re.search(r"^# (.+)$", text, re.MULTILINE), re.search(r"Made by (`[^`]+`)", text)
    if title is None or command is None:
        raise ValueError(
            f"{path.with_suffix('.md')}: expected a heading and 'Made by `command`'; make the report again"
        )
    link = f"[{title[1]}](../{path.with_suffix('.md').relative_to(root).as_posix()})"
    sentence = _RESULTS[path.stem](data) if path.stem in _RESULTS else ""
    return _row(link, sentence, _machine(data), data.get("date", _UNDATED), command[1])


def _profiles(root: Path) -> Iterator[str]:
    for path in sorted((root / "profiles").glob("*/*.json")):
        profile, place = load_profile(path), path.relative_to(root / "profiles")
        name = f"{profile.model.name}, {profile.mode}, {profile.model.dtype}"
        report = root / "reports" / place.with_suffix(".md")
        link = f"[{name}](../{report.relative_to(root).as_posix()})" if report.exists() else name
        yield _row(link, advice_text(profile), profile.environment.device_name, profile.created[:10])


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _machine(data: Mapping[str, Any]) -> str:
    """The machine of a report; a replay has none, as nothing was timed for it."""
    if "date" not in data:
        return "none: recorded times"
    named = [data.get("machine") or data.get("device"), f"{data['threads']} threads" if "threads" in data else ""]
    return ", ".join([*filter(None, named), f"torch {data['torch']}"])


# A sentence a report, by the name of its file.


def _bench(data: Mapping[str, Any]) -> str:
    goals = [figure for figure in data["figures"] if figure["goal"] is not None]
    met = sum(figure["median"] <= figure["goal"] for figure in goals)
    return f"{met} of {len(goals)} goals met"


def _fleet(data: Mapping[str, Any]) -> str:
    lost = f"{data['lost']} contests lost in {data['seeds']} runs with failures"
    return f"{lost}; devices busy at least {min(data['busy']):.1%}"


def _rules(data: Mapping[str, Any]) -> str:
    trials, ours = data["trials"], data["mistaken"]["ours"]
    return (
        f"accepts {ours['wrong']} of {trials['wrong']} trials with wrong values and {ours['conduct']} of "
        f"{trials['conduct']} with wrong conduct, refuses {ours['right']} of {trials['right']} right ones; accepts of "
        f"kernels with a number 2% off {_of(data, '2% off, float32')} in float32 and {_of(data, '2% off, half')} in "
        f"half precision, 5% off {_of(data, '5% off, float32')} and {_of(data, '5% off, half')} (goals {_met(data)})"
    )


def _of(data: Mapping[str, Any], kind: str) -> str:
    return f"{data['mistaken']['ours'][kind]} of {data['trials'][kind]}"


def _replay(data: Mapping[str, Any]) -> str:
    most = max(cell["budget"] for cell in data["cells"])
    cells = [cell for cell in data["cells"] if cell["way"] == "ours" and cell["budget"] == most]
    middle, average = (max(cell[key] for cell in cells) for key in ("median", "mean"))
    return (
        f"after {most} timings slower than the best config by at most {middle:.1%} in the median of {data['seeds']} "
        f"seeds, {average:.1%} in the mean: the worst of {len(cells)} landscapes"
    )


def _shared(data: Mapping[str, Any]) -> str:
    *rows, together = data["rows"]
    return (
        f"four workers with a quarter of the timings each, beside one that has all: their winner's time is "
        f"{together['loss']:+.1%} in the median over {len(rows)} landscapes with {data['seeds']} seeds each; "
        f"{together['twice']} configs timed twice (goals {_met(data)})"
    )


def _aa(data: Mapping[str, Any]) -> str:
    return (
        f"{data['false']} false switches in {data['contests']} contests, with 95% confidence at most "
        f"{data['upper']:.2%} (goal {data['goal']:.0%}, {_met(data)})"
    )


def _hangs(data: Mapping[str, Any]) -> str:
    return f"in {data['held']} of {len(data['runs'])} runs the budget was kept and the good candidate was tried"


def _runs(data: Mapping[str, Any]) -> str:
    figures = [figure for figure in data["figures"] if figure["name"].endswith("wall time")]
    told = ", ".join(f"{figure['median']:.2f}" for figure in figures)
    met = all(figure["median"] <= figure["goal"] for figure in figures)
    return (
        f"inference and training take {told} of the time that they took before (goal {figures[0]['goal']:g} in the "
        f"median, {_met({'met': met})})"
    )


def _regret(data: Mapping[str, Any]) -> str:
    real = data["figures"]["real"]
    return (
        f"{real['races']:g} races: regret {real['median']:.2%} in the median, {real['p95']:.2%} at the 95th "
        f"percentile, for {real['cost']:.0%} of the full cost (goals {_met(data)})"
    )


def _models(data: Mapping[str, Any]) -> str:
    mine = [row["against"] for row in data["rows"] if row["rival"] == "twinkle_tune"]
    faster, slower = (sum(map(test, mine)) for test in (lambda a: a["high"] < 1, lambda a: a["low"] > 1))
    return f"of {len(mine)} steps {faster} clearly faster than the original, {slower} clearly slower"


def _patterns(data: Mapping[str, Any]) -> str:
    found = {kind: means["patterns"] for kind, means in data["means"].items()}
    return (
        f"patterns alone take {found['prefill']:.3f} of the original's prefill and {found['train']:.3f} of its "
        f"training step, geometric means (goal {data['goal']}, {_met(data)})"
    )


def _met(data: Mapping[str, Any]) -> str:
    return "met" if data["met"] else "MISSED"


def _neighbour(data: Mapping[str, Any]) -> str:
    ratios = [near["took_s"] / full["took_s"] for full, near in data["turns"]]
    met = "met" if median(ratios) <= data["goal"] else "missed"
    return (
        f"with a neighbour's profile {', '.join(f'{ratio:.2f}' for ratio in ratios)} of a full run's time, in turn; "
        f"other sizes are left to a second run (goal {data['goal']} in the median, {met})"
    )


_RESULTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "fleet": _fleet,
    "hangs": _hangs,
    "runs": _runs,
    "runs-busy": _runs,
    "neighbour": _neighbour,
    "bench": _bench,
    "parity-rules": _rules,
    "search-replay": _replay,
    "search-shared": _shared,
    "aa": _aa,
    "regret": _regret,
    "models": _models,
    "patterns": _patterns,
}


if __name__ == "__main__":
    (ROOT / PAGE).write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
