"""What all candidates of a contest share: the original, the inputs, the judge, the clock and the process's state."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.capture.inputs import fresh
from twinkle_tune.capture.step import loss_of
from twinkle_tune.device import torch_type
from twinkle_tune.kernel.dispatch import family_of
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.kernel.parts import parts_of, while_unchanged
from twinkle_tune.measure.clock import Clock
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.parity.calls import kin_calls, parity_calls
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Inconclusive
from twinkle_tune.slot import OF_THE_MODEL, Implementation
from twinkle_tune.tune.task import Task
from twinkle_tune.workload import Context

Step = Callable[[], object]


class Arena:
    """What all candidates of a contest share: the original, the inputs, the judge, the clock."""

    def __init__(self, task: Task) -> None:
        observation = task.observation
        self.task = task
        self.clock: Clock = slot_clock(task.device)
        self.module = observation.module
        self.original: Callable[..., Any] = (
            type(observation.module).forward
            if observation.module is not None
            else original_function(observation.slot.target)
        )
        self.trains = task.mode.trains and observation.workload.context.grad
        self.judge = self._judge()
        # One set of buffers for all: with buffers of its own each candidate would be timed on another placement.
        self.call = fresh(observation.call)
        self.gradients: tuple[Tensor, ...] | None = None

    def _judge(self) -> Judge | Inconclusive:
        """The judge; inconclusive for everybody where the device has no room for the float64 results."""
        observation, seed = self.task.observation, self.task.seed
        try:
            return Judge(
                self.original,
                parity_calls(observation.call, seed),
                module=self.module,
                trains=self.trains,
                kin=kin_calls(observation.call, seed),
            )
        except torch.OutOfMemoryError as error:
            return Inconclusive(
                reason=f"the device has no room to check against float64 ({str(error).splitlines()[0]})"
            )

    def forward(self, implementation: Callable[..., Any]) -> Step:
        """One call of the forward, with gradients recorded where the call was seen so."""
        first = () if self.module is None else (self.module,)
        return functools.partial(implementation, *first, *self.call.args, **self.call.kwargs)

    def step(self, implementation: Callable[..., Any]) -> Step:
        """One timed call: forward, or forward and backward from a fixed incoming gradient."""
        forward = self.forward(implementation)
        wanted = self._wanted() if self.trains else []
        if not wanted:
            return forward

        def forward_and_backward() -> object:
            result = forward()
            # Of a whole model: a training step goes back from the loss alone.
            loss = loss_of(result)
            outputs = [t for t in _tensors(result) if t.requires_grad] if loss is None else [loss]
            if self.gradients is None:
                self.gradients = tuple(torch.randn_like(t) for t in outputs)
            return torch.autograd.grad(outputs, wanted, self.gradients, allow_unused=True)

        return forward_and_backward

    def as_bound(self, implementation: Implementation) -> Callable[..., Any]:
        """The call as it will stand in the model: behind a look at the submodules, a function's behind the dispatcher.

        Both cost time, too.
        """
        if self.module is not None:
            parts = () if self.task.observation.slot.name in OF_THE_MODEL else parts_of(self.module)
            return while_unchanged(implementation.call, parts) if parts else implementation.call
        family = family_of(self.task.observation.workload, self.task.device)
        if family is None:
            return implementation.call
        steps = ((0, sys.maxsize, implementation.call),)
        return function_dispatcher([replace(family, steps=steps)], self.original)

    def _wanted(self) -> list[Tensor]:
        inputs = [t for t in _tensors((self.call.args, dict(self.call.kwargs))) if t.requires_grad]
        parameters = [] if self.module is None else [p for p in self.module.parameters() if p.requires_grad]
        return inputs + parameters


def renamed(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own around a call, so that torch.compile keeps the contestants' caches apart."""

    def contestant(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    contestant.__code__ = contestant.__code__.replace()
    return contestant


def _tensors(value: object) -> Iterator[Tensor]:
    match value:
        case Tensor():
            yield value
        case dict():
            for item in value.values():
                yield from _tensors(item)
        case list() | tuple():
            for item in value:
                yield from _tensors(item)


@contextmanager
def as_observed(context: Context, device: str) -> Iterator[None]:
    """The state of the process in which the call was seen: gradients and autocast."""
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(context.grad))
        if context.autocast:
            dtype = getattr(torch, context.autocast)
            stack.enter_context(torch.autocast(torch_type(device), dtype=dtype))
        yield
