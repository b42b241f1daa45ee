"""Contests in a worker process: hostile candidates, in real processes, are refused and hurt nobody."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.tune import hostile
from tests.tune.toy import QUICK, Norm, Two, norm
from twinkle_tune import tune_model
from twinkle_tune.contest.events import RoundTimed, TrialRefused
from twinkle_tune.contest.selected import cut_off, with_cut_off
from twinkle_tune.errors import TuneError, TuneInterrupted
from twinkle_tune.kernel import Registry, register_external_layer, register_function_kernel, register_layer_kernel
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.outcome import Measurement, Outcome, Rejection, Selection, Trial, Untimed
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.tune import settle, watch, worker
from twinkle_tune.tune.allowance import device_allowance
from twinkle_tune.tune.events import ContestFinished, Event, OriginalFailed
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.job import Job, Once
from twinkle_tune.tune.limits import Limits
from twinkle_tune.tune.mark import Mark

UNWON = RaceSettings(max_rounds=9, min_gain=0.99)
"""Nobody is a hundred times as fast: no winner is timed again, which starts a second worker process."""
TIGHT = Limits(import_s=4.0, first_call_s=4.0, call_s=4.0, host_bytes=1 << 30)


@pytest.fixture(scope="module", autouse=True)
def _short_steps() -> Iterator[None]:
    """The whole model is timed for a moment only: these tests are about contests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "SECONDS", 0.1)
        yield


def registry_of(*impls: Callable[..., object], cls: type[nn.Module] = Norm) -> Registry:
    """A registry in which ``cls`` has these contestants, in this order."""
    registry = Registry()
    register_external_layer(cls, "Norm", registry=registry)
    for impl in impls:
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=registry)
    return registry


