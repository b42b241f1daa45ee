"""The stage of the compile modes: the block around a slot, compiled with each candidate in it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from twinkle_tune.capture.block import Block
from twinkle_tune.capture.capture import Observation
from twinkle_tune.contest.call import CallStage
from twinkle_tune.contest.compiling import CompilingClock, Contestant
from twinkle_tune.contest.copies import Copies, NoBlockError, in_place_of
from twinkle_tune.contest.stage import Entrant
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.dispatch import family_of
from twinkle_tune.profile.schema import TimedOn
from twinkle_tune.slot import ORIGINAL, Implementation, SlotKind
from twinkle_tune.strategy.backend import Backend, compiled, renamed
from twinkle_tune.terms import Terms


class BlockStage(CallStage):
    """The block around a slot's call; the call alone, compiled, where there is no block that can be timed."""

    def __init__(self, observation: Observation, terms: Terms, *, judges: bool = True) -> None:
        """As :class:`CallStage`."""
        # It replaces functions of torch, and whoever looks for such changes looks for the first time after this.
        importlib.import_module("torch._dynamo")
        super().__init__(observation, terms, judges=judges)
        self.clock = self._compiling = CompilingClock(self.clock)
        self._contestant = self._alone
        self.timed_on = TimedOn(why_alone=observation.why_alone)
        if observation.block is not None:
            self._turn_to_block(observation.block)

    def _turn_to_block(self, block: Block) -> None:
        is_function = self._slot.kind is SlotKind.FUNCTION
        if is_function and family_of(self._observation.workload, self._terms.device) is None:
            why = "its arguments are not only tensors and plain values, so no dispatcher can be bound for it"
            self.timed_on = TimedOn(why_alone=why)
            return
        try:
            copies = Copies(block, self._slot)
        except NoBlockError as error:
            self.timed_on = TimedOn(why_alone=str(error))
            return

        def in_block(name: str, implementation: Implementation, backend: Backend) -> Contestant:
            is_rival = name != ORIGINAL
            call = implementation.call if is_rival else None
            forward = copies.forward(name, call, backend, self._terms.dynamic)
            standing = in_place_of(self._slot, self._as_bound(implementation) if is_rival and is_function else None)
            step = self._there_and_back(forward, copies.call, copies.parameters)
            return Contestant(step=step, backend=backend, standing=standing)

        self._contestant = in_block
        self.timed_on = TimedOn(block=block.name, path=block.path, calls=block.calls)

    def _alone(self, name: str, implementation: Implementation, backend: Backend) -> Contestant:
        call = implementation.call if name == ORIGINAL else self._as_bound(implementation)
        return Contestant(step=self._step(compiled(call, backend, self._terms.dynamic)), backend=backend)

    def _entrant(self, name: str, implementation: Implementation) -> Entrant:
        is_first_of_block = name == ORIGINAL and self._contestant != self._alone
        try:
            entrant = self._called(name, implementation)
            if is_first_of_block:
                _see_alike(entrant)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not is_first_of_block:
                raise
            why = f"the part of the model around it cannot be compiled and timed: {in_a_line(error)}"
            self._contestant, self._gradients, self.timed_on = self._alone, None, TimedOn(why_alone=why)
            return self._called(name, implementation)
        return entrant

    def _called(self, name: str, implementation: Implementation) -> Entrant:
        contestant = self._contestant(name, implementation, Backend(gives_up=name != ORIGINAL))
        self._compiling.enter(contestant)
        first_call_us = self.clock.first_call_us(contestant.step)
        return Entrant(
            step=contestant.step,
            first_call_us=first_call_us,
            counted=lambda: (contestant.breaks, contestant.recompilations),
        )

    def _judged(self, call: Callable[..., object]) -> Callable[..., object]:
        judged: Callable[..., object] = torch.compile(renamed(call), dynamic=self._terms.dynamic)
        return judged


def _see_alike(original: Entrant) -> None:
    """Call the original's block twice more: compiled anew each time it would be no block to time others on."""
    for _ in range(2):
        original.step()
    if original.counted()[1] > 1:
        raise NoBlockError("it is compiled anew at each call, though all are alike")
