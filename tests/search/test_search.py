"""A search keeps what is right and faster, goes on after a kill, and says so where nothing runs."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.search.benches import Replay
from tests.search.landscape import Landscape
from tests.search.synthetic import row_kernel, rugged
from twinkle_tune.errors import ConfigError, TuneError
from twinkle_tune.ops.space import Config, Parameter, Space
from twinkle_tune.outcome import Rejection
from twinkle_tune.parity.verdict import Pass, Reject, Verdict
from twinkle_tune.search.journal import SearchJournal
from twinkle_tune.search.record import SearchSettings
from twinkle_tune.search.search import search

ROOT = Path(__file__).parents[2]
SMALL = Space(parameters=(Parameter(name="a", values=(1, 2, 3, 4)), Parameter(name="b", values=(0, 1, 2))))
A_BUDGET = SearchSettings(budget=20)


def small(time_us: Callable[[int, int], float | None]) -> Landscape:
    """Twelve configs."""
    times: dict[tuple[int, ...], float | None] = {
        (a, b): time_us(a, b) for a, b in itertools.product((1, 2, 3, 4), (0, 1, 2))
    }
    return Landscape(name="small", space=SMALL, times_us=times)


class Judging(Replay):
    """A bench where some configs are wrong, from the beginning or after the race."""

    def __init__(self, landscape: Landscape, wrong: Callable[[Config], bool], later: bool = False) -> None:
        super().__init__(landscape, 0)
        self._wrong, self._later = wrong, later

    def judge(self, config: Config) -> Verdict:
        """As told."""
        return self._verdict(config, bad=not self._later)

    def judge_again(self, config: Config) -> Verdict:
        """As told."""
        return self._verdict(config, bad=self._later)

    def _verdict(self, config: Config, *, bad: bool) -> Verdict:
        if bad and self._wrong(config):
            return Reject(point=4, tensor="output[0]", error=1.0, limit=0.1, reason="far off")
        return Pass(figures=(), deterministic=True)


def test_a_small_space_is_timed_whole_and_its_best_wins() -> None:
    """Each of twelve configs is timed once, and the fastest of them is the result, with the race behind it."""
    bench = Replay(small(lambda a, b: 100.0 + 10 * abs(a - 3) + 5 * b), 0)
    result = search(SMALL, bench, A_BUDGET, default={"a": 1, "b": 2})
    assert result.config == {"a": 3, "b": 0}
    assert len(bench.timed) == result.timed == result.size == 12
    assert result.ratio < 0.85
    assert result.low <= result.ratio <= result.high
    assert "faster than the original" in result.reason


def test_equal_configs_leave_the_default() -> None:
    """A minimum seen during the search decides nothing: between equals the config used so far stays."""
    for seed in range(5):
        bench = Replay(small(lambda a, b: 100.0), seed)
        result = search(SMALL, bench, SearchSettings(budget=20, seed=seed), default={"a": 2, "b": 1})
        assert result.config == {"a": 2, "b": 1}
        assert (result.ratio, result.low, result.high) == (1.0, 1.0, 1.0)


def test_where_nothing_runs_there_is_no_config_and_a_reason() -> None:
    """A space in which every config fails gives None, and says how many failed and why."""
    result = search(SMALL, Replay(small(lambda a, b: None), 0), A_BUDGET, default={"a": 1, "b": 0})
    assert result.config is None
    assert result.reason == "none of 12 configs tried runs (12 in the space); 12 of them: first call: does not run"
    assert all(each.refused is not None for each in result.tried)


def test_a_large_space_where_nothing_runs_is_given_up() -> None:
    """It is not walked through to its end."""
    landscape = row_kernel()
    nothing = Landscape(name="none", space=landscape.space, times_us=dict.fromkeys(landscape.times_us))
    result = search(landscape.space, Replay(nothing, 0), A_BUDGET, default=next(landscape.space.configs()))
    assert result.config is None
    assert len(result.tried) == 80


def test_a_config_that_is_wrong_cannot_win() -> None:
    """The fastest is refused by the judge, so the next one wins, and the evidence names the refusal."""
    landscape = small(lambda a, b: 100.0 - 20 * (a == 4) - 10 * (a == 3))
    result = search(SMALL, Judging(landscape, lambda c: c["a"] == 4), A_BUDGET, default={"a": 1, "b": 0})
    assert result.config is not None
    assert result.config["a"] == 3
    assert any("point 4, output[0]: far off" in each.left for each in result.finalists)


def test_a_config_that_turns_wrong_after_the_race_cannot_win() -> None:
    """Right at first and wrong after it was timed is wrong."""
    landscape = small(lambda a, b: 100.0 - 20 * (a == 4) - 10 * (a == 3))
    result = search(SMALL, Judging(landscape, lambda c: c["a"] == 4, later=True), A_BUDGET, default={"a": 1, "b": 0})
    assert result.config is not None
    assert result.config["a"] == 3


@pytest.mark.parametrize("later", [False, True])
def test_where_all_are_wrong_there_is_no_config(later: bool) -> None:
    """Not even the default, which is as wrong as the others."""
    landscape = small(lambda a, b: 100.0 + a + b)
    result = search(SMALL, Judging(landscape, lambda c: True, later), A_BUDGET, default={"a": 1, "b": 0})
    assert result.config is None
    assert result.reason.startswith("no config is right: ")


def test_a_default_that_does_not_run_is_replaced() -> None:
    """The fastest of the others takes its place, and the reason says that the default is out."""
    bench = Replay(small(lambda a, b: None if a == 1 else 100.0 + 30 * a), 0)
    result = search(SMALL, bench, A_BUDGET, default={"a": 1, "b": 0})
    assert result.config is not None
    assert result.config["a"] == 2
    assert "the config used so far is out: first call: does not run" in result.reason


def test_known_configs_come_first_and_must_fit() -> None:
    """The default and a neighbour's winner are timed first; what the space does not have is left out."""
    landscape = rugged(0)
    default, known = [landscape.space.named(list(key)) for key, time in landscape.times_us.items() if time][:2]
    bench = Replay(landscape, 0)
    search(landscape.space, bench, A_BUDGET, default=default, known=[{**known, "p0": 99}, known])
    assert bench.timed[:2] == [default, known]


