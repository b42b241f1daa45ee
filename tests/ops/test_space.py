"""Spaces say which configs there are, which of them fit, and which lie next to one."""

from __future__ import annotations

import pytest

from twinkle_tune.errors import ConfigError
from twinkle_tune.ops.space import Config, Parameter, Space


def _too_big(config: Config) -> str:
    return "over 64 elements a warp" if config["block"] > 64 * config["warps"] else ""


SPACE = Space(
    parameters=(Parameter(name="block", values=(64, 128, 256)), Parameter(name="warps", values=(1, 2, 4))),
    unfit=_too_big,
)


def test_only_configs_that_fit_are_walked_through() -> None:
    assert [SPACE.in_order(config) for config in SPACE.configs()] == [
        [64, 1], [64, 2], [64, 4], [128, 2], [128, 4], [256, 4],
    ]  # fmt: skip


def test_neighbours_are_one_step_away_in_one_parameter_and_fit() -> None:
    near = [SPACE.in_order(config) for config in SPACE.neighbours({"block": 128, "warps": 2})]
    assert near == [[64, 2], [128, 4]]


def test_values_in_order_and_named_are_each_others_inverse() -> None:
    for config in SPACE.configs():
        assert SPACE.named(SPACE.in_order(config)) == config


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"block": 64}, r"got the parameters \['block'\], expected \['block', 'warps'\]"),
        ({"block": 96, "warps": 2}, r"got block=96, expected one of \(64, 128, 256\)"),
        ({"block": 256, "warps": 1}, "does not fit: over 64 elements a warp"),
    ],
)
def test_a_config_from_elsewhere_is_held_against_the_space(config: Config, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SPACE.check(config)
