"""Spaces: which configs a kernel can be launched with, as data that a search can walk through."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from twinkle_tune.errors import ConfigError

Config = Mapping[str, int]
"""The values of a kernel's tunable parameters, by name: block sizes, warps, stages."""

Dims = Mapping[str, int]
"""The sizes of a call by the names of its dimensions: ``{"rows": 2048, "width": 4096}``."""

MOST_SHARED = 96 * 1024
"""Bytes of the tiles that wait in shared memory: a block may have 99 KiB from sm_86 and sm_120 on."""


def _always(config: Config) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A tunable parameter and the values that it may have, in an order in which neighbours are alike."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The configs of one kernel for one call.

    Attributes:
        parameters: in the order in which an op takes their values.
        unfit: why a config with allowed values can still not be launched, or is not worth a try; "" if it can.
    """

    parameters: tuple[Parameter, ...]
    unfit: Callable[[Config], str] = _always

    def check(self, config: Config) -> None:
        """Hold a config, from a profile or a person, against the space.

        Raises:
            ConfigError: a parameter is missing or unknown, a value is not among those allowed, or they do not fit.
        """
        names = [parameter.name for parameter in self.parameters]
        if sorted(config) != sorted(names):
            raise ConfigError(f"config: got the parameters {sorted(config)}, expected {sorted(names)}; name each once")
        for parameter in self.parameters:
            if config[parameter.name] not in parameter.values:
                raise ConfigError(
                    f"config: got {parameter.name}={config[parameter.name]}, expected one of {parameter.values}; "
                    "tune the op again for this call"
                )
        reason = self.unfit(config)
        if reason:
            raise ConfigError(f"config: got {dict(config)}, which does not fit: {reason}; tune the op again")

    def configs(self) -> Iterator[dict[str, int]]:
        """Every config that fits, the last parameter running fastest."""
        names = [parameter.name for parameter in self.parameters]
        for values in itertools.product(*(parameter.values for parameter in self.parameters)):
            config = dict(zip(names, values, strict=True))
            if not self.unfit(config):
                yield config

    def neighbours(self, config: Config) -> Iterator[dict[str, int]]:
        """The configs that fit and lie one step away in one parameter."""
        for parameter in self.parameters:
            at = parameter.values.index(config[parameter.name])
            for index in (at - 1, at + 1):
                if 0 <= index < len(parameter.values):
                    near = {**config, parameter.name: parameter.values[index]}
                    if not self.unfit(near):
                        yield near

    def in_order(self, config: Config) -> list[int]:
        """The values in the order of the parameters: how an op takes them."""
        return [config[parameter.name] for parameter in self.parameters]

    def named(self, values: list[int]) -> dict[str, int]:
        """The config of :meth:`in_order`'s values."""
        return dict(zip((parameter.name for parameter in self.parameters), values, strict=True))
