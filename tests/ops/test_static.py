"""Without a GPU: every default config of every op compiles for the supported architectures, spills nothing and fits."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.today import by_day, of_today
from twinkle_tune.errors import ConfigError
from twinkle_tune.ops import static
from twinkle_tune.ops.all import all_ops, op_named, op_names
from twinkle_tune.ops.compiling import Compilers
from twinkle_tune.ops.op import Op
from twinkle_tune.ops.resources import Compiled, Resources, Unfit, occupancy
from twinkle_tune.ops.space import Dims
from twinkle_tune.ops.static import ARCHITECTURES, Job, compile_op, compile_ops

pytest.importorskip("triton")
rms_norm_kernel = pytest.importorskip("twinkle_tune.ops.rms_norm.kernel")

WIDTHS = (1024, 2048, 4096, 8192, 14336)
ROWS = (1, 32, 2048, 16384)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CLASSES = (32000, 128256)
SIZES: dict[str, tuple[int, ...]] = {"rows": ROWS, "width": WIDTHS, "classes": CLASSES}
"""Sizes of real models by the name of a dimension."""
OF_AN_OP: dict[str, tuple[Dims, ...]] = {
    "rope": tuple(
        {"tokens": tokens, "heads": 32, "kv_heads": 8, "width": width, "turned": turned}
        for tokens in (1, 2048)
        for width, turned in ((64, 64), (128, 64), (128, 128), (256, 256))
    ),
    "attention": tuple(
        {"queries": queries, "keys": 4096, "batch": 2, "heads": 32, "kv_heads": 8, "width": width}
        for queries in (1, 4096)
        for width in (32, 64, 80, 128, 256)
    ),
    "linear_act": tuple(
        {"rows": rows, "width": width, "out": out}
        for rows in (1, 32, 2048)
        for width, out in ((768, 3072), (1024, 4096), (4096, 14336))
    ),
}
"""The same for ops whose dimensions hang together or mean something else."""
SMALL = {"rows": 64, "width": 2048}


def calls(op: Op, *, every: bool) -> Iterator[tuple[Dims, torch.dtype, str]]:
    """Calls of an op: every combination, or for each of its dimensions' extremes one of the plain variant."""
    unknown = set(op.dims) - set(SIZES) if op.name not in OF_AN_OP else set()
    assert not unknown, f"give sizes of real models for {unknown} of {op.name} in SIZES or OF_AN_OP"
    sizes = OF_AN_OP.get(op.name) or [
        dict(zip(op.dims, values, strict=True)) for values in itertools.product(*(SIZES[name] for name in op.dims))
    ]
    if every:
        yield from itertools.product(sizes, DTYPES, op.variants)
    else:
        yield sizes[-1], torch.bfloat16, next(iter(op.variants))


def check(op: Op, architecture: int, *, every: bool) -> None:
    """Fails with each call whose default cannot be launched, or spills."""
    jobs: list[Job] = [(op, dims, dtype, None, variant) for dims, dtype, variant in calls(op, every=every)]
    bad = []
    for (_, dims, dtype, _, variant), found in zip(jobs, compile_ops(jobs, architecture=architecture), strict=True):
        if isinstance(found, Unfit):
            bad.append(f"{dims} {dtype} {variant!r}: {found.reason}")
            continue
        assert found.kernels
        bad += [
            f"{dims} {dtype} {variant!r}: {each.unlaunchable or f'{each.kernel} spills {each.spilled_bytes} bytes'}"
            for each in found.kernels
            if each.unlaunchable or each.spilled_bytes
        ]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("number", by_day(range(len(op_names())), 2))
def test_the_default_of_a_large_call_compiles(number: int) -> None:
    """The largest call in bfloat16: launchable, nothing spilled. Half of the ops a day, for one architecture each."""
    # Tomorrow the other half, each for the next architecture: in ten days each op is compiled for all of them.
    (first,) = of_today(range(len(ARCHITECTURES)), len(ARCHITECTURES))
    check(op_named(op_names()[number]), ARCHITECTURES[(first + number) % len(ARCHITECTURES)], every=False)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", op_names())
def test_every_default_compiles(name: str, architecture: int) -> None:
    """All sizes of real models, dtypes and variants, for each architecture: launchable, and nothing spilled."""
    check(op_named(name), architecture, every=True)


