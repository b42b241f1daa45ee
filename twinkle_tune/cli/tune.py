"""``twinkle-tune tune``: find the config of one of our kernels for one call on this GPU."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinkle_tune.cli.device import use_device
from twinkle_tune.cli.options import parse_count, slug, whole_number
from twinkle_tune.cli.past import locked
from twinkle_tune.cli.say import say, show_json, tell
from twinkle_tune.cli.write import check_writable, write_together
from twinkle_tune.errors import DeviceError, TuneError
from twinkle_tune.words import did_you_mean

if TYPE_CHECKING:
    from twinkle_tune.environment import Environment
    from twinkle_tune.ops.op import Op
    from twinkle_tune.search.record import SearchResult

MODES = ("inference", "train")


def tune(
    op: Annotated[str, typer.Argument(metavar="OP", help="One of our ops: rms_norm, ...")],
    shape: Annotated[str, typer.Option(metavar="2048x4096", help="Sizes of the call, in the op's order.")],
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "bfloat16",
    mode: Annotated[str, typer.Option(help="inference (forward) or train (forward and backward).")] = "train",
    variant: Annotated[str, typer.Option(help="A variant of the op.  [default: the plain one]")] = "",
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1, ...  [default: cuda]")] = None,
    budget: Annotated[
        str, typer.Option(metavar="60", help="Time at most this many configs, forward and backward each.")
    ] = "60",
    out: Annotated[
        Path | None, typer.Option(help="Where the results go.  [default: reports/<device>/tune/...json]")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Save the winner in profiles/<device>/ops/OP.json.")] = False,
    study: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="Share the search with other machines that name the same.")
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(metavar="ray", help="Search on the devices of a Ray cluster: ray or ray://HOST:PORT."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fail if another run uses the device.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results and nothing else.")] = False,
) -> None:
    """Find the fastest right config of one Triton op.

    A search that was killed continues when you repeat the command.
    """
    from twinkle_tune.ops.all import op_named

    found = op_named(op)
    dims, timings = parse_shape(shape, found), parse_count("--budget", budget)
    _check(found, mode, variant)
    if executor is not None:
        _check_executor(executor, study)
    from twinkle_tune.models.load import parse_dtype

    dtype = parse_dtype(dtype, ("float32", "float16", "bfloat16"), what="--dtype")
    place, kind = _gpu(device)

    import torch

    from twinkle_tune.environment import current_environment
    from twinkle_tune.measure.clock import clock_for
    from twinkle_tune.ops.op import OpCall
    from twinkle_tune.ops.tuned import config_for
    from twinkle_tune.search.record import SearchSettings, SharedStudy
    from twinkle_tune.search.tuning import tuned

    environment = current_environment(kind)
    folder = Path("reports", slug(environment.device_name), "tune")
    path = out or folder / f"{'-'.join(filter(None, (op, variant, shape, dtype, mode)))}.json"
    check_writable([path])
    near = config_for(found, dims, dtype, environment, variant=variant, mode=mode)
    journal = path.with_name(f"{path.name}.journal")
    settings, trains = SearchSettings(budget=timings or 60), mode == "train"
    with locked(place, path, wait=not no_wait):
        if executor is not None:
            from twinkle_tune.fleet.ray_devices import address_of
            from twinkle_tune.fleet.searching import Search, searched

            asked = Search(
                op=op, dims=dims, dtype=dtype, variant=variant, trains=trains, settings=settings,
                known=(near.config,), study=study or str(journal.resolve()),
            )  # fmt: skip
            results = searched(address_of(executor), kind, asked, tell)
        else:
            results = tuned(
                OpCall(op=found, dims=dims, dtype=getattr(torch, dtype), variant=variant), place, clock_for(place),
                settings, trains=trains, known=[near.config],
                journal=journal if study is None else SharedStudy(place=study),
            )  # fmt: skip
        data = evidence(found, dims, dtype, variant, mode, environment, results)
        write_together({path: json.dumps(data, indent=1) + "\n"}, "what was tried is kept: repeat the command")
        journal.unlink(missing_ok=True)
    _show(data, results, as_json=as_json)
    written = [path]
    if keep:
        written.append(_keep(op, dims, dtype, variant, mode, environment, results))
    for each in written:
        (tell if as_json else say)(f"wrote {each}")
    raise typer.Exit(0 if next(reversed(results.values())).config is not None else 1)


def parse_shape(text: str, op: Op) -> dict[str, int]:
    """Sizes by the op's names, of "2048x4096".

    Raises:
        TuneError: it is something else, or has more or fewer sizes than the op.
    """
    sizes = [whole_number(size) for size in text.lower().split("x")]
    if len(sizes) != len(op.dims) or None in sizes:
        raise TuneError(f"--shape: got {text!r:.80}, expected {'x'.join(op.dims)} of {op.name}, such as 2048x4096")
    return dict(zip(op.dims, (size for size in sizes if size is not None), strict=True))


def evidence(
    op: Op, dims: dict[str, int], dtype: str, variant: str, mode: str, environment: Environment,
    results: dict[str, SearchResult],
) -> dict[str, Any]:  # fmt: skip
    """Everything that was seen, as plain data; times in microseconds."""
    return {
        "op": op.name,
        "dims": dims,
        "dtype": dtype,
        "variant": variant,
        "mode": mode,
        "environment": asdict(environment),
        "config": next(reversed(results.values())).config,
        "searches": {name: asdict(result) for name, result in results.items()},
    }


def _check(op: Op, mode: str, variant: str) -> None:
    for option, got, known in (
        ("--mode", mode, MODES),
        ("--variant", variant, tuple(op.variants)),
    ):
        if got not in known:
            names = ", ".join(name or '""' for name in known)
            hint = did_you_mean(got, [name for name in known if name], {"training": "train", "forward": "inference"})
            raise TuneError(f"{option}: got {got!r}, expected one of {names}{hint}")


def _check_executor(named: str, study: str | None) -> None:
    """Refuse what ``--executor`` cannot be, and machines that have nowhere to share a search."""
    from twinkle_tune.cli.running import check_executor

    check_executor(named, in_process=False)
    if study is None and (named != "ray" or os.environ.get("RAY_ADDRESS")):
        raise TuneError(
            "--study: got none with a cluster, expected a file on a disk that its machines share, or the URL of a "
            "PostgreSQL server, so that no config is tried twice"
        )


def _gpu(device: str | None) -> tuple[str, str]:
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise DeviceError(
            "tune: got TRITON_INTERPRET=1, expected it unset: the interpreter shows whether a kernel is right, never "
            "how fast it is"
        )
    place, kind = use_device(device or "cuda")
    if kind != "cuda":
        raise DeviceError(f"--device: got {place!r}, expected cuda: our kernels are timed on an NVIDIA GPU alone")
    return place, kind


def _keep(
    op: str, dims: dict[str, int], dtype: str, variant: str, mode: str, environment: Environment,
    results: dict[str, SearchResult],
) -> Path:  # fmt: skip
    from twinkle_tune.ops.tuned import TunedConfig, keep_tuned

    last = next(reversed(results.values()))
    if last.config is None:
        raise TuneError(f"--keep: there is no winner to keep: {last.reason}")
    config = TunedConfig(
        dims=dims, dtype=dtype, variant=variant, mode=mode, config=last.config,
        ratio=last.ratio, low=last.low, high=last.high, rounds=last.rounds,
    )  # fmt: skip
    return keep_tuned(Path("profiles", slug(environment.device_name), "ops", f"{op}.json"), op, environment, config)


def _show(data: dict[str, Any], results: dict[str, SearchResult], *, as_json: bool) -> None:
    if as_json:
        show_json(data, indent=1)
        return
    from rich.console import Console
    from rich.table import Table

    from twinkle_tune.report.text import ratio_text

    table = Table(title=f"{data['op']} {data['dims']} {data['dtype']}, {data['mode']}", title_justify="left")
    for heading in ("side", "tried", "timed", "of", "time", "config", "why"):
        table.add_column(heading, overflow="fold")
    for name, found in results.items():
        config = "none" if found.config is None else " ".join(f"{k}={v}" for k, v in found.config.items())
        ratio = ratio_text(found.ratio, found.low, found.high)
        counts = (str(len(found.tried)), str(found.timed), str(found.size))
        table.add_row(name, *counts, ratio, config, f"{found.reason}; {found.ended}")
    Console().print(table)
