"""Ranks that tune together choose alike: three processes that talk through gloo, and the protocol by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.kernel.toys import Model, inputs
from tests.ranks import Each, run_cases
from tests.tune.group_cases import CASES, WORLD
from twinkle_tune.errors import BindError, PeerError, TuneError
from twinkle_tune.peers import Peers, Said, each_of, from_first, now_s, parts, whole
from twinkle_tune.tune.tune import tune_model

_ranks = pytest.mark.skipif(
    not torch.distributed.is_available() or not hasattr(os, "fork"), reason="torch.distributed or fork is not there"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Each]:
    """What came of each case, rank by rank."""
    return run_cases("tests.tune.group_cases", CASES, WORLD, tmp_path_factory.mktemp("ranks"))


def _the_same(each: Each) -> dict[str, Any]:
    """What all ranks have, without an error."""
    assert {told["raised"] for told in each} == {""}
    assert len({told["digest"] for told in each}) == 1
    return each[0]


@_ranks
def test_times_are_averaged_and_all_choose_alike(found: dict[str, Each]) -> None:
    """Alone rank 0 would choose another kernel; together each has the one that is faster on average."""
    assert [told["alone"] for told in found["averaged"]] == [["impl:left"], ["impl:right"], ["impl:right"]]
    told = _the_same(found["averaged"])
    assert told["won"] == ["impl:right"]
    assert told["took"] == {"original": 100.0, "impl:left": 90.3333, "impl:right": 88.0}


@_ranks
@pytest.mark.parametrize(
    ("name", "won", "why"),
    [
        ("refused", "original", "rank 1: point 2, output: "),
        ("does_not_load", "impl:right", "rank 0: raised RuntimeError: not here"),
        ("raises_in_the_race", "impl:right", "raised while it was timed: rank 2 of 3: RuntimeError: no more"),
    ],
)
def test_who_is_out_on_one_is_out_on_all(name: str, won: str, why: str, found: dict[str, Each]) -> None:
    """A candidate that is wrong, cannot be called or raises on one rank alone; the others go on."""
    told = _the_same(found[name])
    assert told["won"] == [won]
    assert told["out"]
    assert all(reason.startswith(why) for reason in told["out"])


@_ranks
def test_an_original_that_fails_on_one_is_inconclusive_on_all(found: dict[str, Each]) -> None:
    """Where it is called by itself; the run goes on."""
    assert _the_same(found["original_fails_apart"])["status"] == ["inconclusive"]


@_ranks
@pytest.mark.parametrize(
    ("name", "guilty", "own"),
    [
        ("model_fails", 1, "CaptureError: step 'forward': the model raised RuntimeError: no such weights"),
        ("mistake", 2, "ModeError: mode: got 'trian'"),
        ("interrupted", 1, "TuneInterrupted: interrupted"),
        ("cannot_hear_of_a_step", 1, "OSError: my own error"),
        ("cannot_hear_of_its_end", 1, "OSError: my own error"),
    ],
)
def test_an_error_on_one_ends_all(name: str, guilty: int, own: str, found: dict[str, Each]) -> None:
    """It is raised there as it is, and on the others with its rank; none waits."""
    for rank, told in enumerate(found[name]):
        assert told["raised"].startswith(own if rank == guilty else f"PeerError: rank {guilty} of 3: {own}")


@_ranks
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("another_model", "what is tuned: got Norm at layers.0.narrow, layers.0.wide, layers.1.narrow"),
        ("another_shape", "the model's calls are others than on rank 0"),
        ("another_kernel", "the contests: got Norm at layers.0.wide"),
        ("with_ways", "ways: got True with a group, expected False"),
    ],
)
def test_who_does_another_thing_ends_all(name: str, why: str, found: dict[str, Each]) -> None:
    """Another model, shape or set of kernels on one rank is one error on each."""
    assert all(why in told["raised"] for told in found[name])


@_ranks
def test_rank_0_s_time_decides(found: dict[str, Each]) -> None:
    """The others' clocks may say what they like."""
    assert _the_same(found["another_time"])["won"] == ["impl:right"]
    assert _the_same(found["no_time"])["status"] == ["not tried"]


@_ranks
def test_rank_0_remembers_for_all(found: dict[str, Each]) -> None:
    """A second run holds no race, on any rank."""
    assert _the_same(found["remembered"])["won"] == ["impl:right"]
    assert [told["races"] for told in found["remembered"]] == [0, 0, 0]


