"""The tuned config of a call: one that ships for this device, or one that is searched now and kept with those."""

from __future__ import annotations

from pathlib import Path

from tests.bench.op_points import DTYPE, VARIANTS
from twinkle_tune.cli.options import slug
from twinkle_tune.environment import Environment, current_environment
from twinkle_tune.errors import in_a_line
from twinkle_tune.measure.clock import Clock
from twinkle_tune.ops.op import Op, OpCall
from twinkle_tune.ops.space import Config, Dims
from twinkle_tune.ops.tuned import TunedConfig, TunedFile, config_for, keep_tuned, read_tuned
from twinkle_tune.search.record import SearchSettings
from twinkle_tune.search.tuning import tuned

_DTYPE = str(DTYPE).removeprefix("torch.")


def tuned_config(
    op: Op, dims: Dims, device: str, clock: Clock, *, backward: bool, timings: int
) -> tuple[Config | None, dict[str, str]]:
    """The config that this call would be bound with, None where that is the default; and why there is none.

    With ``timings`` a call without a tuned config of its own is tuned, forward and backward, and its winner kept in
    profiles/<device>/ops/, where the next command finds it.
    """
    environment = current_environment(device)
    path = Path("profiles", slug(environment.device_name), "ops", f"{op.name}.json")
    variant, left_out = VARIANTS.get(op.name, ""), {}
    files = [read_tuned(path)] if path.exists() else []
    if timings and any(file.environment.fingerprint != environment.fingerprint for file in files):
        left_out["the search"] = f"{path} is of another environment; move it away"
    elif timings and not _has(files, dims, variant):
        try:
            _tune(op, dims, device, clock, variant, timings, environment, path)
            files = [read_tuned(path)]
        except Exception as error:
            # A search at these sizes may run out of memory, or find no config that is right.
            left_out["the search"] = in_a_line(error, 200)
    mode = "train" if backward else "inference"
    found = config_for(op, dims, _DTYPE, environment, variant=variant, mode=mode, files=files)
    default = op.default(dims, int(environment.capability.replace(".", "") or 90))
    return (None if dict(found.config) == dict(default) else found.config), left_out


def _has(files: list[TunedFile], dims: Dims, variant: str) -> bool:
    return any(
        (dict(each.dims), each.dtype, each.variant) == (dict(dims), _DTYPE, variant)
        for file in files
        for each in file.configs
    )


def _tune(
    op: Op, dims: Dims, device: str, clock: Clock, variant: str, timings: int, environment: Environment, path: Path
) -> None:
    call = OpCall(op=op, dims=dims, dtype=DTYPE, variant=variant)
    results = tuned(call, device, clock, SearchSettings(budget=timings))
    last = next(reversed(results.values()))
    if last.config is None:
        raise RuntimeError(last.reason)
    winner = TunedConfig(
        dims=dict(dims), dtype=_DTYPE, variant=variant, mode="train", config=last.config,
        ratio=last.ratio, low=last.low, high=last.high, rounds=last.rounds,
    )  # fmt: skip
    keep_tuned(path, op.name, environment, winner)
