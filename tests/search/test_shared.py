"""Several workers on one study: in a file, and on a server where there is PostgreSQL."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from tests.postgres import Postgres, postgres_server, why_not
from tests.search.benches import Replay
from tests.search.landscape import recorded
from tests.search.shared import pair
from tests.search.synthetic import row_kernel, rugged
from twinkle_tune.errors import TuneError
from twinkle_tune.ops.space import Config, Parameter, Space
from twinkle_tune.outcome import Rejection
from twinkle_tune.search.journal import SILENT_S, SearchJournal
from twinkle_tune.search.record import SearchResult, SearchSettings, SharedStudy, Tried
from twinkle_tune.search.search import search
from twinkle_tune.search.worker import LEASE_S, has_ended, worker_name

LANDSCAPE = rugged(1)
DEFAULT = LANDSCAPE.space.named([1, 1, 1, 1, 1, 1])
BUDGET = SearchSettings(budget=14)
SMALL = Space(parameters=(Parameter(name="a", values=(1, 2)), Parameter(name="b", values=(0, 1))))


@pytest.fixture(params=["file", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a study can be."""
    if request.param == "file":
        return str(tmp_path / "study")
    return str(request.getfixturevalue("postgres").database())


class Logged(Replay):
    """Writes down each config that it times, and takes a while for it; one that hangs never ends its third."""

    def __init__(self, log: Path, seed: int, *, hangs: bool) -> None:
        super().__init__(LANDSCAPE, seed)
        self._log, self._seed, self._hangs = log, seed, hangs

    def time_us(self, config: Config) -> float | Rejection:
        """As recorded."""
        found = super().time_us(config)
        if not isinstance(found, Rejection):
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{self.landscape.space.in_order(config)}\n")
            if self._hangs and len(self.timed) == 3:
                hung(self._log, self._seed).touch()
                time.sleep(600)
            time.sleep(0.02)
        return found


def hung(log: Path, seed: int) -> Path:
    """A file that is there when that worker hangs."""
    return log.with_name(f"hangs-{seed}")


