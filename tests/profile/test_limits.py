"""What loads can be shown: numbers, keys and sizes that a profile may have, and reports of all that it may."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.report import fabricate
from twinkle_tune.cli.app import run
from twinkle_tune.errors import ProfileError
from twinkle_tune.profile.format import SCHEMA
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.json_text import profile_text
from twinkle_tune.report.data import json_text
from twinkle_tune.report.markdown import markdown_text
from twinkle_tune.report.terminal import terminal_text

REPORTS: tuple[Callable[..., object], ...] = (terminal_text, markdown_text, json_text)
_CONTEST = ("contests", 0)
_TRIAL = (*_CONTEST, "trials", 0, "outcome")


def _with(place: tuple[str | int, ...], literal: str) -> str:
    """A profile's text with a literal of JSON at a place."""
    data: Any = json.loads(profile_text(fabricate.normal()))
    table = data
    for part in place[:-1]:
        table = table[part]
    table[place[-1]] = "HERE"
    return json.dumps(data).replace('"HERE"', literal)


@pytest.mark.parametrize(
    ("place", "literal", "said"),
    [
        (("environment", "load"), "1e999", "finite number"),
        (("environment", "load"), "-1", "none below 0"),
        (("environment", "memory_bytes"), str(2**70), "less than or equal to"),
        (("environment", "memory_bytes"), "9" * 5000, "not valid JSON"),
        (("model", "parameters"), str(2**64), "less than or equal to"),
        (("model", "parameters"), "-1", "model.parameters: got -1, expected none below 0"),
        (("created",), '"yesterday"', "created: got 'yesterday', expected a time as ISO 8601"),
        ((*_CONTEST, "selection", "ratio"), "5e-324", "got ratio 5e-324"),
        ((*_CONTEST, "selection", "high"), "1e308", "got ratio"),
        ((*_CONTEST, "selection", "rounds"), "-3", "got -3 rounds"),
        ((*_TRIAL, "peak_bytes"), "-1", "negative peak"),
        ((*_TRIAL, "peak_bytes"), str(2**63), "less than or equal to"),
        ((*_TRIAL, "times_us"), "[1e999]", "finite number"),
        ((*_TRIAL, "times_us"), "[5e-324]", "not positive"),
        ((*_TRIAL, "graph_breaks"), "-1", "negative count"),
        ((*_CONTEST, "seen", 0, "calls"), str(2**63), "less than or equal to"),
        ((*_CONTEST, "seen", 0, "share"), "1e400", "finite number"),
    ],
)
def test_numbers_nobody_can_hold_are_refused(
    tmp_path: Path, place: tuple[str | int, ...], literal: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number that overflows, needs more than 64 bits, or counts below nothing is refused on reading, in one line."""
    path = tmp_path / "p.json"
    path.write_text(_with(place, literal))
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert said in str(caught.value)
    assert run(["report", str(path), "--json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'{{"schema": {SCHEMA},', f'{{"schema": {SCHEMA}, "schema": {SCHEMA},'),
        ('"winner":', '"winner": "original", "winner":'),
        ('"parameters":', '"parameters": 5, "parameters":'),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, old: str, new: str) -> None:
    """Where a key stands twice two readers may see two profiles: it is refused, wherever it stands."""
    text = json.dumps(json.loads(profile_text(fabricate.normal())))
    assert old in text
    (tmp_path / "p.json").write_text(text.replace(old, new, 1))
    with pytest.raises(ProfileError, match="stands twice in one table"):
        load_profile(tmp_path / "p.json")


def test_there_is_a_limit_of_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the limit is not read, be it a file or a device without an end."""
    monkeypatch.setattr("twinkle_tune.profile.io._MOST_BYTES", 1 << 20)
    (tmp_path / "p.json").write_text(" " * (1 << 20) + profile_text(fabricate.normal()))
    for path in (tmp_path / "p.json", Path("/dev/zero")):
        with pytest.raises(ProfileError, match="holds more than 1 MiB"):
            load_profile(path)


_FLOATS = st.floats(allow_nan=False) | st.sampled_from([5e-324, 1e308, -0.0])
_INTS = st.integers(-(2**66), 2**66) | st.sampled_from([0, -1, 2**63 - 1, 2**63])
_PLACES: tuple[tuple[tuple[str | int, ...], Any], ...] = (
    (("environment", "load"), _FLOATS),
    (("environment", "memory_bytes"), _INTS),
    (("model", "parameters"), _INTS),
    ((*_CONTEST, "selection", "ratio"), _FLOATS),
    ((*_CONTEST, "selection", "memory_ratio"), _FLOATS),
    ((*_CONTEST, "selection", "rounds"), _INTS),
    ((*_CONTEST, "seen", 0, "calls"), _INTS),
    ((*_CONTEST, "seen", 0, "share"), _FLOATS),
    ((*_TRIAL, "first_call_us"), _FLOATS),
    ((*_TRIAL, "peak_bytes"), _INTS),
    ((*_TRIAL, "graph_breaks"), _INTS),
    ((*_TRIAL, "times_us"), st.lists(_FLOATS, min_size=1, max_size=3)),
    ((*_TRIAL, "parity", 0, "error"), _FLOATS),
    ((*_TRIAL, "parity", 0, "limit"), _FLOATS),
    (("steps", 0, "ratio"), _FLOATS),
    (("steps", 0, "original_peak_bytes"), _INTS),
)


@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_loads_can_be_shown(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever number stands at whatever place: the profile is refused, or every report of it can be made."""
    place, values = data.draw(st.sampled_from(_PLACES), label="place")
    value = data.draw(values, label="value")
    path = tmp_path / "p.json"
    try:
        path.write_text(_with(place, json.dumps(value)))
    except (KeyError, IndexError, TypeError):
        return  # this profile has no such place
    try:
        profile = load_profile(path)
    except ProfileError:
        return
    for report in REPORTS:
        assert report(profile)