def tuned(registry: Registry, *, model: nn.Module | None = None, **options: object) -> Profile:
    """A profile of one norm of 16 channels, or of ``model``, isolated unless an executor says otherwise."""
    torch.manual_seed(0)
    made = model if model is not None else nn.Sequential(Norm(16))
    x = torch.randn(8, 16)
    options = {"candidates": ["impl"], "settings": QUICK, **options}
    with contextlib.ExitStack() as stack:
        if "executor" not in options:
            options["executor"] = stack.enter_context(Isolated(TIGHT))
        return tune_model(made, x, registry=registry, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def apart() -> Iterator[Isolated]:
    """A worker process for the tests that need none of their own: to start one takes seconds of processor time."""
    with Isolated() as executor:
        yield executor


def outcomes(contest: Contest) -> dict[str, Outcome]:
    """By the short name of the candidate."""
    return {trial.candidate.rpartition(":")[2]: trial.outcome for trial in contest.trials}


def is_running(pid: int) -> bool:
    """Whether there is such a process, zombies aside."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def is_gone(pid: int, within_s: float = 120.0) -> bool:
    """Whether the process ends in that time."""
    until_s = time.monotonic() + within_s
    while is_running(pid) and time.monotonic() < until_s:
        time.sleep(0.02)
    return not is_running(pid)


# What each does, the stage at which it is found, and a part of the reason.
DEADLY = [
    (hostile.segfault, "first call", "ended the process with signal SIGSEGV"),
    (hostile.abort, "first call", "signal SIGABRT; last output: assertion failed: tile fits"),
    (hostile.exit_at_once, "first call", "ended the process with exit code 3"),
    (hostile.leave, "first call", "raised SystemExit: 4"),
    (hostile.interrupt, "first call", "raised KeyboardInterrupt"),
    (hostile.doom, "first call", "raised Doom: the end"),
    (hostile.killed, "first call", "signal SIGKILL (perhaps by the system, for want of memory)"),
    (hostile.endless, "first call", "did not finish its first call within 4 s"),
    (hostile.deadlock, "first call", "did not finish its first call within 4 s"),
    (hostile.hoard, "first call", "took more host memory than allowed (limit 1.0 GiB)"),
    (hostile.flood_and_die, "first call", "signal SIGABRT; last output: "),
    (hostile.close_all, "first call|parity|timing", "the process"),  # the run hears of it a moment later
    (hostile.fork, "first call", "forked the process"),
    (hostile.late, "timing", "ended the process with exit code 5"),
]
CHANGING = [
    (hostile.threads, "first call", "left 1 thread running (busy)"),
    (hostile.dtype, "first call", "changed the default dtype from torch.float32 to torch.float64"),
    (hostile.grad_mode, "first call", "changed the gradient mode from False to True"),
    (hostile.seed, "first call", "changed the seed of torch's random numbers"),
    (hostile.backend, "first call", "changed torch.backends.mkldnn.enabled from True to False"),
    (hostile.fewer_threads, "first call", "changed torch's number of threads"),
    (hostile.silu, "first call", "changed torch.nn.functional.silu (replaced)"),
    (hostile.tensor_method, "first call", "changed torch.Tensor.sum (replaced)"),
    (hostile.clock, "first call", "changed time.perf_counter (replaced)"),
    (hostile.late_dtype, "timing", "changed the default dtype"),
]


def contest_with(rows: Sequence[tuple[Callable[..., object], str, str]]) -> Contest:
    """One contest with them all, between two that behave."""
    profile = tuned(registry_of(hostile.fine, *(impl for impl, _, _ in rows), hostile.rough, hostile.flood))
    return profile.contests[0]


@pytest.fixture(scope="module")
def peaceful() -> Contest:
    """The contest of those that behave alone."""
    return contest_with([])


@pytest.fixture(scope="module")
def deadly() -> Contest:
    """The contest with everything that ends or hangs its process."""
    return contest_with(DEADLY)


@pytest.fixture(scope="module")
def changing() -> Contest:
    """The contest with everything that changes what all share."""
    return contest_with(CHANGING)


def check_refusal(contest: Contest, impl: Callable[..., object], stage: str, reason: str) -> None:
    found = outcomes(contest)[impl.__name__]
    assert isinstance(found, Rejection)
    assert found.stage in stage.split("|")
    assert reason in found.reason
    assert len(found.reason) < 400


@pytest.mark.slow
@pytest.mark.parametrize(("impl", "stage", "reason"), DEADLY, ids=[row[0].__name__ for row in DEADLY])
def test_whoever_ends_or_hangs_the_process_is_refused(
    deadly: Contest, impl: Callable[..., object], stage: str, reason: str
) -> None:
    """A candidate that ends the process, hangs or takes all memory is refused where it did so, with what it did."""
    check_refusal(deadly, impl, stage, reason)


@pytest.mark.slow
@pytest.mark.parametrize(("impl", "stage", "reason"), CHANGING, ids=[row[0].__name__ for row in CHANGING])
def test_whoever_changes_what_all_share_is_refused(
    changing: Contest, impl: Callable[..., object], stage: str, reason: str
) -> None:
    """A candidate that changes a setting, a function or leaves threads behind is refused with what it changed."""
    check_refusal(changing, impl, stage, reason)


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["deadly", "changing"])
def test_the_others_are_untouched(fixture: str, peaceful: Contest, request: pytest.FixtureRequest) -> None:
    """Beside hostile ones the others have the outcomes that they have without: parity to the bit, reasons, winner."""
    disturbed: Contest = request.getfixturevalue(fixture)
    assert disturbed.selection.winner == peaceful.selection.winner == "impl:fine"
    kept = [trial for trial in disturbed.trials if any(trial.candidate == t.candidate for t in peaceful.trials)]
    assert [comparable(trial) for trial in kept] == [comparable(trial) for trial in peaceful.trials]
    assert isinstance(outcomes(peaceful)["flood"], Measurement)


def comparable(trial: Trial) -> object:
    """A trial without its times."""
    found = trial.outcome
    if isinstance(found, Measurement):
        return (trial.candidate, trial.source, trial.digest, found.parity, found.deterministic)
    return trial


@pytest.mark.slow
def test_a_package_that_hangs_on_import_costs_its_limit_once(tmp_path: Path) -> None:
    """A local package that never finishes its import is refused at loading, in later contests at once."""
    package = tmp_path / "sleeper"
    package.mkdir()
    begun = tmp_path / "begun"
    (package / "__init__.py").write_text(
        f"import time\nopen({str(begun)!r}, 'a').write('once ')\ntime.sleep(1e6)\n", encoding="utf-8"
    )
    registry = registry_of(hostile.fine)
    register_layer_kernel("Norm", repo_path=str(tmp_path), package_name="sleeper", device="cpu", registry=registry)
    profile = tuned(registry, model=Two(), candidates=["impl", "local"])
    narrow, wide = (contest for contest in profile.contests if contest.slot.name == "Norm")
    for contest in (narrow, wide):
        (sleeper,) = (trial.outcome for trial in contest.trials if trial.candidate.startswith("local"))
        assert sleeper == Rejection(stage="load", reason="did not finish loading within 4 s", cause="timeout")
        assert contest.selection.winner == "impl:fine"
    assert begun.read_text(encoding="utf-8") == "once "


class Fragile(Norm):
    """Runs in the process that it was made in, and nowhere else."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.home = os.getpid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As its parent's."""
        if os.getpid() != self.home:
            os._exit(9)
        return norm(self, x)


class Touchy(Norm):
    """Ends the process once somebody has set ``hostile.damaged``, as code does over whose memory was written."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As its parent's."""
        if hostile.damaged:
            os._exit(7)
        return super().forward(x)


def test_an_original_that_ends_the_process_is_the_runs_error() -> None:
    """Where the original itself ends the worker, the run ends with an error that says so."""
    with pytest.raises(
        TuneError, match=r"Fragile: the original itself ended the process with exit code 9.*with --in-process"
    ):
        tuned(registry_of(hostile.fine, cls=Fragile), model=nn.Sequential(Fragile(16)))


@pytest.mark.slow
def test_damage_that_the_original_feels_is_told_of_its_author() -> None:
    """Where the original dies of what a rival did, the rival is found and refused, and the contest goes on."""
    registry = registry_of(hostile.fine, hostile.damage, cls=Touchy)
    (contest,) = tuned(registry, model=nn.Sequential(Touchy(16))).contests
    found = outcomes(contest)["damage"]
    assert isinstance(found, Rejection)
    assert "with it in the process the original ended the process with exit code 7" in found.reason
    assert contest.selection.winner == "impl:fine"


def test_no_worker_is_started_to_find_the_guilty_one_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each candidate costs a worker process, seconds with a GPU: the budget ends the search, and the error says so."""
    attempts: list[tuple[str, ...]] = []
    monkeypatch.setattr(Isolated, "_attempt", lambda _, __, without: attempts.append(without))
    names = [SimpleNamespace(name=name) for name in ("original", "impl:a", "impl:b")]
    task: Any = SimpleNamespace(candidates=names, deadline_s=None)
    header: Any = None
    events: list[Event] = []
    job = Job(task=task, header=header, told=Once(events.append))
    with Isolated() as executor:
        assert executor._guilty(job, "raised RuntimeError") == []
        assert len(attempts) == 3
        assert events == [OriginalFailed(reason="raised RuntimeError", processes=3)]
        task.deadline_s = 0.0
        with pytest.raises(TuneError, match="the original raised RuntimeError in the worker process, and the time bud"):
            executor._guilty(job, "raised RuntimeError")
    assert len(attempts) == 3


def test_the_process_of_second_races_starts_with_the_first() -> None:
    """Where somebody competes both are there in the first race, and end together; for the original alone one is."""
    with Isolated(TIGHT, ahead=True) as executor:
        tuned(registry_of(), executor=executor, candidates=["original"])
        assert executor._second is None
        there: set[int | None] = set()

        def listen(event: Event) -> None:
            if isinstance(event, RoundTimed) and executor._second is not None:
                there.add(executor._second.pid)

        tuned(registry_of(norm), executor=executor, on_event=listen)
        (second,) = there
        assert second not in (None, executor.pid)
    assert second is not None
    assert is_gone(second)


def test_events_come_while_it_goes_on_and_once(apart: Isolated) -> None:
    """The listener hears of rounds as they are timed, and of a refusal once though the contest was run twice.

    Whoever the worker died of is in the profile with the digest of its code, as all others.
    """
    events: list[Event] = []
    pids: set[int | None] = set()

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, RoundTimed):
            pids.add(apart.pid)

    registry = registry_of(hostile.rough, hostile.fine, hostile.exit_at_once)
    (contest,) = tuned(registry, executor=apart, on_event=listen, settings=UNWON).contests
    refused = [event.candidate for event in events if isinstance(event, TrialRefused)]
    assert refused == ["impl:rough", "impl:exit_at_once"]
    rounds = [event for event in events if isinstance(event, RoundTimed)]
    assert len(rounds) >= contest.selection.rounds
    assert len(pids) == 1
    assert None not in pids
    digests = [trial.digest for trial in contest.trials]
    assert all(digests)
    assert len(set(digests)) == len(digests) == 4


def test_one_worker_serves_all_contests_and_is_replaced_when_it_dies(apart: Isolated) -> None:
    """Contests share a worker process; one that was killed between two contests is replaced without a word."""
    pids: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, ContestFinished) and apart.pid is not None:
            pids.append(apart.pid)
            if len(pids) == 2:
                os.kill(apart.pid, signal.SIGKILL)

    registry = registry_of(hostile.fine)
    torch.manual_seed(0)
    inputs = [torch.randn(rows, 16) for rows in (2, 4, 8)]
    profile = tune_model(
        nn.Sequential(Norm(16)), inputs, registry=registry, settings=UNWON, candidates=["impl"],
        executor=apart, on_event=listen,
    )  # fmt: skip
    assert pids[0] == pids[1] != pids[2]
    assert [type(outcomes(contest)["fine"]) for contest in profile.contests] == [Measurement] * 3
    assert not any("tried in the process" in contest.selection.reason for contest in profile.contests)
    assert is_gone(pids[0])


def test_what_cannot_be_sent_is_tried_here_and_says_so() -> None:
    """A contest with a function that only this process knows is run here as a whole, and its selection says so."""

    def local(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return norm(self, x)

    with Isolated(TIGHT) as executor:
        (contest,) = tuned(registry_of(local), executor=executor).contests
        assert executor.pid is None
    assert contest.selection.winner != "original"
    assert "tried in the process of the run, not apart: " in contest.selection.reason
    assert "cannot be sent to another process" in contest.selection.reason


def test_code_from_a_file_of_no_package_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: Isolated
) -> None:
    """Candidates of a file that was given with --register, which no path leads to, are tried in the worker."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from tests.tune.toy import norm\n\ndef mine(self, x):\n    return norm(self, x)\n", encoding="utf-8"
    )
    spec = importlib.util.spec_from_file_location("twinkle_tune_registered_mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec.loader.exec_module(module)
    (contest,) = tuned(registry_of(module.mine), executor=apart, settings=UNWON).contests
    assert apart.pid is not None
    assert isinstance(outcomes(contest)["mine"], Measurement)
    assert "tried in the process" not in contest.selection.reason


def test_functions_and_training_are_tried_in_the_worker(apart: Isolated) -> None:
    """Function slots, and layers forward and backward, have the same outcomes in a worker as in this process."""
    from tests.tune.toy import doubled

    registry = registry_of(hostile.fine)
    register_function_kernel(
        func_name=doubled.__name__, target_module=doubled.__module__, func_impl=hostile.fast_doubled, registry=registry
    )
    torch.manual_seed(1)
    model = Two()
    here, there = (
        tuned(registry, model=model, mode="train", settings=UNWON, executor=executor) for executor in (None, apart)
    )
    assert [[comparable(t) for t in c.trials] for c in here.contests] == [
        [comparable(t) for t in c.trials] for c in there.contests
    ]
    assert not any("tried in the process" in contest.selection.reason for contest in there.contests)


def test_an_interrupt_ends_the_worker(apart: Isolated) -> None:
    """A Ctrl-C that reaches the run in the middle of a contest ends the worker process too."""
    seen: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, RoundTimed):
            assert apart.pid is not None
            seen.append(apart.pid)
            raise KeyboardInterrupt

    with pytest.raises(TuneInterrupted):
        tuned(registry_of(hostile.fine), executor=apart, on_event=listen)
    assert apart.pid is None
    assert is_gone(seen[0])