def test_the_driver_and_the_launches_are_put_back() -> None:
    """Whatever comes of it, Triton's driver and its way to launch are those of before."""
    from triton.runtime import driver
    from triton.runtime.jit import KernelInterface

    before = driver._active, KernelInterface.__getitem__
    op = op_named("rms_norm")
    assert isinstance(compile_op(op, SMALL, torch.float32, None, architecture=90), Compiled)
    assert isinstance(compile_op(op, SMALL, torch.float32, {"nonsense": 1}, architecture=90), Unfit)
    with pytest.raises(ConfigError, match="variant: got 'none' of rms_norm"):
        compile_op(op, SMALL, torch.float32, None, architecture=90, variant="none")
    assert (driver._active, KernelInterface.__getitem__) == before


def broken_parse(monkeypatch: pytest.MonkeyPatch, error: BaseException, times: int) -> list[int]:
    """Parsing a kernel raises ``error`` the first ``times``; the list grows with each parse."""
    from triton.runtime.jit import JITFunction

    owner, calls = next(each for each in JITFunction.__mro__ if "parse" in vars(each)), []
    parse = vars(owner)["parse"]

    def broken(kernel: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return parse(kernel)

    monkeypatch.setattr(owner, "parse", broken)
    return calls


@pytest.mark.parametrize(
    ("architecture", "error"),  # an architecture each, for which this process has compiled nothing yet
    [
        (80, SystemError("AST constructor recursion depth mismatch (before=15, after=10)")),
        (89, OSError(28, "no space left")),
        (90, MemoryError()),
    ],
)
def test_a_failure_of_the_moment_refuses_no_config(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, architecture: int, error: BaseException
) -> None:
    """What the interpreter, a full disk or a lack of memory did once is tried again; the kernel compiles."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    calls = broken_parse(monkeypatch, error, times=1)
    found = compile_op(op_named("rms_norm"), {"rows": 8, "width": 64}, torch.float32, None, architecture=architecture)
    assert isinstance(found, Compiled)
    assert len(calls) > 1


def test_a_failure_of_the_kernel_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another error is the config's own, and so is one of the moment that comes each time."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tries: list[int] = []
    compile_all = static._compile_all

    def counted(jobs: Sequence[Job], architecture: int, workers: int) -> list[Compiled | Exception]:
        tries.append(1)
        return compile_all(jobs, architecture, workers)

    monkeypatch.setattr(static, "_compile_all", counted)
    call = op_named("rms_norm"), {"rows": 8, "width": 64}, torch.float32, None
    for architecture, error, expected in ((100, SystemError("another"), 1), (120, OSError(28, "no space left"), 3)):
        tries.clear()
        broken_parse(monkeypatch, error, times=1000)
        found = compile_op(*call, architecture=architecture)
        assert isinstance(found, Unfit)
        assert str(error) in found.reason
        assert len(tries) == expected


def test_kernels_are_parsed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that compile never parse side by side, which some versions of Python do not survive."""
    from triton.runtime.jit import JITFunction

    inside, most = [], []

    class Kernel:
        def parse(self) -> None:
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.002)
            inside.pop()

    owner = next(each for each in JITFunction.__mro__ if "parse" in vars(each))
    monkeypatch.setattr(owner, "parse", Kernel.parse)
    with static._one_parse_at_a_time():
        threads = [threading.Thread(target=lambda: [owner.parse(Kernel()) for _ in range(5)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(most) == 40
    assert max(most) == 1


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_eight_threads_always_say_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """40 configs compiled by 8 threads, 20 times from nothing: the same answers each time."""
    op = op_named("rms_norm")
    dims = {"rows": 64, "width": 512}
    configs = list(itertools.islice(op.space(dims).configs(), 40))
    jobs: list[Job] = [(op, dims, torch.float32, config, "") for config in configs]
    answers = []
    for turn in range(20):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / str(turn)))
        for kernel in (each for each in vars(rms_norm_kernel).values() if hasattr(each, "device_caches")):
            kernel.device_caches.clear()
        answers.append(compile_ops(jobs, architecture=90, workers=8))
    assert len(configs) == 40
    assert all(each == answers[0] for each in answers)
    assert not any("SystemError" in str(each) or "CompilationError" in str(each) for each in answers[0])


def test_architectures_are_kept_apart() -> None:
    """The same config compiled for two architectures is two kernels, not one out of a cache."""
    op = op_named("rms_norm")
    for architecture in (80, 90):
        found = compile_op(op, SMALL, torch.bfloat16, None, architecture=architecture)
        assert isinstance(found, Compiled)
        assert {each.architecture for each in found.kernels} == {architecture}


def test_too_few_threads_for_a_row_are_found_out() -> None:
    """A row of 8192 for one warp, 256 elements a thread, spills, and the search is told so."""
    op = op_named("rms_norm")
    dims = {"rows": 64, "width": 8192}
    found = compile_op(op, dims, torch.float32, {**op.default(dims, 90), "warps": 1}, architecture=90)
    assert isinstance(found, Compiled)
    assert "spills" in found.doubtful


def resources(**changed: Any) -> Resources:
    """A kernel that is fine but for what is changed."""
    fine: dict[str, Any] = {
        "kernel": "k", "architecture": 90, "registers": 64, "spilled_bytes": 0, "shared_bytes": 0, "warps": 4,
        "occupancy": 0.5,
    }  # fmt: skip
    return Resources(**{**fine, **changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shared_bytes": 393216}, "k: 393216 bytes of shared memory, over the 232448 that a block may have on sm_90"),
        ({"shared_bytes": 131072, "architecture": 120}, "over the 101376 that a block may have on sm_120"),
        ({"occupancy": 0.0, "registers": 255, "warps": 16}, "255 registers for 16 warps fit no multiprocessor"),
    ],
)
def test_what_cannot_be_launched_is_told(changed: dict[str, Any], said: str) -> None:
    assert said in resources(**changed).unlaunchable


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"spilled_bytes": 232}, "k: spills 232 bytes"), ({"occupancy": 0.02}, "k: occupancy hopeless (2.0%)")],
)
def test_what_is_hardly_worth_it_is_told(changed: dict[str, Any], said: str) -> None:
    assert resources(**changed).doubtful == said
    assert resources(spilled_bytes=16).doubtful == ""


