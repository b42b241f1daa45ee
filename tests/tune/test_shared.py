"""What a candidate changes of its process is noticed or undone: one that does so for each row of the table."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from tests.tune.toy import QUICK, Norm, norm
from twinkle_tune import tune_model
from twinkle_tune.kernel import Registry, register_external_layer, register_layer_kernel
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.profile.schema import Contest
from twinkle_tune.tune import settle
from twinkle_tune.tune.isolated import Isolated
from twinkle_tune.tune.shared import SETTINGS, Setting, set_settings, settings_to_send
from twinkle_tune.tune.state import changes_since, noted_since, process_kept, put_back, state_now

_names = itertools.count()


def _write_a_file() -> None:
    Path(f"left-behind-{next(_names)}").write_text("x", encoding="ascii")


def _switch(owner: Any, name: str) -> Callable[[], object]:
    return lambda: setattr(owner, name, not getattr(owner, name))


# What a hostile candidate does, by the name of the row.
HOSTILE: dict[str, Callable[[], object]] = {
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "the gradient mode": lambda: torch._C._set_grad_enabled(not torch.is_grad_enabled()),
    "autocast on the CPU": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast on CUDA": lambda: torch.set_autocast_enabled("cuda", True),
    "autocast's dtype on the CPU": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "autocast's dtype on CUDA": lambda: torch.set_autocast_dtype("cuda", torch.bfloat16),
    "autograd's anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "the precision of float32 matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.backends.cudnn.allow_tf32": _switch(torch.backends.cudnn, "allow_tf32"),
    "torch.backends.cuda.matmul.allow_tf32": _switch(torch.backends.cuda.matmul, "allow_tf32"),
    "torch.backends.mkldnn.enabled": _switch(torch.backends.mkldnn, "enabled"),
    "torch.backends.cudnn.enabled": _switch(torch.backends.cudnn, "enabled"),
    "torch.backends.cudnn.benchmark": _switch(torch.backends.cudnn, "benchmark"),
    "torch.backends.cudnn.deterministic": _switch(torch.backends.cudnn, "deterministic"),
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction": _switch(
        torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"
    ),
    "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction": _switch(
        torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"
    ),
    "flash attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "memory-efficient attention": lambda: torch.backends.cuda.enable_mem_efficient_sdp(False),
    "attention by its formula": lambda: torch.backends.cuda.enable_math_sdp(False),
    "the seed of torch's random numbers (torch.manual_seed)": lambda: torch.manual_seed(10**6 + next(_names)),
    "the flushing of denormal numbers to zero": lambda: torch.set_flush_denormal(True),
    "the processors that it may use": lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]),
    "its priority": lambda: os.nice(1),
    "Python's garbage collection": gc.disable,
    "the thresholds of Python's garbage collection": lambda: gc.set_threshold(17, 3, 3),
    "the interval of switching threads": lambda: sys.setswitchinterval(0.1),
    "Python's trace function": lambda: sys.settrace(lambda frame, event, arg: None),
    "Python's profile function": lambda: sys.setprofile(lambda frame, event, arg: None),
    "signal handlers": lambda: signal.signal(signal.SIGUSR2, lambda number, frame: None),
    "a running timer": lambda: signal.setitimer(signal.ITIMER_REAL, 3600),
    "the working directory": lambda: os.chdir("/"),
    "the mask of new files' permissions": lambda: os.umask(0o111),
    "the recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 100),
    "the environment": lambda: os.environ.update(TWINKLE_TUNE_TEST_LEFT="1"),
    "the filters of warnings": lambda: warnings.filterwarnings("ignore", message="left behind"),
    "Python's search path": lambda: sys.path.insert(0, "/left-behind"),
    "sys.stdout": lambda: setattr(sys, "stdout", open(os.devnull, "w", encoding="ascii")),  # noqa: SIM115
    "sys.stderr": lambda: setattr(sys, "stderr", open(os.devnull, "w", encoding="ascii")),  # noqa: SIM115
    "sys.excepthook": lambda: setattr(sys, "excepthook", lambda *args: None),
    "warnings.showwarning": lambda: setattr(warnings, "showwarning", lambda *args, **more: None),
    "Python's random numbers": random.random,
    "numpy's handling of floating errors": lambda: numpy.seterr(all="ignore"),
    "files in the working directory": _write_a_file,
}
WITHOUT = {
    "the inference mode",  # of the block of code around it
    "torch's function modes",  # who enters one without leaving it leaves all tests in it
    "torch's dispatch modes",
    "torch's number of threads between operations",  # can be set once in a process
    *(setting.name for setting in SETTINGS if "fp32_precision" in setting.name),  # makes the older ones unreadable
}


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A directory of the test's own, a short look at the whole model, and the process as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settle, "SECONDS", 0.1)
    with process_kept():
        yield


def row(name: str) -> Setting:
    """The row of that name."""
    return next(setting for setting in SETTINGS if setting.name == name)


def test_each_row_has_its_hostile_candidate() -> None:
    """Who adds a row adds one that changes it."""
    assert {setting.name for setting in SETTINGS} == HOSTILE.keys() | WITHOUT
    assert not HOSTILE.keys() & WITHOUT


def test_to_import_the_compiler_is_no_change() -> None:
    """It wraps torch.manual_seed and others: no candidate is refused because it was the first to compile."""
    script = (
        "from twinkle_tune.tune.state import changes_since, state_now; before = state_now(); import torch._dynamo; "
        "print([changes_since(before)])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "['']\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_change_is_noticed_and_put_back(name: str) -> None:
    """Each change is refused, put back or noted as its row says; everything that can be set is as it was."""
    setting, before = row(name), state_now()
    if name == "the processors that it may use" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one processor only")
    if name == "a running timer" and setting.read():
        pytest.skip("there is one already")
    HOSTILE[name]()
    assert setting.read() != before.settings[name]
    assert bool(changes_since(before, threads=False)) is (setting.change == "refused")
    assert bool(noted_since(before)) is (setting.change == "noted")
    put_back(before, everything=True)
    if setting.put is not None and name != "its priority":  # a lower one is for good, but for the superuser
        assert setting.read() == before.settings[name]
        assert changes_since(before, threads=False) == ""


def contest_of(*impls: Callable[..., torch.Tensor], **options: object) -> Contest:
    """A contest of a norm with these candidates."""
    registry = Registry()
    register_external_layer(Norm, "Norm", registry=registry)
    for impl in impls:
        register_layer_kernel("Norm", layer_impl=impl, device="cpu", registry=registry)
    model = nn.Sequential(Norm(16)).eval()
    options.setdefault("candidates", ["impl"])
    return tune_model(model, torch.randn(8, 16), registry=registry, settings=QUICK, **options).contests[0]  # type: ignore[arg-type]


def doing(name: str) -> Callable[..., torch.Tensor]:
    """A right and fast candidate that changes a row in its first call."""
    begun: list[int] = []

    def hostile(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        begun.append(1)
        if len(begun) == 1:
            HOSTILE[name]()
        return norm(self, x)

    return hostile


@pytest.mark.parametrize(
    "name",
    [
        "the default dtype",
        "the flushing of denormal numbers to zero",
        "the working directory",
        "the thresholds of Python's garbage collection",
        "signal handlers",
        "the environment",
        "the filters of warnings",
        "the recursion limit",
        "files in the working directory",
    ],
)
def test_in_the_process_of_the_run_nothing_stays(name: str) -> None:
    """Without a worker process a candidate is refused, undone or noted as well, and the run ends with all as it was."""
    setting, before = row(name), row(name).read()
    outcome = contest_of(doing(name)).trials[1].outcome
    if setting.change == "refused":
        assert isinstance(outcome, Rejection)
        assert f"changed {name}" in outcome.reason
    else:
        assert isinstance(outcome, Measurement)
        assert any("left-behind" in note for note in outcome.notes) is (setting.change == "noted")
    if setting.put is not None:
        assert setting.read() == before


def test_compiling_is_no_meddling() -> None:
    """torch.compile's first use changes functions of torch, the environment and the recursion limit: no refusal."""
    reasons = [
        trial.outcome.reason
        for trial in contest_of(candidates=["compile"]).trials
        if isinstance(trial.outcome, Rejection)
    ]
    assert not any("changed" in reason for reason in reasons)