# A run for each folder, which is that of its temporary files, one after another.
_RUNS = """
import os, sys, tempfile
from tests.tune import hostile
from tests.tune.test_isolated import tuned, registry_of
from twinkle_tune.contest.events import TrialStarted
from twinkle_tune.tune.isolated import Isolated

def run():
    executor = Isolated()

    def listen(event):
        if isinstance(event, TrialStarted) and event.candidate != "original":
            print(os.getpid(), executor.pid, flush=True)

    tuned(registry_of(hostile.brood), executor=executor, on_event=listen)

for folder in sys.argv[1:]:
    os.environ["TMPDIR"], tempfile.tempdir = folder, None
    child = os.fork()
    if not child:
        run()
    os.waitpid(child, 0)
"""


def test_no_process_and_no_file_stays_behind(tmp_path: Path) -> None:
    """However a run ends, kill -9 included, its worker process ends with it and no temporary file is left."""
    folders = {number: tmp_path / number.name for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)}
    for folder in folders.values():
        folder.mkdir()
    # torch makes the folder of its compiler's cache, which is to stay, when parts of it are imported.
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    process = subprocess.Popen(
        [sys.executable, "-c", _RUNS, *map(str, folders.values())],
        env={**os.environ, **cache, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for number, folder in folders.items():
            run, worker = map(int, process.stdout.readline().split())
            time.sleep(0.3)
            os.kill(run, number)
            assert is_gone(run), number
            assert is_gone(worker), number
            assert not any(folder.iterdir()), number
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_what_a_candidate_started_ends_with_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a run is over its worker is ended, and with it a process that a candidate started."""
    note = tmp_path / "pid"
    monkeypatch.setenv("TWINKLE_TUNE_TEST_NOTE", str(note))
    with Isolated(TIGHT) as executor:
        tuned(registry_of(hostile.parent), settings=UNWON, executor=executor)
        worker = executor.pid
    assert worker is not None
    assert is_gone(worker)
    assert is_gone(int(note.read_text(encoding="ascii")))


def test_who_hangs_takes_a_share_of_the_budget_alone() -> None:
    """It is cut off, which is no refusal, and not begun again; others have their turn in the process that is ready."""
    with Isolated(Limits(of_left=0.01), ahead=True) as executor:  # of ten minutes
        profile = tuned(registry_of(hostile.brood, hostile.fine), model=Two(), executor=executor, budget_s=600.0)
    narrow, wide = (outcomes(contest) for contest in profile.contests if contest.slot.name == "Norm")
    for found in (narrow, wide):
        late = found["brood"]
        assert isinstance(late, Untimed)
        assert (late.cause, late.right) == ("cut off", False)
        assert isinstance(found["fine"], Measurement)
    assert narrow["brood"] == wide["brood"]
    assert re.fullmatch(
        r"not tried to its end: it did not finish its first call within \S+ s, which is what the time budget left it",
        getattr(narrow["brood"], "reason", ""),
    )
    assert not profile.complete
    assert "0 of 2 contests finished, impl:brood cut off. So far: " in profile.verdict
    assert profile.verdict.endswith("What would be enough is not known: who was cut off may hang.")


def test_that_nobody_was_faster_is_not_said_where_somebody_was_cut_off() -> None:
    """The original stays, and the status says that the budget ended it; what won or was open before stays as it was."""
    cut = Trial(candidate="late", source="impl", digest="", outcome=cut_off("first call", "did not finish"))
    plain = Selection(winner="original", reason="no other candidate", status="nothing to gain")
    told = with_cut_off(plain, [cut])
    assert (told.status, told.reason) == ("not tried", cut.outcome.reason)  # type: ignore[union-attr]
    timed = replace(cut, outcome=cut_off("timing", "did not finish"))
    assert with_cut_off(plain, [timed]).status == "cut short"
    won = replace(plain, winner="other", status="won")
    assert with_cut_off(won, [cut]) == won
    assert with_cut_off(plain, []) == plain


def test_a_budget_shortens_every_limit_but_the_last_second() -> None:
    """By its share of what is left; without a budget each stage has its own."""
    limits = Limits(first_call_s=300.0, of_left=0.5)
    assert [limits.stage_s("first call", 0.0, left_s) for left_s in (None, 900.0, 90.0, 0.0)] == [300, 300, 45, 1]
    assert [limits.is_by_budget("first call", limit_s) for limit_s in (45.0, 300.0)] == [True, False]
    with pytest.raises(TuneError, match=r"of_left: got 1\.5, expected a share over 0 and at most 1"):
        Limits(of_left=1.5)


def test_what_a_new_process_would_need_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hangs ends its process: of 100 s, 20 of them for preparations, a candidate may take half of the 60 left."""
    now_s, mark = 0.0, Mark()
    task: Any = SimpleNamespace(candidates=[SimpleNamespace(name="one")], deadline_s=100.0)
    monkeypatch.setattr(worker, "_now_s", lambda: now_s)
    monkeypatch.setattr(watch, "shared_code", lambda _: ())
    watching = worker.ProcessWatch(mark, Limits(of_left=0.5), task)
    now_s = 20.0
    watching.begins("one", "first call")
    assert mark.get().limit_s == 30.0
    now_s = 50.0
    watching.begins("one", "parity")
    assert mark.get().limit_s == 15.0


def test_limits_must_be_positive() -> None:
    """A limit of nothing is refused with what was expected."""
    with pytest.raises(TuneError, match=r"first_call_s: got 0, expected a positive number"):
        Limits(first_call_s=0)
    with pytest.raises(TuneError, match=r"host_bytes: got -1"):
        Limits(host_bytes=-1)


def test_device_memory_is_what_is_held_and_most_of_the_rest() -> None:
    """By default the task's own and nine tenths of what is free; what was asked for, but no more than there is."""
    assert device_allowance(Limits(), free=50, held=30, total=100) == 75
    assert device_allowance(Limits(device_bytes=20), free=50, held=30, total=100) == 20
    assert device_allowance(Limits(device_bytes=200), free=50, held=30, total=100) == 100
    with pytest.raises(TuneError, match=r"device_bytes: got 0"):
        Limits(device_bytes=0)


def test_slow_originals_widen_the_limits() -> None:
    """A limit is never less than a multiple of what the original took for the same."""
    limits = Limits(call_s=1.0, slower=20.0)
    assert limits.stage_s("timing", 0.01) == 1.0
    assert limits.stage_s("timing", 2.0) == 40.0