@pytest.mark.parametrize(
    ("architecture", "registers", "shared_bytes", "warps", "expected"),
    [(90, 32, 0, 8, 1.0), (90, 128, 0, 8, 0.25), (90, 255, 196608, 8, 0.125), (89, 40, 0, 4, 1.0), (90, 255, 0, 16, 0)],
)
def test_occupancy_is_that_of_the_calculator(
    architecture: int, registers: int, shared_bytes: int, warps: int, expected: float
) -> None:
    """Worked by hand: registers of a warp in units of 256 out of 65,536, 1 KiB of shared memory reserved a block."""
    found = occupancy(architecture, registers=registers, shared_bytes=shared_bytes, warps=warps)
    assert found == expected


def test_worker_processes_compile_and_say_what_does_not() -> None:
    """What a worker finds is what this process finds; a config that cannot be compiled is a reason."""
    op = op_named("rms_norm")
    default = op.default(SMALL, 90)
    with Compilers(op.name, SMALL, torch.bfloat16, 90) as compilers:
        compilers.prepare([default])
        assert compilers.checked(default) == compile_op(op, SMALL, torch.bfloat16, default, architecture=90)
        refused = compilers.checked({"nonsense": 1})
    assert isinstance(refused, Unfit)
    assert "expected ['back_block'" in refused.reason


def test_a_worker_that_dies_is_one_config_lost() -> None:
    """A compiler that takes its process down is a reason; the next config gets a new process."""
    default = op_named("rms_norm").default(SMALL, 90)
    with Compilers("rms_norm", SMALL, torch.bfloat16, 90) as compilers:
        worker = compilers._threads.submit(compilers._worker).result()
        worker.kill()
        worker.wait()
        assert isinstance(compilers.checked(default), Compiled)


def test_the_interpreter_is_refused() -> None:
    """Under TRITON_INTERPRET=1 nothing is compiled, so nothing is claimed."""
    code = (
        "import torch; from twinkle_tune.errors import SourceError; from twinkle_tune.ops.all import op_named\n"
        "from twinkle_tune.ops.static import compile_op\n"
        "try: compile_op(op_named('rms_norm'), {'rows': 1, 'width': 64}, torch.float32, None, architecture=90)\n"
        "except SourceError as error: print(error)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert "got TRITON_INTERPRET=1" in done.stdout


def test_all_ops_are_covered() -> None:
    """The list of names and the ops themselves are one."""
    assert tuple(op.name for op in all_ops()) == op_names()
