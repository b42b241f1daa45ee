"""Models of repeated blocks for the compile modes, whose costs are known because they spin in opaque operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.tune.toy import spin
from twinkle_tune.capture.capture import Observation, capture
from twinkle_tune.capture.step import make_steps
from twinkle_tune.kernel import Registry, register_external_layer, register_function_kernel, register_layer_kernel
from twinkle_tune.kernel.find import contestants, find_slots
from twinkle_tune.measure.race import RaceSettings
from twinkle_tune.mode import Mode
from twinkle_tune.terms import Terms
from twinkle_tune.tune.entrants import only_wanted
from twinkle_tune.tune.task import Task

HERE = "tests.tune.blocks"
SHORT = RaceSettings(max_rounds=20)
ALONE_US, OPAQUE_US, REST_US, SPLIT_US = 200.0, 20.0, 100.0, 1000.0
"""Of the slot's original, of the planted candidate, and of what is around them: fused, and split by the candidate.

Far apart, so that who is faster is clear on a busy machine too.
"""


@torch.library.custom_op("twinkle_tune_tests::spun", mutates_args=())
def spun(x: torch.Tensor, time_us: float) -> torch.Tensor:
    """A copy of the input, after so many microseconds: torch.compile cannot look inside."""
    spin(time_us)
    return x.clone()


@spun.register_fake
def _(x: torch.Tensor, time_us: float) -> torch.Tensor:
    return torch.empty_like(x)


class Scale(nn.Module):
    """A slot: a gain for each column."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) to the same; 200 µs."""
        return torch.mul(spun(x, ALONE_US), self.weight)


def opaque(self: Any, x: torch.Tensor) -> torch.Tensor:
    """A candidate that is faster by itself."""
    return torch.mul(spun(x, OPAQUE_US), self.weight)


def shifted(x: torch.Tensor) -> torch.Tensor:
    """A function slot."""
    return x + 1


def shifted_too(x: torch.Tensor) -> torch.Tensor:
    """Another implementation of it."""
    return 1 + x


class Layer(nn.Module):
    """A block with two gains and a function; what is around them takes longer where a gain has been replaced.

    That is what a kernel that cannot be fused does to its surroundings.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = Scale(width), Scale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) to the same."""
        is_split = "forward" in self.first.__dict__
        x = spun(x, SPLIT_US if is_split else REST_US)
        return shifted(self.second(self.first(x)))


class Stack(nn.Module):
    """Blocks one after another, and one gain more that is in none."""

    def __init__(self, depth: int = 2, width: int = 8, block: Callable[[int], nn.Module] = Layer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block(width) for _ in range(depth))
        self.last = Scale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) to the same."""
        for layer in self.layers:
            x = layer(x)
        return self.last(x)  # type: ignore[no-any-return]


def registry_of(*impls: Callable[..., torch.Tensor], functions: tuple[Callable[..., Any], ...] = ()) -> Registry:
    """A registry in which the gain, or the function, has these contestants."""
    registry = Registry()
    register_external_layer(Scale, "Scale", registry=registry)
    for impl in impls:
        register_layer_kernel("Scale", layer_impl=impl, device="cpu", registry=registry)
    for function in functions:
        register_function_kernel(
            func_name="shifted", target_module=HERE, func_impl=function, device="cpu", registry=registry
        )
    return registry


def observed(model: nn.Module, x: torch.Tensor, registry: Registry, mode: Mode = Mode.COMPILE) -> list[Observation]:
    """What is seen of a model in a compile mode."""
    steps = make_steps(model, x, mode, "cpu")
    return list(capture(model, steps, find_slots(model, registry), "cpu", blocks=True).observations)


def inside(observations: list[Observation]) -> Observation:
    """The one of the gains in blocks."""
    (found,) = (o for o in observations if o.slot.name == "Scale" and len(o.instances) > 1)
    return found


def terms_of(mode: Mode = Mode.COMPILE, dynamic: bool | None = None) -> Terms:
    """Short races on the CPU."""
    return Terms(mode=mode, device="cpu", settings=SHORT, dynamic=dynamic)


def task_of(observation: Observation, registry: Registry, mode: Mode = Mode.COMPILE, **options: Any) -> Task:
    """A contest of the registered contestants."""
    candidates = only_wanted(contestants(observation.occurrence, "cpu", mode, registry), ["impl"])
    return Task(observation=observation, candidates=candidates, terms=terms_of(mode), **options)
