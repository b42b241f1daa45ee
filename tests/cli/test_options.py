"""What the options' texts mean, and what is said of those that mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinkle_tune.cli.options import (
    parse_budget,
    parse_names,
    parse_sizes,
    parse_slowdown,
    partial_paths,
    profile_path,
    report_path,
    slug,
)
from twinkle_tune.errors import TuneError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0), (" 2 M ", 120.0), (None, None)],
)
def test_budgets(text: str | None, seconds: float | None) -> None:
    """A budget is a number of seconds, minutes or hours."""
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_budget, "5x", "--budget: got '5x', expected a time above zero"),
        (parse_budget, "0m", "--budget: got '0m'"),
        (parse_budget, "-5m", "--budget: got '-5m'"),
        (parse_budget, "", "--budget: got ''"),
        (lambda text: parse_sizes("--batch", text), "1,x", "--batch: got '1,x', expected whole numbers"),
        (lambda text: parse_sizes("--batch", text), "1,,8", "--batch: got '1,,8'"),
        (lambda text: parse_sizes("--batch", text), "0", "--batch: got '0'"),
        (lambda text: parse_sizes("--batch", text), "²", "--batch: got '²'"),
        (parse_slowdown, "fast", "--slowdown: got 'fast', expected a number of at least 1"),
        (parse_slowdown, "-1", "--slowdown: got '-1'"),
        (lambda text: parse_names("--candidates", text), "a,", "--candidates: got 'a,', expected names"),
        (lambda text: report_path(text, Path("p.json")), "report.pdf", "--report: got 'report.pdf'"),
        (lambda text: report_path(text, Path("p.json")), "report", "ends in one of html, md, csv, json"),
    ],
)
def test_nonsense_is_refused(parse: Callable[[str], object], text: str, message: str) -> None:
    """A text that means nothing is an error that repeats it and says what was expected."""
    with pytest.raises(TuneError) as caught:
        parse(text)
    assert message in str(caught.value)


@given(st.lists(st.integers(min_value=1, max_value=10**6), min_size=1))
def test_sizes_survive_being_written(sizes: list[int]) -> None:
    """Sizes that are written with commas, spaced or not, are read as they were."""
    assert parse_sizes("--batch", ",".join(map(str, sizes))) == tuple(sizes)
    assert parse_sizes("--batch", " , ".join(map(str, sizes))) == tuple(sizes)


@given(st.text())
def test_slugs_are_safe_in_a_path(name: str) -> None:
    """Whatever the name, its slug is one plain part of a path, and its own slug."""
    made = slug(name)
    assert made == slug(made)
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert made not in ("", ".", "..")


def test_paths_when_none_is_given() -> None:
    """Profiles and reports are filed by device, model and mode, and by the objective unless it is time."""
    assert profile_path("CPU", "m", "train", "memory") == Path("profiles/cpu/m-train-memory.json")
    path = profile_path("Intel(R) Xeon(R) CPU @ 2.20GHz", "owner/Name-1B", "train+compile")
    assert path == Path("profiles/intel-xeon-cpu-2.20ghz/owner-name-1b-train-compile.json")
    assert report_path("html", path) == (
        Path("reports/intel-xeon-cpu-2.20ghz/owner-name-1b-train-compile.html"),
        "html",
    )
    assert report_path("md", Path("out/mine.json")) == (Path("reports/mine.md"), "md")
    assert report_path("out/Mine.CSV", path) == (Path("out/Mine.CSV"), "csv")


def test_profiles_of_stopped_runs_have_places_beside_the_whole_one() -> None:
    """Each has a name of its own, the first without a number."""
    places = partial_paths(Path("out/profile.json"))
    assert [str(next(places)) for _ in range(3)] == [
        "out/profile.partial.json",
        "out/profile.partial-2.json",
        "out/profile.partial-3.json",
    ]
