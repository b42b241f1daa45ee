"""One side of a space at a time: the forward's parameters with the backward's fixed, and the other way round.

Neither side's time depends on the other's parameters, so two small searches find what one over the product would need
many times the timings for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twinkle_tune.ops.space import Config, Parameter, Space

BACKWARD = "back_"
"""Beginning of the names of parameters that concern the backward alone."""


def side(space: Space, base: Config, *, backward: bool) -> Side:
    """One side of ``space``, the other side's parameters as in ``base``."""
    own = tuple(each for each in space.parameters if each.name.startswith(BACKWARD) == backward)
    fixed = {name: value for name, value in base.items() if name.startswith(BACKWARD) != backward}

    def unfit(config: Config) -> str:
        return space.unfit({**fixed, **config})

    return Side(parameters=own, fixed=fixed, unfit=unfit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Parameters of one side, and the values of the other's."""

    parameters: tuple[Parameter, ...]
    fixed: Config
    unfit: Callable[[Config], str]

    @property
    def space(self) -> Space:
        """Of this side alone."""
        return Space(parameters=self.parameters, unfit=self.unfit)

    def whole(self, config: Config) -> dict[str, int]:
        """A config of this side as one of the op."""
        return {**self.fixed, **config}

    def part(self, config: Config) -> dict[str, int]:
        """This side's part of a config of the op."""
        return {each.name: config[each.name] for each in self.parameters}