@pytest.mark.slow
def test_in_a_worker_process_all_are_refused_or_undone() -> None:
    """One contest with a candidate for each kind of row in a worker process: the refused are told, the others timed."""
    from tests.tune import meddlers

    with Isolated() as executor:
        contest = contest_of(*meddlers.ALL, executor=executor)
    found = {trial.candidate.rpartition(":")[2]: trial.outcome for trial in contest.trials}
    for impl in meddlers.REFUSED:
        outcome = found[impl.__name__]
        assert isinstance(outcome, Rejection), impl.__name__
        assert "which others in the process share" in outcome.reason
    for impl in meddlers.UNDONE:
        assert isinstance(found[impl.__name__], Measurement), impl.__name__


def test_settings_reach_another_process() -> None:
    """What can be set is sent with its value; for what torch refuses to tell goes the newer switch."""
    sent = settings_to_send()
    assert sent["torch.backends.mkldnn.enabled"] is True
    assert not any("fp32_precision" in name for name in sent)
    newer = "torch's fp32_precision of cuda matmul"
    before = row(newer).read()
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        sent = settings_to_send()
    finally:
        row(newer).put_back(before)
    assert "torch.backends.cuda.matmul.allow_tf32" not in sent
    assert sent[newer] == "tf32"
    assert all(not isinstance(value, str) or "unreadable" not in value for value in sent.values())
    set_settings({"the default dtype": torch.get_default_dtype(), newer: before})
