"""What all candidates of a contest share: the original, the inputs, the judge, the clock and the process's state."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.call.arguments import Call, fresh
from twinkle_tune.call.drawn import drawn_like
from twinkle_tune.capture.step import loss_of
from twinkle_tune.device import torch_type
from twinkle_tune.errors import in_a_line, is_by_chance
from twinkle_tune.kernel.dispatch import family_of
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.kernel.parts import parts_of, while_unchanged
from twinkle_tune.measure.chance import unless_by_chance
from twinkle_tune.measure.clock import Clock
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.parity.calls import kin_calls, parity_calls
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Inconclusive
from twinkle_tune.profile.schema import TimedOn
from twinkle_tune.slot import OF_THE_MODEL, ORIGINAL, Implementation
from twinkle_tune.tune.block import BlockStage, NoBlockError, in_place_of
from twinkle_tune.tune.compiling import Backend, CompilingClock, Contestant, compiled
from twinkle_tune.tune.task import Task
from twinkle_tune.workload import Context

Step = Callable[[], object]


class Arena:
    """What all candidates of a contest share: the original, the inputs, the judge, the clock."""

    def __init__(self, task: Task) -> None:
        observation = task.observation
        if task.terms.mode.compiles or any(candidate.source.kind == "compile" for candidate in task.candidates):
            # It replaces functions of torch, and whoever looks for such changes looks for the first time after this.
            importlib.import_module("torch._dynamo")
        self.task = task
        self.clock: Clock = slot_clock(task.terms.device)
        self._compiling = CompilingClock(self.clock) if task.terms.mode.compiles else None
        if self._compiling is not None:
            self.clock = self._compiling
        self.module = observation.module
        self.original = observation.occurrence.original
        self.trains = task.terms.mode.trains and observation.workload.context.grad
        self.judge = self._judge()
        # One set of buffers for all: with buffers of its own each candidate would be timed on another placement.
        self.call = fresh(observation.call)
        self.gradients: tuple[Tensor, ...] | None = None
        self._why_alone = observation.why_alone
        self._stage = self._block_stage() if task.terms.mode.compiles else None

    def _judge(self) -> Judge | Inconclusive:
        """The judge; inconclusive for everybody where there is no room to check, or the original cannot be run for it.

        It is run on copies, on made-up inputs and in other dtypes, and what it makes of these is not known beforehand.
        """
        observation, seed = self.task.observation, self.task.terms.seed
        try:
            return unless_by_chance(
                lambda: Judge(
                    self.original,
                    parity_calls(observation.call, seed),
                    module=self.module,
                    trains=self.trains,
                    kin=kin_calls(observation.call, seed),
                )
            )
        except Exception as error:
            if is_by_chance(error):
                return Inconclusive(reason=f"no room to check against float64 ({in_a_line(error)})", no_room=True)
            return Inconclusive(reason=f"the original cannot be run to check against ({in_a_line(error)})")

    @property
    def nobody_judged(self) -> str:
        """Why the judge can say of no candidate whether it is right; "" where it can."""
        found = self.judge if isinstance(self.judge, Inconclusive) else self.judge.inconclusive
        return "" if found is None else found.reason

    @property
    def timed_on(self) -> TimedOn | None:
        """What the times are of in a compile mode."""
        block = self.task.observation.block
        if not self.task.terms.mode.compiles:
            return None
        if self._stage is None or block is None:
            return TimedOn(why_alone=self._why_alone)
        return TimedOn(block=block.name, path=block.path, calls=block.calls)

    def first_call(self, name: str, implementation: Implementation) -> tuple[Step, float]:
        """The step of a candidate, and the microseconds of its first call. The original's must be the first of all.

        Where the original's block cannot be compiled and timed, the slot is from then on.
        """
        if self._stage is None or name != ORIGINAL:
            step = self._entered(name, implementation)
            return step, self.clock.first_call_us(step)
        try:
            step = self._entered(name, implementation)
            first_us = self.clock.first_call_us(step)
            self._see_alike(step)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._stage, self.gradients = None, None
            self._why_alone = f"the part of the model around it cannot be compiled and timed: {in_a_line(error)}"
            return self.first_call(name, implementation)
        return step, first_us

    def counted(self, step: Step) -> tuple[int, int]:
        """Graph breaks and recompilations of a step so far."""
        found = None if self._compiling is None else self._compiling.of(step)
        return (0, 0) if found is None else (found.breaks, found.recompilations)

    def _block_stage(self) -> BlockStage | None:
        observation = self.task.observation
        if observation.block is None:
            return None
        if observation.module is None and family_of(observation.workload, self.task.terms.device) is None:
            self._why_alone = (
                "its arguments are not only tensors and plain values, so no dispatcher can be bound for it"
            )
            return None
        try:
            return BlockStage(observation.block, observation.slot)
        except NoBlockError as error:
            self._why_alone = str(error)
            return None

    def _entered(self, name: str, implementation: Implementation) -> Step:
        is_original = name == ORIGINAL
        call = implementation.call if is_original else self.as_bound(implementation)
        if self._compiling is None:
            return self.step(call)
        backend, slot, dynamic = Backend(gives_up=not is_original), self.task.observation.slot, self.task.terms.dynamic
        if self._stage is None:
            step = self.step(compiled(call, backend, dynamic))
            self._compiling.enter(Contestant(step=step, backend=backend))
            return step
        if self.module is None:
            forward = self._stage.forward(name, None, backend, dynamic)
            standing = in_place_of(slot, None if is_original else call)
        else:
            forward = self._stage.forward(name, None if is_original else implementation.call, backend, dynamic)
            standing = in_place_of(slot, None)
        step = self._there_and_back(forward, self._wanted_of(self._stage.call, self._stage.parameters))
        self._compiling.enter(Contestant(step=step, backend=backend, standing=standing))
        return step

    def _see_alike(self, step: Step) -> None:
        """Call the original's block twice more: compiled anew each time it would be no block to time others on."""
        for _ in range(2):
            step()
        if self.counted(step)[1] > 1:
            raise NoBlockError("it is compiled anew at each call, though all are alike")

    def forward_alone(self, implementation: Implementation, *, original: bool = False) -> Step | None:
        """The forward of a step whose further times are taken; None in the compile modes, whose clock is another."""
        if self.task.terms.mode.compiles:
            return None
        return self._forward(implementation.call if original else self.as_bound(implementation))

    def _forward(self, implementation: Callable[..., Any]) -> Step:
        first = () if self.module is None else (self.module,)
        return functools.partial(implementation, *first, *self.call.args, **self.call.kwargs)

    def step(self, implementation: Callable[..., Any]) -> Step:
        """One timed call: forward, or forward and backward from a fixed incoming gradient."""
        parameters = [] if self.module is None else [p for p in self.module.parameters() if p.requires_grad]
        return self._there_and_back(self._forward(implementation), self._wanted_of(self.call, parameters))

    def _there_and_back(self, forward: Step, wanted: list[Tensor]) -> Step:
        if not self.trains or not wanted:
            return forward

        def forward_and_backward() -> object:
            result = forward()
            # Of a whole model: a training step goes back from the loss alone.
            loss = loss_of(result)
            outputs = [t for t in _tensors(result) if t.requires_grad] if loss is None else [loss]
            if self.gradients is None:
                self.gradients = tuple(drawn_like(t, self.task.terms.seed + index) for index, t in enumerate(outputs))
            return torch.autograd.grad(outputs, wanted, self.gradients, allow_unused=True)

        return forward_and_backward

    def as_bound(self, implementation: Implementation) -> Callable[..., Any]:
        """The call as it will stand in the model: behind a look at the submodules, a function's behind the dispatcher.

        Both cost time, too.
        """
        if self.module is not None:
            parts = () if self.task.observation.slot.name in OF_THE_MODEL else parts_of(self.module)
            return while_unchanged(implementation.call, parts) if parts else implementation.call
        family = family_of(self.task.observation.workload, self.task.terms.device)
        if family is None:
            return implementation.call
        steps = ((0, sys.maxsize, implementation.call),)
        return function_dispatcher([replace(family, steps=steps)], self.original)

    @staticmethod
    def _wanted_of(call: Call, parameters: list[nn.Parameter]) -> list[Tensor]:
        return [*(t for t in _tensors((call.args, dict(call.kwargs))) if t.requires_grad), *parameters]


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
