"""Tuned configs are data: what was tuned near is used, what was not gets the default, and damage is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from twinkle_tune.environment import Environment, current_environment
from twinkle_tune.errors import ProfileError
from twinkle_tune.ops.all import op_named
from twinkle_tune.ops.tuned import SCHEMA, TunedConfig, TunedFile, config_for, keep_tuned, read_tuned, shipped

OP = op_named("rms_norm")
H100 = replace(
    current_environment("cpu"), device="cuda", device_name="NVIDIA H100 80GB HBM3", capability="9.0", memory_bytes=1
)
H200 = replace(H100, device_name="NVIDIA H200")
A100 = replace(H100, device_name="NVIDIA A100", capability="8.0")


def won(rows: int, width: int, warps: int, *, mode: str = "train", dtype: str = "bfloat16") -> TunedConfig:
    """A winner that is told by its warps."""
    dims = {"rows": rows, "width": width}
    config = {**OP.default(dims, 90), "warps": warps}
    return TunedConfig(
        dims=dims, dtype=dtype, variant="", mode=mode, config=config, ratio=0.9, low=0.8, high=0.95, rounds=20
    )


def file(environment: Environment, *configs: TunedConfig) -> TunedFile:
    """As it is read."""
    return TunedFile(schema=SCHEMA, op="rms_norm", environment=environment, configs=configs)


def warps(*files: TunedFile, rows: int = 2048, width: int = 4096, environment: Environment = H100) -> tuple[int, str]:
    """The warps that a call gets, and where they are from."""
    found = config_for(OP, {"rows": rows, "width": width}, "bfloat16", environment, files=files)
    return found.config["warps"], found.origin


def test_without_tuned_configs_the_default_is_used() -> None:
    """Nothing is shipped for an op that nobody tuned, and that is no error."""
    assert shipped("no such op") == ()
    default = OP.default({"rows": 2048, "width": 4096}, 90)
    assert warps() == (default["warps"], "the default for sm_90")


def test_the_very_call_comes_first_then_the_nearest() -> None:
    """Nearest by the logarithm of the sizes: 2048 rows are nearer to 1024 than to 8192."""
    configs = won(2048, 4096, 4), won(8192, 4096, 8), won(1024, 4096, 16)
    assert warps(file(H100, *configs)) == (4, "tuned for this call on NVIDIA H100 80GB HBM3 (train)")
    assert warps(file(H100, *configs[1:])) == (16, "tuned for 1024x4096 on NVIDIA H100 80GB HBM3 (train)")


def test_this_device_comes_before_a_sibling_and_others_are_not_asked() -> None:
    """A far call tuned here, then a near one on a device of the same architecture; never another architecture."""
    near_there, far_here = file(H200, won(2048, 4096, 4)), file(H100, won(16, 4096, 16))
    assert warps(near_there, far_here)[0] == 16
    assert warps(near_there)[0] == 4
    assert warps(file(A100, won(2048, 4096, 4)))[1] == "the default for sm_90"


def test_another_dtype_is_another_call() -> None:
    assert warps(file(H100, won(2048, 4096, 4, dtype="float32")))[1] == "the default for sm_90"


def test_the_same_mode_comes_first() -> None:
    """What was tuned going forward serves training only where nothing was tuned for it."""
    only_forward, trained = won(2048, 4096, 4, mode="inference"), won(4096, 4096, 16)
    assert warps(file(H100, only_forward, trained))[0] == 16
    assert warps(file(H100, only_forward))[0] == 4


def test_a_config_that_does_not_fit_the_call_is_passed_over() -> None:
    """Sixteen rows together are no config for a call of one row: the next nearest, else the default."""
    together = replace(won(16, 64, 1), config={**won(16, 64, 1).config, "rows": 16})
    assert warps(file(H100, together), rows=1, width=64)[1] == "the default for sm_90"


def test_winners_are_kept_beside_each_other_and_replaced(tmp_path: Path) -> None:
    """One file an op and device; the same call tuned again replaces what was there."""
    path = tmp_path / "h100" / "ops" / "rms_norm.json"
    for config in (won(2048, 4096, 4), won(1, 4096, 8), won(2048, 4096, 16)):
        keep_tuned(path, "rms_norm", H100, config)
    assert [(c.dims["rows"], c.config["warps"]) for c in read_tuned(path).configs] == [(1, 8), (2048, 16)]


def test_a_file_of_another_environment_is_not_mixed_with(tmp_path: Path) -> None:
    path = keep_tuned(tmp_path / "rms_norm.json", "rms_norm", H100, won(1, 4096, 8))
    with pytest.raises(ProfileError, match="tuned in another environment"):
        keep_tuned(path, "rms_norm", A100, won(1, 4096, 8))
    assert read_tuned(path).environment == H100


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"schema": 1', '"schema": 2', "got schema 2, expected 1"),
        ('"rounds": 20', '"rounds": "20"', "at configs.0.rounds: got '20'"),
        ('"rounds": 20', '"rounds": 20, "more": 1', "got the field configs.0.more"),
        ("}", "", "cannot be read as tuned configs"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(before: str, after: str, said: str, tmp_path: Path) -> None:
    path = keep_tuned(tmp_path / "rms_norm.json", "rms_norm", H100, won(1, 4096, 8))
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ProfileError, match=said):
        read_tuned(path)
