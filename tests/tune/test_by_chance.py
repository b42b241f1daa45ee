"""What others did to the machine for a moment refuses no candidate for good, and is kept by no store."""

from __future__ import annotations

import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune.toy import Norm, norm
from tests.tune.unlucky import ONCE, killed_once, short_at
from tests.zoo.quick import SETTINGS, Quick
from twinkle_tune import tune_model
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.measure.chance import unless_by_chance
from twinkle_tune.measure.race import Decision
from twinkle_tune.measure.recheck import race_until_right
from twinkle_tune.ops.all import op_named
from twinkle_tune.ops.compiling import Compilers
from twinkle_tune.ops.resources import Compiled
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.parity.verdict import Verdict
from twinkle_tune.profile.past import is_lasting
from twinkle_tune.profile.schema import Contest
from twinkle_tune.tune import settle
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.limits import Limits

pytestmark = pytest.mark.usefixtures("little_garbage")
SHORT = torch.OutOfMemoryError("tried to allocate 1.00 GiB")
FULL = OSError(28, "no space left on device")


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model is timed for a moment only: these tests are about contests."""
    monkeypatch.setattr(settle, "SECONDS", 0.1)


def contest_with(impl: Callable[..., Any], **options: Any) -> Contest:
    """The one contest of a norm of 16 channels with this rival."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=registry)
    torch.manual_seed(0)
    model, x = nn.Sequential(Norm(16)), torch.randn(8, 16)
    options = {"executor": Quick(), **options}
    profile = tune_model(model, x, registry=registry, settings=SETTINGS, candidates=["impl"], **options)
    return profile.contests[0]


def test_work_that_failed_by_chance_is_done_once_more() -> None:
    """Once more and no oftener, with what the first attempt held let go of; another error comes out at once."""
    held: list[weakref.ref[torch.Tensor]] = []

    def short(times: int, kind: type[Exception]) -> Callable[[], int]:
        def work() -> int:
            own = torch.zeros(8)
            assert all(each() is None for each in held)
            held.append(weakref.ref(own))
            if len(held) <= times:
                raise kind("its own")
            return len(held)

        held.clear()
        return work

    assert unless_by_chance(short(1, torch.OutOfMemoryError)) == 2
    with pytest.raises(torch.OutOfMemoryError):
        unless_by_chance(short(2, torch.OutOfMemoryError))
    assert len(held) == 2
    with pytest.raises(ValueError, match="its own"):
        unless_by_chance(short(1, ValueError))
    assert len(held) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [(1, SHORT), (1, FULL), (1, MemoryError()), (2, SHORT), (20, SHORT), (0, SHORT)],
    ids=["first call, device", "first call, disk", "first call, host", "judged", "judged further", "timed"],
)
def test_what_fails_once_is_measured(call: int, error: Exception) -> None:
    """A candidate that meets a lack of memory or room once, at whichever call, is timed as if it had not."""
    failed: list[int] = []
    if not call:
        numbers: list[int] = []

        def never(made: int, x: torch.Tensor) -> bool:
            numbers.append(made)
            return False

        contest_with(short_at(never, error))
        call = numbers[-5]

    def is_short(made: int, x: torch.Tensor) -> bool:
        if made == call:
            failed.append(made)
        return made == call

    outcome = contest_with(short_at(is_short, error)).trials[1].outcome
    assert isinstance(outcome, Measurement), outcome
    assert failed == [call]


def test_what_fails_each_time_is_refused_and_not_kept() -> None:
    """A candidate for which there is never memory is refused with that reason; no store keeps the contest."""
    contest = contest_with(short_at(lambda made, x: True, SHORT))
    assert contest.trials[1].outcome == Rejection(
        stage="first call", reason="raised OutOfMemoryError: tried to allocate 1.00 GiB", cause="out of device memory"
    )
    assert not is_lasting(contest)


def test_too_little_memory_for_another_size_is_no_verdict() -> None:
    """Where memory lacks for the other sizes alone, nothing is said of these sizes that a store would keep."""
    contest = contest_with(short_at(lambda made, x: x.shape != (8, 16), SHORT))
    outcome = contest.trials[1].outcome
    assert isinstance(outcome, Rejection), outcome
    assert outcome.stage == "parity"
    assert not is_lasting(contest)


def test_judged_again_without_memory_is_no_verdict_that_is_kept() -> None:
    """Whoever raises when it is judged after the race is out, and its reason says that no rule refused it."""

    def judged() -> Verdict:
        raise SHORT

    timed = {"original": (2.0,), "a": (1.0,)}

    def race(names: tuple[str, ...]) -> Any:
        winner = "a" if "a" in names else "original"
        return Decision(winner=winner, reason="", left=(), rounds=1), {name: timed[name] for name in names}

    _, _, wrong = race_until_right(("original", "a"), race, {"a": judged})
    assert wrong["a"].reason.startswith("raised OutOfMemoryError: tried to allocate 1.00 GiB; it was right at first")


def test_no_room_for_the_reference_is_no_verdict_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory lacked for the check everybody is refused today, and the contest is held anew another day."""

    def no_room(*args: object, **kwargs: object) -> None:
        raise SHORT

    monkeypatch.setattr("twinkle_tune.contest.call.Judge", no_room)
    contest = contest_with(short_at(lambda made, x: False, SHORT))
    assert isinstance(contest.trials[1].outcome, Rejection)
    assert not is_lasting(contest)


def failing_once(start: Any, seen: list[int]) -> Callable[..., Any]:
    """A way to start processes that has none left the first time."""

    def started(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        if len(seen) == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return start(*args, **kwargs)

    return started


def test_a_worker_that_is_killed_once_costs_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL may be the system's, for the memory that others took: the candidate gets a second worker process.

    So may be that there is no process left when the first is to be started: it is tried again.
    """
    monkeypatch.setenv(ONCE, str(tmp_path / "killed"))
    seen: list[int] = []
    monkeypatch.setattr("twinkle_tune.tune.process.subprocess.Popen", failing_once(subprocess.Popen, seen))
    with Isolated(Limits()) as executor:
        contest = contest_with(killed_once, executor=executor)
    assert (tmp_path / "killed").exists()
    assert len(seen) >= 3
    assert isinstance(contest.trials[1].outcome, Measurement), contest.trials[1].outcome


def test_where_no_process_is_left_the_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process left at all is the run's error, with what to do."""

    def none_left(*args: Any, **kwargs: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("twinkle_tune.tune.process.subprocess.Popen", none_left)
    with Isolated(Limits()) as executor, pytest.raises(TuneError, match=r"cannot be started .*; profile with --in-"):
        contest_with(killed_never, executor=executor)


def killed_never(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Right."""
    return norm(self, x)


def test_a_compiler_that_cannot_be_started_once_costs_no_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process left for a compiler at that moment: it is started again, and the config is compiled."""
    pytest.importorskip("triton")
    seen: list[int] = []
    monkeypatch.setattr("twinkle_tune.ops.compiling.subprocess.Popen", failing_once(subprocess.Popen, seen))
    dims = {"rows": 64, "width": 2048}
    with Compilers("rms_norm", dims, torch.float32, 90) as compilers:
        assert isinstance(compilers.checked(op_named("rms_norm").default(dims, 90)), Compiled)
    assert len(seen) == 2
