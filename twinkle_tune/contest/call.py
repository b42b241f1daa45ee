"""The stage that is a slot's own call: each candidate as it will stand in the model, on arguments that were seen."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.call.arguments import Call, fresh
from twinkle_tune.call.drawn import drawn_like
from twinkle_tune.capture.capture import Observation
from twinkle_tune.capture.step import loss_of
from twinkle_tune.catalog.block import BLOCK
from twinkle_tune.contest.selected import BLOCK_S
from twinkle_tune.contest.stage import Begins, Entrant, Stage
from twinkle_tune.device import torch_type
from twinkle_tune.errors import TuneError, in_a_line, is_by_chance
from twinkle_tune.interpreted import interpreted
from twinkle_tune.kernel.dispatch import family_of
from twinkle_tune.kernel.dispatch_function import function_dispatcher
from twinkle_tune.kernel.parts import parts_of, while_unchanged
from twinkle_tune.measure.chance import unless_by_chance
from twinkle_tune.measure.clock import Call as Timed
from twinkle_tune.measure.clocks import slot_clock
from twinkle_tune.outcome import Outcome, Rejection, Trial
from twinkle_tune.parity.calls import kin_calls, parity_calls
from twinkle_tune.parity.check import Judge
from twinkle_tune.parity.verdict import Inconclusive
from twinkle_tune.slot import CONVERTS, OF_THE_MODEL, ORIGINAL, Candidate, Implementation, Slot
from twinkle_tune.source.compiled import graphs_made, why_uncompiled
from twinkle_tune.source.hub import commit_of, place_of
from twinkle_tune.source.layout import or_original
from twinkle_tune.source.tried import config_of
from twinkle_tune.terms import Terms
from twinkle_tune.workload import Context


class CallStage(Stage[Candidate]):
    """A slot's own call. All candidates share its arguments, the incoming gradients, the judge and the clock."""

    def __init__(self, observation: Observation, terms: Terms, *, judges: bool = True) -> None:
        """For one observation.

        ``trains``: whether a call goes backward as well. ``judges``: False where the original is alone.
        """
        self.clock = slot_clock(terms.device)
        self.trains = terms.mode.trains and observation.workload.context.grad
        self._observation, self._terms = observation, terms
        self._slot, self._module = observation.slot, observation.module
        self._original = observation.occurrence.original
        self._judge = self._judge_of(observation.call) if judges else Inconclusive(reason="nobody was to be judged")
        # One set of buffers for all: with buffers of its own each candidate would be timed on another placement.
        self._call = fresh(observation.call)
        self._gradients: tuple[Tensor, ...] | None = None

    def enter(self, candidate: Candidate, begins: Begins) -> Entrant | Rejection:
        """As :meth:`Stage.enter`."""
        begins("load")
        implementation = candidate.source.load(self._slot, self._original)
        unfit = implementation.unfit_for(self._terms.mode)
        if unfit:
            return Rejection(stage="capability", reason=unfit, cause="unfit")
        begins("first call")
        before = graphs_made() if implementation.per_shape else 0
        with interpreted() as ran:
            entrant = self._entrant(candidate.name, implementation)
        if implementation.per_shape and graphs_made() == before:
            return Rejection(stage="first call", reason=why_uncompiled(), cause="unavailable")
        if candidate.name == ORIGINAL:
            return entrant
        if isinstance(judge := self._judge, Inconclusive):
            return replace(entrant, judge=lambda: judge)
        # Judged without the dispatcher, which would pass calls that look otherwise (judged copies) to the original.
        call, kin = self._judged(implementation.call), implementation.call
        return replace(
            entrant,
            judge=functools.partial(judge.judge, call, for_kin=kin),
            again=functools.partial(judge.again, call, for_kin=kin),
            interpreted=bool(ran.kernels),
            notes=(CONVERTS,) if implementation.converts else (),
        )

    def trial(self, candidate: Candidate, outcome: Outcome) -> Trial:
        """As :meth:`Stage.trial`. Some sources load their code once more for the digest."""
        repo, layer = place_of(candidate.source)
        return Trial(
            candidate=candidate.name,
            source=candidate.source.kind,
            digest=digest_of(candidate, self._slot, self._original),
            outcome=outcome,
            commit=commit_of(candidate.source),
            repo=repo,
            layer=layer,
            config=config_of(candidate.source),
        )

    def needs_s(self, candidate: Candidate) -> float:
        """As :meth:`Stage.needs_s`: nobody interrupts the compiler of a block."""
        return BLOCK_S if candidate.source.kind == "compile" and self._slot.name == BLOCK else 0.0

    @property
    def unjudged(self) -> str:
        """As :meth:`Stage.unjudged`."""
        found = self._judge if isinstance(self._judge, Inconclusive) else self._judge.inconclusive
        return "" if found is None else found.reason

    def _judge_of(self, call: Call) -> Judge | Inconclusive:
        """The judge; inconclusive for everybody where there is no room to check, or the original cannot be run for it.

        It is run on copies, on made-up inputs and in other dtypes, and what it makes of these is not known beforehand.
        """
        try:
            return unless_by_chance(
                lambda: Judge(
                    self._original,
                    parity_calls(call, self._terms.seed),
                    module=self._module,
                    trains=self.trains,
                    kin=kin_calls(call, self._terms.seed),
                )
            )
        except Exception as error:
            if is_by_chance(error):
                return Inconclusive(reason=f"no room to check against float64 ({in_a_line(error)})", no_room=True)
            return Inconclusive(reason=f"the original cannot be run to check against ({in_a_line(error)})")

    def _entrant(self, name: str, implementation: Implementation) -> Entrant:
        """A candidate in its place, called once; not judged."""
        call = implementation.call if name == ORIGINAL else self._as_bound(implementation)
        step = self._step(call)
        first_call_us = self.clock.first_call_us(step)
        forward = None if self._gradients is None else self._forward(call)
        return Entrant(step=step, first_call_us=first_call_us, forward=forward)

    def _judged(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call as it is judged."""
        return call

    def _as_bound(self, implementation: Implementation) -> Callable[..., Any]:
        """The call as it will stand in the model: behind a look at the submodules, a function's behind the dispatcher.

        Both cost time, too. So does letting the original run where weights in another layout cannot be had, which the
        judge tells.
        """
        if self._module is not None:
            parts = () if self._slot.name in OF_THE_MODEL else parts_of(self._module)
            call = or_original(implementation.call) if implementation.converts else implementation.call
            return while_unchanged(call, parts) if parts else call
        family = family_of(self._observation.workload, self._terms.device)
        if family is None:
            return implementation.call
        steps = ((0, sys.maxsize, implementation.call),)
        return function_dispatcher([replace(family, steps=steps)], self._original)

    def _step(self, call: Callable[..., Any]) -> Timed:
        """One timed call: forward, or forward and backward from a fixed incoming gradient."""
        parameters = [] if self._module is None else list(self._module.parameters())
        return self._there_and_back(self._forward(call), self._call, parameters)

    def _forward(self, call: Callable[..., Any]) -> Timed:
        first = () if self._module is None else (self._module,)
        return functools.partial(call, *first, *self._call.args, **self._call.kwargs)

    def _there_and_back(self, forward: Timed, call: Call, parameters: list[nn.Parameter]) -> Timed:
        """The forward, and back to those of the call's tensors and of the parameters that take a gradient."""
        wanted = [t for t in (*_tensors((call.args, dict(call.kwargs))), *parameters) if t.requires_grad]
        if not self.trains or not wanted:
            return forward

        def forward_and_backward() -> object:
            result = forward()
            # Of a whole model: a training step goes back from the loss alone.
            loss = loss_of(result)
            outputs = [t for t in _tensors(result) if t.requires_grad] if loss is None else [loss]
            if self._gradients is None:
                self._gradients = tuple(drawn_like(t, self._terms.seed + index) for index, t in enumerate(outputs))
            return torch.autograd.grad(outputs, wanted, self._gradients, allow_unused=True)

        return forward_and_backward


def digest_of(candidate: Candidate, slot: Slot, original: Callable[..., Any]) -> str:
    """Digest of a candidate's code; "" where it cannot be had, of which its rejection says why."""
    try:
        return candidate.source.digest(slot, original)
    except TuneError:
        return ""


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
