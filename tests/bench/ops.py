"""Our ops against eager torch, torch.compile and Liger: ``python -m tests.bench.ops --device cuda`` (``make gpu-ops``).

Every op at four widths of real models, four numbers of rows, forward and forward with backward. Figures go to
reports/<device>/ops.{json,md} after each width, so that a stopped run leaves what it has; those that a command does not
time again stay, if they were made with the same versions on the same device. It fails where an op of ours is wrong.
On a CPU, where the kernels do not run, ``--quick`` alone is possible: it shows that the bench works and nothing else.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tests.bench.op_page import page, shortfalls
from tests.bench.op_points import (
    DTYPE,
    QUICK_ROWS,
    ROWS,
    VARIANTS,
    WIDTHS,
    Width,
    dims_of,
    drawn,
    rows_that_fit,
    widths,
    with_rows,
)
from tests.bench.op_race import Measured, copy_rate, faults, measured_of, race
from tests.bench.op_rivals import OURS, rivals_of
from tests.bench.op_tuned import tuned_config
from tests.bench.page import Made, made, made_line, write
from twinkle_tune.cli.options import slug
from twinkle_tune.measure.clock import Clock, clock_for
from twinkle_tune.ops.all import all_ops, op_names
from twinkle_tune.ops.op import Op

_PARITY_ROWS = 32


@dataclass(kw_only=True)
class Bench:
    """What a command was asked for, and what it found so far."""

    device: str
    quick: bool
    rows: tuple[int, ...]
    model: str
    compiles: bool
    seconds: float
    tune: int
    ends_s: float
    clock: Clock
    copy_bytes_per_us: float
    points: list[Measured] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    left: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the ops and write the page; 1 where one of ours is wrong or raises."""
    asked = _asked(arguments)
    facts = _facts(asked.device)
    name, folder = "ops-quick" if asked.quick else "ops", asked.out / slug(str(facts["machine"]))
    clock = clock_for(asked.device)
    bench = Bench(
        device=asked.device, quick=asked.quick, model=asked.model,
        rows=asked.rows or (QUICK_ROWS if asked.quick else ROWS), compiles=not asked.no_compile,
        seconds=asked.seconds, tune=asked.tune,
        ends_s=time.monotonic() + 60 * asked.minutes, clock=clock, copy_bytes_per_us=copy_rate(asked.device, clock),
    )  # fmt: skip
    print(f"a copy of the device moves {bench.copy_bytes_per_us / 1e3:.0f} GB/s", flush=True)
    before, known_wrong = _before(folder / f"{name}.json", facts)
    ops = [op for op in all_ops() if not asked.op or op.name in asked.op]

    def keep() -> None:
        new = {*(point.op for point in bench.points), *bench.wrong}
        timed = {_which(point) for point in bench.points}
        old = (point for point in before if point.op not in bench.wrong and _which(point) not in timed)
        points = [*bench.points, *old]
        wrong = {**{op: why for op, why in known_wrong.items() if op not in new}, **bench.wrong}
        points.sort(key=lambda point: op_names().index(point.op))  # stable: the points of an op stay in order
        data = {**facts, "wrong": wrong, "points": [asdict(point) for point in points]}
        write(folder, name, data, page(_where(facts), asked.device, points, wrong, bench.left))

    try:
        for op in ops:
            run(op, bench, keep)
    except KeyboardInterrupt:
        print("interrupted")
    keep()
    for line in shortfalls(bench.points) if asked.device != "cpu" else ():
        print(f"falls short: {line.removeprefix('- ')}")
    return 1 if bench.wrong or any(OURS not in point.times for point in bench.points) else 0


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ops", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--op", type=_names, default=(), metavar="OP,...", help="these alone; the others' figures stay")
    parser.add_argument("--model", default="", help="only the width of this model, such as Qwen3-0.6B")
    parser.add_argument("--rows", type=_numbers, default=(), metavar="N,...", help="only these numbers of rows")
    parser.add_argument("--quick", action="store_true", help="the first width at 1 and 32 rows, into ops-quick.*")
    parser.add_argument("--tune", type=int, default=0, metavar="N", help="tune each call first, N timings a side")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes most of the time")
    parser.add_argument("--seconds", type=float, default=0.3, help="of timing a point; six rounds are made in any case")
    parser.add_argument("--minutes", type=float, default=60.0, help="no point begins later")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    asked = parser.parse_args(arguments)
    models = sorted({each.model for found in WIDTHS.values() for each in found})
    if asked.model and asked.model not in models:
        parser.error(f"--model: got {asked.model!r}, expected one of {', '.join(models)}")
    if asked.device == "cpu" and (not asked.quick or asked.tune):
        parser.error("--device cpu: our kernels run on a GPU alone; add --quick, without --tune, to try the bench")
    return asked


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in op_names()]
    if unknown:
        raise argparse.ArgumentTypeError(f"got {', '.join(unknown)}, expected some of {', '.join(op_names())}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(each) if each.isdecimal() else 0 for each in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers of rows from 1 on, such as 32,2048")
    return numbers


