"""The bench of runs from a neighbour: what it counts as no worse, and its page. No run is made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench import neighbour
from tests.bench.neighbour import Run, is_no_worse
from tests.report import fabricate
from twinkle_tune.profile.collection import LIST, Wanted, best, read_list
from twinkle_tune.profile.hub import parse_place
from twinkle_tune.profile.schema import Profile

RUN = Run(
    took_s=100.0,
    cpu_s=150.0,
    load=0.5,
    phases={"ways": 60.0},
    winners={"RMSNorm 1": "torch.rms_norm", "step prefill": "compile"},
    steps={"prefill": (0.9, 0.88, 0.92)},
    calls=4,
)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"winners": {}, "steps": {"prefill": (0.91, 0.89, 0.93)}}, True),
        ({"winners": {}, "steps": {"prefill": (0.97, 0.96, 0.98)}}, False),
        ({"winners": {}, "steps": {}}, False),
    ],
    ids=["the same won", "others, as fast", "others, clearly slower", "nothing won"],
)
def test_the_same_winners_or_better(changes: dict[str, Any], holds: bool) -> None:
    """Others may win where no step is clearly slower with them; a step that nobody timed takes the original's time."""
    assert is_no_worse(RUN, replace(RUN, **changes)) is holds


@pytest.mark.parametrize(("near_s", "code"), [(30.0, 0), (50.0, 1)])
def test_turns_and_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, near_s: float, code: int) -> None:
    """Which of the two comes first changes; the first full run is the neighbour, made elsewhere; the median decides."""
    asked: list[bool] = []
    profile = fabricate.profile(fabricate.won())

    def ran(command: Sequence[str], hub: Any, folder: str) -> tuple[Profile, Run]:
        asked.append("--from-hub" in command)
        if asked[-1]:
            files = hub.datasets[neighbour.REPO].commits[hub.datasets[neighbour.REPO].branches["main"]]
            (entry,) = read_list(files[LIST], "").profiles
            assert entry.environment.torch == "2.0.0"
        return profile, replace(RUN, took_s=near_s) if asked[-1] else RUN

    monkeypatch.setattr(neighbour, "ran", ran)
    assert neighbour.main(["--turns", "3", "--out", str(tmp_path), "--", "--no-ways"]) == code
    assert asked == [False, True, True, False, False, True]
    data = json.loads((tmp_path / "neighbour.json").read_text(encoding="utf-8"))
    assert data["command"] == "profile qwen3-tiny --device cpu --no-ways"
    page = (tmp_path / "neighbour.md").read_text(encoding="utf-8")
    assert page.count(f"| 100 s (load 0.5) | {near_s:.0f} s (load 0.5) | {near_s / 100:.2f} | 1.00 | 2 of 2 |") == 3
    assert page.count("prefill 0.900; ways for 4 calls") == 6


def test_the_collection_can_be_read() -> None:
    """The neighbour's collection is one as it is pushed: its list is read, and has the profile's digest."""
    profile = fabricate.profile(fabricate.won())
    files = neighbour.collection(profile)
    (entry,) = read_list(files[LIST], "").profiles
    assert entry.path in files
    assert entry.bytes == len(files[entry.path])
    assert parse_place(neighbour.REPO).repo_id == neighbour.REPO
    assert not isinstance(best([entry], _wanted(profile)), str)


def _wanted(profile: Profile) -> Wanted:
    model = profile.model
    return Wanted(
        target=model.target, parameters=model.parameters, dtype=model.dtype, mode=profile.mode,
        environment=profile.environment,
    )  # fmt: skip
