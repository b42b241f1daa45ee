"""The page of measured results says what the figures under reports/ say."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from tests.docs.results import PAGE, ROOT, page
from tests.report import fabricate
from twinkle_tune.report.recommend import advice_text

_MADE = {"date": "2026-11-20", "machine": "A CPU", "threads": 2, "torch": "2.13.0+cpu"}
_RULES = {"wrong": 1, "conduct": 2, "right": 3} | {
    f"{off}% off, {bits}": number for number, (off, bits) in enumerate(product((2, 5), ("float32", "half")), start=4)
}


def _report(root: Path, name: str, **data: object) -> None:
    path = root / "reports" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_MADE | data), encoding="utf-8")
    path.with_suffix(".md").write_text(f"# Title of {name}\n\nMade by `make {path.stem}`.\n", encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    """docs/results.md is what is made of reports/ and profiles/ today."""
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(), "run 'make reports' and commit what it writes"


def test_a_report_has_its_machine_date_and_command(tmp_path: Path) -> None:
    """A line names where, when and how its figures were made, and leads to the report; also of an unknown report."""
    _report(tmp_path, "cpu/other")
    made = "A CPU, 2 threads, torch 2.13.0+cpu | 2026-11-20 | `make other`"
    assert f"| [Title of cpu/other](../reports/cpu/other.md) |  | {made} |" in page(tmp_path).splitlines()


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("bench", {"figures": [{"goal": 1, "median": 2.0}, {"goal": 3, "median": 2}, {"goal": None, "median": 1}]},
         "1 of 2 goals met"),
        ("parity-rules", {"trials": dict.fromkeys(_RULES, 9), "mistaken": {"ours": _RULES}, "met": False},
         "accepts 1 of 9 trials with wrong values and 2 of 9 with wrong conduct, refuses 3 of 9 right ones; accepts of "
         "kernels with a number 2% off 4 of 9 in float32 and 5 of 9 in half precision, 5% off 6 of 9 and 7 of 9 (goals "
         "MISSED)"),
        ("search-shared", {"seeds": 5, "met": True, "rows": [{}, {}, {"loss": 0.004, "twice": 0}]},
         "four workers with a quarter of the timings each, beside one that has all: their winner's time is +0.4% in "
         "the median over 2 landscapes with 5 seeds each; 0 configs timed twice (goals met)"),
        ("aa", {"false": 3, "contests": 100, "upper": 0.0758, "goal": 0.01, "met": False},
         "3 false switches in 100 contests, with 95% confidence at most 7.58% (goal 1%, MISSED)"),
        ("hangs", {"held": 14, "runs": [{}] * 15},
         "in 14 of 15 runs the budget was kept and the good candidate was tried"),
        ("runs", {"figures": [{"name": f"{name}, {what}", "median": median, "goal": 0.35} for name, what, median in
                              (("a", "wall time", 0.3), ("a", "processor time", 0.9), ("b", "wall time", 0.36))]},
         "inference and training take 0.30, 0.36 of the time that they took before (goal 0.35 in the median, MISSED)"),
        ("regret", {"figures": {"real": {"races": 40, "median": 0.001, "p95": 0.02, "cost": 0.25}}, "met": True},
         "40 races: regret 0.10% in the median, 2.00% at the 95th percentile, for 25% of the full cost (goals met)"),
        ("patterns", {"means": {"prefill": {"patterns": 0.9876}, "train": {"patterns": 1}}, "goal": 0.93, "met": False},
         "patterns alone take 0.988 of the original's prefill and 1.000 of its training step, geometric means (goal "
         "0.93, MISSED)"),
        ("cpu/models", {"rows": [{"rival": "twinkle_tune", "against": {"low": 0.8, "high": 0.9}},
                                 {"rival": "twinkle_tune", "against": {"low": 1.01, "high": 1.1}},
                                 {"rival": "torch.compile", "against": {"low": 0.1, "high": 0.2}}]},
         "of 2 steps 1 clearly faster than the original, 1 clearly slower"),
    ],
)  # fmt: skip
def test_what_a_report_says(tmp_path: Path, name: str, data: dict[str, object], text: str) -> None:
    """The sentence of a report holds its own figures, and a goal that was missed is called so."""
    _report(tmp_path, name, **data)
    assert text in page(tmp_path)


def test_a_shipped_profile_has_its_advice(tmp_path: Path) -> None:
    """A profile that ships has a line with what to do with it and its machine; one with a report a link to it."""
    profile = fabricate.normal()
    profile.save(tmp_path / "profiles" / "cpu" / "one.json")
    assert advice_text(profile) in page(tmp_path)
    assert "../reports/cpu/one.md" not in page(tmp_path)
    (tmp_path / "reports" / "cpu").mkdir(parents=True)
    (tmp_path / "reports" / "cpu" / "one.md").write_text("# A report\n", encoding="utf-8")
    assert "](../reports/cpu/one.md)" in page(tmp_path)


def test_a_report_without_its_command_is_an_error(tmp_path: Path) -> None:
    """A page that does not say how it was made is refused by name."""
    _report(tmp_path, "other")
    (tmp_path / "reports" / "other.md").write_text("# Title\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.md: expected a heading and 'Made by"):
        page(tmp_path)