def test_four_workers_killed_and_resumed_time_no_config_twice(place: str, tmp_path: Path) -> None:
    """kill -9 of two while they time, one of which is begun again: what came to an end was timed once, by anyone."""
    fork, log, study = get_context("fork"), tmp_path / "timed", SharedStudy(place=place)
    book = SearchJournal(LANDSCAPE.space, "search", study)  # imports what the workers need

    def work(seed: int, hangs: bool) -> None:
        search(LANDSCAPE.space, Logged(log, seed, hangs=hangs), BUDGET, default=DEFAULT, journal=study)

    def begin(seed: int, *, hangs: bool = False) -> BaseProcess:
        worker = fork.Process(target=work, args=(seed, hangs))
        worker.start()
        return worker

    workers = [begin(0, hangs=True), begin(1, hangs=True)]
    deadline = time.monotonic() + 120
    while not all(hung(log, seed).exists() for seed in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    workers += [begin(2), begin(3)]
    for worker in workers[:2]:
        worker.kill()
        worker.join()
    workers.append(begin(4))
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [-9, -9, 0, 0, 0]
    book.look()
    ended = [tuple(each.config.values()) for each in book.tried if each.time_us]
    assert len(ended) == len(set(ended)) == BUDGET.budget
    # A config that was being timed at a kill may be timed once more, and need not be.
    timed = Counter(log.read_text().splitlines())
    assert timed.total() == BUDGET.budget + 2
    assert timed.total() - len(timed) <= 2


def test_four_reach_what_one_reaches_alone() -> None:
    """The budget is that of all together, none is timed twice, and the winner is near the best. 30 seeds: reports/."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = pair(recorded("dedispersion-A4000"), seed=0)
    assert found.timings == (15, 15, 15, 15)
    assert found.twice == 0
    assert found.shared < 0.1


def test_a_claim_is_one_worker_s(place: str) -> None:
    """Of two who begin the same config without having seen each other, the second is refused, and sees why."""
    first, second = (SearchJournal(SMALL, "search", SharedStudy(place=place)) for _ in range(2))
    config = {"a": 1, "b": 0}
    assert first.begin(config, "random")
    assert not second.begin(config, "random")
    second.look()
    assert [each.config for each in second.claimed] == [config]
    first.end(Tried(config=config, how="random", time_us=3.0))
    assert not second.begin(config, "random")
    second.look()
    assert ([each.time_us for each in second.tried], second.claimed) == ([3.0], [])


def test_a_config_of_a_worker_that_is_gone_is_tried_next(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever looks first, before any new one; once it came to an end it is nobody's."""
    study = SharedStudy(place=place)
    gone, other = (SearchJournal(LANDSCAPE.space, "search", study) for _ in range(2))
    config = next(each for each in LANDSCAPE.space.configs() if LANDSCAPE.time_us(each) and each != DEFAULT)
    assert gone.begin(config, "child")
    other.look()
    assert other.left == []
    monkeypatch.setattr("twinkle_tune.search.worker.has_ended", lambda worker: worker == gone._worker)
    other.look()
    assert other.left == [(config, "child")]
    bench = Replay(LANDSCAPE, 0)
    search(LANDSCAPE.space, bench, SearchSettings(budget=3), default=DEFAULT, journal=study)
    assert bench.timed[0] == config
    assert bench.timed.count(config) == 1


def test_a_worker_takes_over_from_others_that_are_silent(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It times its share at once, and the rest when it has heard nothing of the other three for a while."""
    monkeypatch.setattr("twinkle_tune.search.journal.SILENT_S", 0.5)
    bench, began_s = Replay(LANDSCAPE, 0), time.monotonic()
    search(LANDSCAPE.space, bench, BUDGET, default=DEFAULT, journal=SharedStudy(place=place, workers=4))
    assert len(bench.timed) == BUDGET.budget
    assert time.monotonic() - began_s > 0.5


def test_who_took_over_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own results are no news of the others: it waits once for one that never came, and not for each config."""
    now_s, slept_s = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        slept_s.append(seconds)
        now_s[0] += seconds

    told = SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep)
    monkeypatch.setattr("twinkle_tune.search.journal.time", told)
    monkeypatch.setattr("twinkle_tune.search.search.time", told)
    monkeypatch.setattr("twinkle_tune.search.search._POLL_S", 1.0)
    study = SharedStudy(place=str(tmp_path / "study"), workers=2)
    found = search(LANDSCAPE.space, Replay(LANDSCAPE, 0), BUDGET, default=DEFAULT, journal=study)
    assert found.timed == BUDGET.budget
    assert sum(slept_s) == SILENT_S


def test_who_took_over_waits_again_for_one_that_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of another worker is news, and so is what it is trying."""
    now_s = [0.0]
    monkeypatch.setattr("twinkle_tune.search.journal.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    study = SharedStudy(place=str(tmp_path / "study"), workers=4)
    one, other = (SearchJournal(SMALL, "search", study) for _ in range(2))

    def tries(book: SearchJournal, a: int, b: int) -> None:
        assert book.begin({"a": a, "b": b}, "random")
        book.end(Tried(config={"a": a, "b": b}, how="random", time_us=3.0))

    def leaves(after_s: float) -> bool:
        now_s[0] += after_s
        one.look()
        return one.leaves_to_others(4)

    tries(one, 1, 0)
    assert leaves(0.5 * SILENT_S)
    assert not leaves(0.5 * SILENT_S)
    tries(one, 1, 1)
    assert not leaves(1.0)
    tries(other, 2, 0)
    assert leaves(1.0)
    assert not leaves(SILENT_S)
    assert other.begin({"a": 2, "b": 1}, "random")
    assert leaves(1.0)


@pytest.mark.parametrize("workers", [0, -1, 2.5, "2", True])
def test_no_number_of_workers_is_refused(workers: Any) -> None:
    """A share of nobody is none, nor is one of half a worker; what was got is in the error."""
    with pytest.raises(TuneError, match=f"workers: got {workers!r}, expected at least 1, a whole number; leave it out"):
        SharedStudy(place="study", workers=workers)


def test_whoever_stops_lets_go(place: str) -> None:
    """A config that a worker began and left (Ctrl-C) is another's at once."""
    first, second = (SearchJournal(SMALL, "search", SharedStudy(place=place)) for _ in range(2))
    assert first.begin({"a": 1, "b": 0}, "random")
    first.let_go()
    assert second.begin({"a": 1, "b": 0}, "random")


def test_a_worker_of_another_machine_is_waited_for_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of its process: its config is free when the lease is over, by the clock of who waits."""
    study = SharedStudy(place=str(tmp_path / "study"))
    monkeypatch.setattr("twinkle_tune.search.worker._machine", lambda: "elsewhere")
    gone = SearchJournal(SMALL, "search", study)
    assert gone.begin({"a": 1, "b": 0}, "random")
    monkeypatch.undo()
    here = SearchJournal(SMALL, "search", study)
    assert len(here.claimed) == 1
    monkeypatch.setattr("twinkle_tune.search.worker.LEASE_S", 0.0)
    here.look()
    assert here.claimed == []
    assert here.begin({"a": 1, "b": 0}, "random")


def test_a_config_that_two_workers_hang_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the third, when both leases are over, though both processes live."""
    now_s = [0.0]
    monkeypatch.setattr("twinkle_tune.search.worker.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    study = SharedStudy(place=str(tmp_path / "study"))
    first, second, third = (SearchJournal(SMALL, "search", study) for _ in range(3))
    config = {"a": 1, "b": 0}
    assert first.begin(config, "random")
    second.look()
    now_s[0] += LEASE_S
    assert second.begin(config, "random")
    third.look()
    assert [each.config for each in third.claimed] == [config, config]
    now_s[0] += LEASE_S
    third.look()
    assert third.claimed == []
    (found,) = third.tried
    assert found.config == config
    assert found.refused is not None


def test_a_small_space_is_shared_whole(tmp_path: Path) -> None:
    """Each config of a small space is timed by one of two workers, and both race all of them."""
    landscape = row_kernel()
    some = dict(list(landscape.times_us.items())[:12])
    space = Space(
        parameters=landscape.space.parameters,
        unfit=lambda config: "" if tuple(landscape.space.in_order(config)) in some else "left out",
    )
    benches, results = [Replay(landscape, seed) for seed in range(2)], list[SearchResult]()

    def work(bench: Replay) -> None:
        study = SharedStudy(place=str(tmp_path / "study"))
        results.append(search(space, bench, SearchSettings(), default=next(space.configs()), journal=study))

    threads = [threading.Thread(target=work, args=(bench,)) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ran = sum(time_us is not None for time_us in some.values())
    assert sum(len(bench.timed) for bench in benches) == ran
    assert [result.timed for result in results] == [ran, ran]


def test_all_go_on_with_the_first_winner(place: str) -> None:
    """Else each would search the backward beside a forward of its own, in a study of its own."""
    first, second = (SearchJournal(SMALL, "search", SharedStudy(place=place)) for _ in range(2))
    assert first.agreed({"a": 1, "b": 0}) == {"a": 1, "b": 0}
    assert second.agreed({"a": 2, "b": 1}) == {"a": 1, "b": 0}
    second.look()
    assert (second.tried, second.claimed) == ([], [])


def test_who_is_over_is_known_on_this_machine() -> None:
    """By the process and when it began; of other machines, and of nonsense, nothing is."""
    name = worker_name()
    assert not has_ended(name)
    machine, process, began, drawn = name.split("/")
    assert has_ended(f"{machine}/{process}/{int(began) + 1}/{drawn}")
    assert not has_ended(f"another/{process}/{int(began) + 1}/{drawn}")
    assert not has_ended("")
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert has_ended(f"{machine}/{child}/{began}/{drawn}")


def test_a_study_that_cannot_be_had_is_one_error(tmp_path: Path, postgres: Postgres) -> None:
    """A folder, a wrong password, a URL of something else: with what was named, and without the password."""
    for place, said in (
        (str(tmp_path), "cannot be used as the journal of a search"),
        (postgres.url_of("postgres", "wr0ng"), "password authentication failed"),
        ("mysql://me:wr0ng@host/db", "--study: got mysql://me:.*, expected one such as postgresql://"),
    ):
        with pytest.raises(TuneError, match=said) as caught:
            SearchJournal(SMALL, "search", SharedStudy(place=place))
        assert "wr0ng" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_server_that_dies_in_a_search_is_one_error() -> None:
    """Which says that the command goes on where it was; and so it does when the server is back."""
    if why_not():
        pytest.skip(why_not())
    config = {"a": 1, "b": 0}
    with postgres_server() as server:
        study = SharedStudy(place=server.url)
        book = SearchJournal(SMALL, "search", study)
        assert book.begin(config, "random")
        book.end(Tried(config=config, how="random", time_us=3.0))
        server.stop()
        for use in (book.look, lambda: SearchJournal(SMALL, "search", study)):
            with pytest.raises(TuneError, match=r"^postgresql://team:\*\*\*@.*repeat the command when"):
                use()
        server.start()
        assert [each.time_us for each in SearchJournal(SMALL, "search", study).tried] == [3.0]