def test_a_default_that_is_not_of_the_space_is_an_error() -> None:
    with pytest.raises(ConfigError, match="got a=9, expected one of"):
        search(SMALL, Replay(small(lambda a, b: 1.0), 0), A_BUDGET, default={"a": 9, "b": 0})


def test_no_config_is_tried_twice_and_the_budget_holds() -> None:
    """Neither those that ran nor those that did not; the latter are not counted."""
    landscape = rugged(2)
    bench = Replay(landscape, 0)
    result = search(
        landscape.space, bench, SearchSettings(budget=80), default=landscape.space.named([0, 1, 0, 0, 0, 0])
    )
    tried = [tuple(landscape.space.in_order(each.config)) for each in result.tried]
    assert len(set(tried)) == len(tried) == len(bench.timed) + len(bench.refused)
    assert len(bench.timed) == result.timed == 80
    assert bench.refused


def test_a_search_without_progress_ends_before_its_budget() -> None:
    """After so many timings without a gain of 1%."""
    landscape = row_kernel()
    flat = Landscape(name="flat", space=landscape.space, times_us=dict.fromkeys(landscape.times_us, 100.0))
    settings = SearchSettings(budget=200, patience=40)
    result = search(landscape.space, Replay(flat, 0), settings, default=next(landscape.space.configs()))
    assert 40 <= result.timed < 120
    assert result.ended.startswith("no gain of 1% in ")


# Stopped and gone on with


class Stopping(Replay):
    """A bench that raises KeyboardInterrupt at one of its timings."""

    def __init__(self, landscape: Landscape, at: int) -> None:
        super().__init__(landscape, 0)
        self._at = at

    def time_us(self, config: Config) -> float | Rejection:
        """The exact time: with noise two runs could not be compared."""
        if len(self.timed) == self._at:
            raise KeyboardInterrupt
        exact = self.landscape.time_us(config)
        if exact is None:
            return Rejection(stage="first call", reason="does not run")
        self.timed.append(config)
        return exact


@pytest.mark.parametrize("at", [0, 1, 7, 25, 39])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(at: int, tmp_path: Path) -> None:
    """What was timed is not timed again, and everything that was tried is what it would have been in one go."""
    landscape = rugged(1)
    default, settings = landscape.space.named([1, 1, 1, 1, 1, 1]), SearchSettings(budget=40)
    whole = search(landscape.space, Stopping(landscape, 99), settings, default=default)
    path = tmp_path / "search.journal"
    first, second = Stopping(landscape, at), Stopping(landscape, 99)
    with pytest.raises(KeyboardInterrupt):
        search(landscape.space, first, settings, default=default, journal=path)
    resumed = search(landscape.space, second, settings, default=default, journal=path)
    assert resumed.tried == whole.tried
    assert len(first.timed) + len(second.timed) == 40


def test_killed_searches_lose_nothing(tmp_path: Path) -> None:
    """kill -9 again and again: each config was timed once, but for those that were being timed at a kill."""
    path, log = tmp_path / "search.journal", tmp_path / "timed"
    command = [sys.executable, "-m", "tests.search.killed", str(path), str(log)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for kills in (1, 2):
        before = log.read_text().count("\n") if log.exists() else 0
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        deadline = time.monotonic() + 200
        while (log.read_text().count("\n") if log.exists() else 0) < before + 4 * kills:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=200)
    timed = log.read_text().splitlines()
    assert len(set(timed)) == 40
    assert len(timed) <= 40 + 2


def test_a_line_cut_in_the_middle_is_mended(tmp_path: Path) -> None:
    """A journal whose last line a kill cut off is read without it, and written on."""
    landscape, path = rugged(1), tmp_path / "search.journal"
    default = landscape.space.named([1, 1, 1, 1, 1, 1])
    with pytest.raises(KeyboardInterrupt):
        search(landscape.space, Stopping(landscape, 5), A_BUDGET, default=default, journal=path)
    path.write_bytes(path.read_bytes()[:-9])
    search(landscape.space, Stopping(landscape, 99), A_BUDGET, default=default, journal=path)
    assert len(SearchJournal(landscape.space, "search", path).tried) >= 20


def test_a_config_that_ends_the_process_twice_is_refused(tmp_path: Path) -> None:
    """It is tried once more, and then never again."""
    path = tmp_path / "search.journal"
    for _ in range(2):
        SearchJournal(SMALL, "search", path).begin({"a": 1, "b": 0}, "random")
    (tried,) = SearchJournal(SMALL, "search", path).tried
    assert tried.refused == Rejection(stage="first call", reason="the process ended twice while it was tried")


def test_what_is_no_journal_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    path.write_text("something else\nof somebody's\n")
    with pytest.raises(TuneError, match=r"search\.journal: cannot be used as the journal of a search"):
        SearchJournal(SMALL, "search", path)
