"""The first run on a CUDA machine, in at most nine minutes: ``make gpu-first`` (``python -m tests.gpu_first``).

The most decisive part comes first. Each part is a process of its own with a limit; one that fails or is killed loses
its own result only, and the page is written again after each. Everything lies in the output folder, in at most eight
files: machines like this are lent and go away. It installs nothing and needs no network.

The exit code is 0 if every part passed, else the sum of 1 for the first part, 2 for the second, 4 for the third and so
on, of those that did not, and 64 if there is no CUDA device.

``--second`` runs the second, shorter half (inference), ``--page`` writes reports/<device>/first.md of what came back.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from tests.gpu_part import NO_DEVICE_CODE

ROOT = Path(__file__).parents[1]
_KEPT, _SHOWN = 100_000, 6_000
"""Characters of a part's output, its end, that are in the JSON and on the page."""
GRACE_S = 6.0
"""So long before its limit, or a fifth of it, a part is interrupted as by Ctrl-C, to write down what it has."""
NO_DEVICE = "no device"
# Compiling cannot be interrupted: it could end a part beyond its limit, with nothing written.
_PROFILE = ("--layers", "4", "--dtype", "bfloat16", "--device", "cuda", "--fresh", "--no-ways")
_IF_THERE_IS_ONE = ("-m", "tests.gpu_part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the run.

    Attributes:
        name: as the page shows it.
        limit_s: seconds after which its processes are killed.
        command: arguments of Python; its exit code 64 means that there is no device.
    """

    name: str
    limit_s: float
    command: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command as it is typed."""
        return "python " + " ".join(self.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a part: ``passed``, ``failed``, ``too long`` or ``no device``, and the end of what it printed."""

    name: str
    outcome: str
    seconds: float
    limit_s: float
    command: str
    output: str


def first_parts(out: Path) -> tuple[Part, ...]:
    """The parts of the first run: nine minutes in all at most."""
    within = ("-o", "timeout=60") if find_spec("pytest_timeout") is not None else ()
    plugins = ("-p", "no:cacheprovider", "-p", "tests.gpu_told")
    gpu = (
        "-m",
        "tests.gpu_part",
        "pytest",
        "-q",
        "-m",
        "gpu",
        *plugins,
        "--continue-on-collection-errors",
        "--tb=short",
        *within,
    )
    several = ("-n", str(_workers()), "--dist", "load") if find_spec("xdist") is not None else ()
    files = gpu_tests()
    timing = tuple(file for file in files if file.startswith(("tests/measure/", "tests/tune/")))
    profile = _PROFILE
    return (
        Part(name="machine", limit_s=30, command=("-m", "tests.gpu_first", "--machine")),
        Part(name="parity on the device", limit_s=110,
             command=(*gpu, *several, *(file for file in files if file not in timing))),
        Part(name="clocks, graphs and workers", limit_s=85, command=(*gpu, *timing)),
        Part(name="profile of training", limit_s=180,
             command=(*_IF_THERE_IS_ONE, "twinkle_tune.cli", "profile", "qwen3-0.6b", *profile, "--mode", "train",
                      "--budget", "150s", "--out", str(out / "train.json"))),
        Part(name="our ops against their rivals", limit_s=75,
             command=(*_IF_THERE_IS_ONE, "tests.bench.ops", "--device", "cuda", "--no-compile", "--minutes", "0.8",
                      "--op", "rms_norm,cross_entropy,silu_and_mul", "--model", "Qwen3-0.6B",
                      "--rows", "32,2048,16384", "--out", str(out))),
        Part(name="identical candidates", limit_s=60,
             command=(*_IF_THERE_IS_ONE, "tests.bench.aa", "--device", "cuda", "--minutes", "0.5", "--out", str(out))),
    )  # fmt: skip


def gpu_tests() -> tuple[str, ...]:
    """The files with tests that need a device, from the root: nothing else is imported, and nothing else can fail."""
    found = (path for path in sorted(ROOT.glob("tests/**/test_*.py")) if path.name != "test_gpu_first.py")
    return tuple(str(path.relative_to(ROOT)) for path in found if "pytest.mark.gpu" in path.read_text(encoding="utf-8"))


def _workers() -> int:
    """Processes for tests that compile, each on a core: two cores are left for the device's own."""
    return max(1, min(14, len(os.sched_getaffinity(0)) - 2))


def second_parts(out: Path) -> tuple[Part, ...]:
    """The parts of the second run: five minutes in all at most."""
    profile = (*_PROFILE, "--mode", "inference")
    return (
        Part(name="machine", limit_s=30, command=("-m", "tests.gpu_first", "--machine")),
        Part(name="device graphs", limit_s=120,
             command=(*_IF_THERE_IS_ONE, "tests.bench.graphs", "--minutes", "1.2", "--out", str(out))),
        Part(name="profile of inference, with times in CUDA graphs", limit_s=150,
             command=(*_IF_THERE_IS_ONE, "twinkle_tune.cli", "profile", "qwen3-0.6b", *profile,
                      "--budget", "120s", "--out", str(out / "inference.json"))),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_first", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder for everything (default: out/gpu)")
    parser.add_argument("--second", action="store_true", help="the second half: inference")
    parser.add_argument("--page", action="store_true", help="write reports/<device>/first.md from --out, and end")
    parser.add_argument("--machine", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.machine:
        from tests.gpu_machine import machine

        return machine()
    out: Path = asked.out.resolve()
    if asked.page:
        print(f"wrote {publish(out)}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    # A run in the background ignores Ctrl-C, and so would its parts, which are interrupted by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name = "second" if asked.second else "first"
    return run_parts(second_parts(out) if asked.second else first_parts(out), out, name)


def run_parts(parts: Sequence[Part], out: Path, name: str) -> int:
    """Run the parts one after the other; the page and its data are written again after each. Returns the exit code."""
    done: list[Done] = []
    for part in parts:
        is_lost = any(each.outcome == NO_DEVICE for each in done)
        done.append(_without_device(part) if is_lost else _run(part))
        print(f"{part.name}: {done[-1].outcome} ({done[-1].seconds:.0f} of {part.limit_s:.0f} s)", flush=True)
        _replace(out / f"{name}.json", json.dumps([asdict(each) for each in done], indent=2) + "\n")
        _replace(out / f"{name}.md", page(done, name))
    code = exit_code(done)
    told = ", ".join(f"{each.name} ({each.outcome})" for each in done if each.outcome != "passed")
    print(f"exit code {code}: {told or 'every part passed'}", flush=True)
    return code


def exit_code(done: Sequence[Done]) -> int:
    """0, or a bit for each part that did not pass, and 64 where there is no device."""
    failed = sum(1 << at for at, each in enumerate(done) if each.outcome not in ("passed", NO_DEVICE))
    return failed + (NO_DEVICE_CODE if any(each.outcome == NO_DEVICE for each in done) else 0)


def _run(part: Part) -> Done:
    began_s = time.monotonic()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    # Into a file: a child that outlives a killed part would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            outcome = _ended(process, part)
        finally:
            # Whatever it left, workers and compilers: what they hold of the device is the next part's.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        text = _end_of(output)
    if process.returncode < 0 and outcome != "too long":
        text += f"\nended by signal {-process.returncode}"
    return Done(
        name=part.name,
        outcome=outcome,
        seconds=round(time.monotonic() - began_s, 1),
        limit_s=part.limit_s,
        command=part.line,
        output=text,
    )


def _ended(process: subprocess.Popen[bytes], part: Part) -> str:
    """Wait for a part within its limit; what came of it."""
    grace_s = min(GRACE_S, part.limit_s / 5)
    with suppress(subprocess.TimeoutExpired):
        code = process.wait(timeout=part.limit_s - grace_s)
        return {0: "passed", NO_DEVICE_CODE: NO_DEVICE}.get(code, "failed")
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace_s)
    return "too long"


def _end_of(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _KEPT))
    return output.read().decode(errors="replace")


def _without_device(part: Part) -> Done:
    return Done(name=part.name, outcome=NO_DEVICE, seconds=0.0, limit_s=part.limit_s, command=part.line, output="")


def page(done: Sequence[Done], name: str) -> str:
    """What came of the parts as Markdown: those that did not pass on top."""
    bad = [each for each in done if each.outcome != "passed"]
    lines = [
        f"# The {name} run on a CUDA machine",
        "",
        f"Made by `make gpu-{name}`. {len(done) - len(bad)} of {len(done)} parts passed.",
        "",
        "| part | outcome | seconds | limit |",
        "|---|---|---|---|",
        *(f"| {each.name} | {each.outcome} | {each.seconds:g} | {each.limit_s:g} |" for each in (*bad, *_passed(done))),
    ]
    for each in (*bad, *_passed(done)):
        lines += ["", f"## {each.name}: {each.outcome}", "", f"`{each.command}`", ""]
        if each.output.strip():
            lines += ["```text", each.output.strip()[-_SHOWN:].replace("```", "'''"), "```"]
    return "\n".join(lines) + "\n"


def publish(out: Path) -> Path:
    """Write reports/<device>/first.md from what a run left in ``out``."""
    from twinkle_tune.cli.options import slug

    runs = {name: out / f"{name}.json" for name in ("first", "second")}
    there = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in runs.items() if path.exists()}
    if not there:
        raise SystemExit(f"--page: got {out}, which holds neither first.json nor second.json; run make gpu-first first")
    machine: Mapping[str, str] = next(iter(there.values()))[0]
    told = dict(line.split(": ", 1) for line in machine["output"].splitlines() if ": " in line)
    device = told.get("device", "")
    if not device:
        raise SystemExit(f"--page: got {out}, whose run found no CUDA device: there is nothing to publish")
    path = ROOT / "reports" / slug(device) / "first.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(page([Done(**each) for each in rows], name) for name, rows in there.items())
    path.write_text(text, encoding="utf-8")
    return path.relative_to(ROOT)


def _passed(done: Sequence[Done]) -> list[Done]:
    return [each for each in done if each.outcome == "passed"]


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
