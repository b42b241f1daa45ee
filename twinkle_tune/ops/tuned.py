"""Tuned configs as data: read from profiles/<device>/ops/<op>.json, and the nearest one for a call that nobody tuned.

Needed at run time, so nothing here tunes, compiles or imports the search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from twinkle_tune.environment import Environment
from twinkle_tune.errors import ConfigError, ProfileError
from twinkle_tune.ops.op import Op
from twinkle_tune.ops.space import Config, Dims
from twinkle_tune.profile.checked import from_data
from twinkle_tune.profile.files import write_file
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.profile.strict import json_value

SCHEMA = 1
"""Of the file. 1: the first."""

_PACKAGE = Path(__file__).parents[1]
# Beside the package in a checkout, inside it where it was installed.
_FOLDERS = (_PACKAGE / "profiles", _PACKAGE.parent / "profiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedConfig:
    """The winner of one search.

    Attributes:
        dims: sizes of the call it was tuned for, by name.
        dtype: "bfloat16".
        variant: of the op, by name; "" for the plain one.
        mode: "inference" (tuned going forward) or "train" (forward and backward).
        config: its values by name.
        ratio: its time over the default's, median of the final race's paired rounds; 1.0 where the default stayed.
        low, high: the interval of that median.
        rounds: paired rounds behind the figure.
    """

    dims: Dims
    dtype: str
    variant: str
    mode: str
    config: Config
    ratio: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedFile:
    """The winners of one op on one device.

    Attributes:
        schema: version of the format, :data:`SCHEMA`.
        op: its name.
        environment: where they were tuned.
        configs: one a call.
    """

    schema: int
    op: str
    environment: Environment
    configs: tuple[TunedConfig, ...]

    @property
    def architecture(self) -> int:
        """Compute capability of the device: 90 for "9.0"."""
        return int(self.environment.capability.replace(".", "") or 0)


def read_tuned(path: Path) -> TunedFile:
    """Read and check one file.

    Raises:
        ProfileError: it cannot be read, is of another schema, or does not say what it must.
    """
    try:
        data = json_value(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: cannot be read as tuned configs ({error}); restore or remove it") from error
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise ProfileError(
            f"{path}: got schema {found!r}, expected {SCHEMA}; upgrade twinkle_tune or tune the op again"
        )
    return from_data(TunedFile, data, str(path), "tune the op again")


def keep_tuned(path: Path, op: str, environment: Environment, config: TunedConfig) -> Path:
    """Put a winner into a file, in the place of an older one for the same call; whole or not at all.

    Raises:
        ProfileError: the file is damaged or from another environment, or cannot be written.
    """
    others: tuple[TunedConfig, ...] = ()
    if path.exists():
        there = read_tuned(path)
        if there.op != op or there.environment.fingerprint != environment.fingerprint:
            raise ProfileError(
                f"{path}: got configs of {there.op} tuned in another environment (fingerprint "
                f"{there.environment.fingerprint}), expected {op} and {environment.fingerprint}; move the file away"
            )
        others = tuple(each for each in there.configs if _call_of(each) != _call_of(config))
    configs = tuple(sorted((*others, config), key=_call_of))
    made = TunedFile(schema=SCHEMA, op=op, environment=environment, configs=configs)
    try:
        write_file(path, (json.dumps(to_data(made), indent=1) + "\n").encode())
    except OSError as error:
        raise ProfileError(f"{path}: cannot be written ({error}); an existing file is as it was") from error
    return path


def _call_of(config: TunedConfig) -> tuple[Any, ...]:
    return config.variant, config.dtype, config.mode, tuple(sorted(config.dims.items()))


def shipped(op: str) -> tuple[TunedFile, ...]:
    """What was tuned for an op and comes with this package, by device; nothing where nothing was.

    Raises:
        ProfileError: a file is damaged.
    """
    return _shipped(op, _FOLDERS)


@cache
def _shipped(op: str, folders: Sequence[Path]) -> tuple[TunedFile, ...]:
    paths = sorted(path for folder in folders for path in folder.glob(f"*/ops/{op}.json"))
    return tuple(read_tuned(path) for path in paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """The config for a call that need not have been tuned, and where it is from, in words.

    Attributes:
        exact: whether it was tuned for this very call, in this mode and on a device of this name.
    """

    config: Config
    origin: str
    exact: bool = False


def config_for(
    op: Op,
    dims: Dims,
    dtype: str,
    environment: Environment,
    *,
    variant: str = "",
    mode: str = "train",
    files: Iterable[TunedFile] | None = None,
) -> Transferred:
    """The config of the nearest call that was tuned on this device, else on a sibling, else the op's default.

    Op, dtype and variant must be the same. Among those a winner of the same mode comes before one of the other, and a
    device of the same name before others of its architecture. Nearest is the smallest sum over the dimensions of
    squared differences of log2. A config that this call's space does not have is passed over.

    Args:
        op: whose config.
        dims: sizes of the call.
        dtype: "bfloat16".
        environment: of the device it will run on.
        variant: of the op, by name.
        mode: "inference" or "train".
        files: None for what is shipped.

    Raises:
        ProfileError: a shipped file is damaged.
    """
    architecture = int(environment.capability.replace(".", "") or 0)
    space = op.space(dims)
    ranked: list[tuple[tuple[bool, bool, float], int, TunedConfig, str]] = []
    for file in shipped(op.name) if files is None else files:
        sibling = file.environment.device_name != environment.device_name
        if file.op != op.name or (sibling and file.architecture != architecture):
            continue
        for each in file.configs:
            if (each.dtype, each.variant) == (dtype, variant) and sorted(each.dims) == sorted(dims):
                rank = (sibling, each.mode != mode, distance(each.dims, dims))
                ranked.append((rank, len(ranked), each, file.environment.device_name))
    for (sibling, other_mode, far), _, each, device in sorted(ranked, key=lambda found: found[:2]):
        try:
            space.check(each.config)
        except ConfigError:
            continue
        exact = not (sibling or other_mode or far)
        call = "this call" if far == 0 else "x".join(str(each.dims[name]) for name in op.dims)
        return Transferred(config=each.config, origin=f"tuned for {call} on {device} ({each.mode})", exact=exact)
    default = op.default(dims, architecture or 90)
    return Transferred(config=default, origin=f"the default for sm_{architecture or 90}")


def distance(one: Dims, other: Dims) -> float:
    """How unlike two calls are: the root of the summed squares of log2 of their sizes' ratios."""
    return math.sqrt(sum(math.log2(max(one[name], 1) / max(other[name], 1)) ** 2 for name in one))