def run(op: Op, bench: Bench, keep: Callable[[], None]) -> None:
    """All points of an op; ``keep`` is called after each width."""
    rows = bench.rows
    found = [each for each in widths(op, bench.device, quick=bench.quick) if bench.model in ("", each.model)]
    barred: dict[str, str] | None = None
    for number, width in enumerate(found):
        if time.monotonic() >= bench.ends_s:
            bench.left += 2 * len(rows) * (len(found) - number)
            return
        inputs = drawn(op, width, bench.device)
        if barred is None:
            rivals, _ = rivals_of(op, bench.device, compiles=False, config=None)
            barred = faults(op, with_rows(inputs, _PARITY_ROWS), rivals)
            if OURS in barred:
                bench.wrong[op.name] = barred[OURS]
                print(f"{op.name}: WRONG: {barred[OURS]}", flush=True)
                keep()
                return
        for wanted in rows:
            for point in _points(op, width, wanted, inputs, barred, bench):
                bench.points.append(point)
                print(_line(point), flush=True)
            _tidy(bench.device)
        keep()


def _points(
    op: Op, width: Width, wanted: int, drawn_inputs: tuple[object, ...], barred: Mapping[str, str], bench: Bench
) -> Iterator[Measured]:
    """The two points of a number of rows, forward first; none of them begins when time is up."""
    free_bytes = None if bench.device == "cpu" else torch.cuda.mem_get_info()[0]
    dims = dims_of(op, width, rows_that_fit(width, wanted, free_bytes))
    inputs, variant = with_rows(drawn_inputs, dims[op.dims[0]]), VARIANTS.get(op.name, "")
    for backward in (False, True):
        if time.monotonic() >= bench.ends_s:
            bench.left += 1
            continue
        # Forward and backward are tuned at once, and the second point finds what the first one kept.
        timings = 0 if backward else bench.tune
        config, reasons = tuned_config(op, dims, bench.device, bench.clock, backward=backward, timings=timings)
        rivals, left_out = rivals_of(op, bench.device, compiles=bench.compiles, config=config)
        rivals = [rival for rival in rivals if rival.name not in barred]
        times, failed = race(rivals, inputs, bench.clock, backward=backward, seconds=bench.seconds)
        yield Measured(
            op=op.name, variant=variant, model=width.model, dims=dims, rows_wanted=wanted, backward=backward,
            moved_bytes=op.moved_bytes(dims, DTYPE.itemsize, backward), copy_bytes_per_us=bench.copy_bytes_per_us,
            times=times, left_out={**barred, **left_out, **reasons, **failed},
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
        )  # fmt: skip


def _tidy(device: str) -> None:
    # What was compiled for other sizes would count against the limit beyond which torch.compile gives up.
    torch._dynamo.reset()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def _which(point: Measured) -> tuple[str, str, int, bool]:
    return point.op, point.model, point.rows_wanted, point.backward


def _line(point: Measured) -> str:
    times = ", ".join(f"{name} {each.median_us:.4g}" for name, each in point.times.items())
    sizes = "x".join(map(str, point.dims.values()))
    return f"{point.op} {sizes} {'forward+backward' if point.backward else 'forward'}: {times} us"


def _facts(device: str) -> Made:
    facts = made(device)
    for package in ("triton", "liger-kernel"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _where(facts: Made) -> str:
    what = "Our kernels did not run: the formula stood in for them. " if facts["device"] == "cpu" else ""
    return f"{what}{made_line(facts)} Triton {facts['triton']}, Liger {facts['liger-kernel']}."


def _before(path: Path, facts: Made) -> tuple[list[Measured], dict[str, str]]:
    """The points and the wrong ops of earlier commands, if they may stand beside those of this one."""
    if not path.exists():
        return [], {}
    data = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name, value in facts.items() if name != "date" and data.get(name) != value]
    if changed:
        print(f"{path}: made with another {', '.join(changed)}; begun anew")
        return [], {}
    return [measured_of(point) for point in data["points"]], data["wrong"]


if __name__ == "__main__":
    sys.exit(main())