@_ranks
def test_steps_that_wait_for_each_other_are_run_as_often_on_each(found: dict[str, Each]) -> None:
    """With DDP, timed by a real clock: else a rank would wait for ever."""
    assert "original" in _the_same(found["in_ddp"])["timed"]


@_ranks
def test_layers_that_are_split_over_the_ranks_keep_their_originals(found: dict[str, Each]) -> None:
    """With FSDP2, whose steps wait for each other as well."""
    told = _the_same(found["in_fsdp"])
    assert told["won"] == ["original"]
    assert any("its weights are split over ranks" in reason for reason in told["why"])


def test_what_is_no_group_is_refused() -> None:
    """Before anything else happens."""
    with pytest.raises(BindError, match="group: got 'all'"):
        tune_model(Model(1), inputs(4), group="all")


class _Room:
    """Threads in place of processes, which give each other what they say."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world, timeout=20)
        self._said: list[Any] = [None] * world

    def gather(self, rank: int) -> Callable[[Said], list[Said]]:
        def gathered(mine: Said) -> list[Said]:
            self._said[rank] = mine
            self._barrier.wait()
            each = list(self._said)
            self._barrier.wait()
            return each

        return gathered


def _all(*finds: Callable[[], Any]) -> list[Any]:
    """What each of some processes comes to, or its error."""
    room, came = _Room(len(finds)), [None] * len(finds)

    def run(rank: int) -> None:
        try:
            came[rank] = whole(Peers(room.gather(rank), rank), finds[rank])[rank]
        except BaseException as error:
            came[rank] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(finds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    return came


def _then(first: Callable[[], Any]) -> Callable[[], Any]:
    """A part that may be left early, and something that all tell after it."""

    def find() -> Any:
        try:
            got: Any = parts("first", first)
        except PeerError as error:
            got = str(error)
        except ValueError:
            got = "own"
        return got, each_of("after", 1)

    return find


def test_a_part_is_left_by_all_where_one_raises() -> None:
    """Whoever is in the middle of it goes on with what comes after it."""

    def fails() -> int:
        raise ValueError("no")

    def tells() -> int:
        return sum(each_of("once", 1)) + sum(parts("inside", lambda: sum(each_of("twice", 2))))

    assert _all(_then(fails), _then(tells), _then(tells)) == [
        ("own", [1, 1, 1]),
        ("rank 0 of 3: ValueError: no", [1, 1, 1]),
        ("rank 0 of 3: ValueError: no", [1, 1, 1]),
    ]


def test_a_part_is_left_by_all_where_one_has_its_result_early() -> None:
    """What it found is what there is."""

    def tells() -> int:
        return sum(parts("inside", lambda: sum(each_of("twice", 2))))

    assert _all(_then(lambda: 7), _then(tells)) == [([7], [1, 1])] * 2


def test_processes_that_do_different_things_stop() -> None:
    """None waits for what another never tells, whatever it catches."""

    def catches() -> list[int]:
        try:
            return parts("first", lambda: each_of("left", 1)[0])
        except Exception:
            return []

    def other() -> list[int]:
        return parts("second", lambda: each_of("right", 1)[0])

    for error in _all(catches, other, lambda: 1):
        assert isinstance(error, TuneError)
    one, two = _all(catches, other)
    assert str(one) == str(two)
    assert "rank 0: first > left; rank 1: second > right" in str(one)


def test_time_stands_still_until_all_tell_something() -> None:
    """It is rank 0's, so that all decide by the same."""

    def times() -> list[float]:
        each_of("begin", 0)
        first = [now_s(), now_s()]
        each_of("later", 0)
        return [*first, now_s()]

    one, two = _all(times, times)
    assert one == two
    assert one[0] == one[1] < one[2]


def test_rank_0_finds_it_alone() -> None:
    """In what it does meanwhile it is alone, and its error is everybody's."""

    def fails() -> int:
        raise ValueError("no")

    def find(work: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: from_first("it", work)

    assert _all(find(lambda: each_of("x", 5)), find(lambda: 6)) == [[5], [5]]
    own, told = _all(find(fails), find(lambda: 6))
    assert isinstance(own, ValueError)
    assert str(told) == "rank 0 of 2: ValueError: no"


def test_a_process_alone_tells_nobody() -> None:
    """What it met is what counts, and None is what it found."""
    assert each_of("x", 3) == [3]
    assert parts("x", lambda: None) == [None]
    assert from_first("x", lambda: None) is None
