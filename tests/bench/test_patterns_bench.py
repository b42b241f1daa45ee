"""The bench of patterns lets compete what it says, and its page says how far the goal is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.bench import patterns
from tests.bench.patterns import ALL, LAYERS, PATTERNS, PLACED, SAID, Asked, Row
from tests.graph.toys import Stack
from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune.measure.statistics import Ratio
from twinkle_tune.mode import Mode
from twinkle_tune.slot import SlotKind


def test_each_rival_is_of_its_kind() -> None:
    """Patterns compete alone, or not at all, or with all others; a rival is in each of their places."""
    found = patterns.rivals_of(Stack().eval(), {"x": torch.randn(4, 8)}, Mode.INFERENCE, SETTINGS, Quick())
    kinds = {name: {contest.slot.kind for contest in profile.contests} for name, profile in found.items()}
    both = {SlotKind.PATTERN, SlotKind.LAYER}
    assert kinds == {PATTERNS: {SlotKind.PATTERN}, PLACED: {SlotKind.PATTERN}, LAYERS: {SlotKind.LAYER}, ALL: both}
    assert not found[PATTERNS].winners  # nobody wins by the quick clock
    assert len(found[PLACED].winners) == len(found[PLACED].contests) > 0


def _rows(family: str, mode: Mode, prefill: float, train: float) -> list[Row]:
    kinds = {"train": train} if mode.trains else {"prefill": prefill, "decode": 9.0}
    return [
        Row(
            family=family, kind=kind, step=f"{kind} 1x8", rival=rival, bound="", median_us=1000.0,
            against=Ratio(ratio=ratio, low=ratio / 2, high=ratio * 2, rounds=8),
        )
        for kind, ratio in kinds.items()
        for rival in ("original", *SAID)
    ]  # fmt: skip


@pytest.mark.parametrize(("train", "code", "said"), [(0.92, 0, "met"), (0.96, 1, "MISSED by 0.030")])
def test_the_page_says_how_far(
    train: float, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both means must meet the goal; decode counts for neither; a miss fails the run, and the page has its size."""
    short: list[Asked] = []

    def run(family: str, mode: Mode, asked: Asked) -> list[Row]:
        short.append(asked)
        return _rows(family, mode, 0.5 if family.startswith("phi") else 1.0, train)

    monkeypatch.setattr(patterns, "run", run)
    assert patterns.main(["--quick", "--out", str(tmp_path)]) == code
    assert short == [patterns.QUICK] * 8
    data = json.loads((tmp_path / "patterns.json").read_text(encoding="utf-8"))
    assert data["met"] is (code == 0)
    assert data["means"]["prefill"][PATTERNS] == pytest.approx(0.5**0.25)
    page = (tmp_path / "patterns.md").read_text(encoding="utf-8")
    assert f"| patterns | 0.841 | {train:.3f} | {said} |" in page
    assert "**the figures say nothing**" in page


@pytest.mark.slow
def test_the_quick_bench_of_patterns_runs(tmp_path: Path) -> None:
    """Two families' profiles are made, bound in turn and timed; in Phi patterns have no place."""
    assert patterns.main(["--quick", "--only", "phi", "--out", str(tmp_path / "phi")]) in (0, 1)
    rows = json.loads((tmp_path / "phi" / "patterns.json").read_text(encoding="utf-8"))["rows"]
    assert {row["rival"] for row in rows} == {"original", *SAID}
    assert not [row for row in rows if row["rival"] in (PATTERNS, PLACED) and row["bound"]]
    patterns.main(["--quick", "--only", "llama", "--out", str(tmp_path / "llama")])
    rows = json.loads((tmp_path / "llama" / "patterns.json").read_text(encoding="utf-8"))["rows"]
    assert {row["bound"] for row in rows if row["rival"] == PLACED and row["kind"] == "prefill"} != {""}
