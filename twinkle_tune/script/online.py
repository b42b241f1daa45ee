"""A race inside of a script's own steps: rivals that are right take turns with the originals, and the faster stays."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from twinkle_tune.call.drawn import random_kept
from twinkle_tune.capture.given import repeatable
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.paired import Decision
from twinkle_tune.script.outermost import listen, unlisten
from twinkle_tune.script.raced import Won
from twinkle_tune.script.turns import Turns
from twinkle_tune.script.watch import inner_of
from twinkle_tune.slot import ORIGINAL

LOOKED_AT = 3
"""Steps that are looked at before rivals are judged on them."""

Rivals = Callable[[], Mapping[str, Plan]]
"""Judges who may take part; called between two steps."""


class StepClock(Protocol):
    """When something happened on a device, without waiting for it."""

    def mark(self) -> Any:
        """Now, in the device's order of work."""

    def between_us(self, begin: Any, end: Any) -> float:
        """Microseconds between two marks; waits for the second."""


class HostClock:
    """A clock of a device that works while the host waits: a CPU."""

    def mark(self) -> int:
        """As :meth:`StepClock.mark`."""
        return time.perf_counter_ns()

    def between_us(self, begin: int, end: int) -> float:
        """As :meth:`StepClock.between_us`."""
        return (end - begin) / 1000


class CudaClock:
    """A clock of events in the current stream."""

    def mark(self) -> torch.cuda.Event:
        """As :meth:`StepClock.mark`."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between_us(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """As :meth:`StepClock.between_us`."""
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1000


class Online:
    """The race of one model. A step goes from a call of the model to the next one that begins a step.

    In a training that is the first call after a step of the optimizer, else every call that goes on with no cache. Each
    step runs as a whole with one rival, or with the originals. A step with more or fewer calls of the model than is
    usual is not timed, and whose turn it was has the next one: the model was evaluated in it, or GradScaler left out a
    step of the optimizer. Whatever goes wrong is a line, and the originals run.

    Attributes:
        trains: whether its steps are those of a training.
        told: how it ended, in words; "" while it goes on.
    """

    def __init__(
        self,
        model: nn.Module,
        rivals: Rivals,
        tell: Callable[[str], None],
        *,
        trains: bool,
        won: Callable[[Won], None] | None = None,
        clock: StepClock | None = None,
        seed: int = 0,
    ) -> None:
        """Nothing is done yet.

        Args:
            model: with its originals, called from outside of any module.
            rivals: judges who may take part.
            tell: is given a line at the end.
            trains: whether its steps are those of a training.
            won: is given the rival that stays, if one does.
            clock: of the model's device; None for the right one.
            seed: of the order of the turns.
        """
        self._ref, self._rivals, self._tell = weakref.ref(model), rivals, tell
        self._name, self.trains, self._seed, self._won = type(model).__name__, trains, seed, won
        device = next((parameter.device.type for parameter in model.parameters()), "cpu")
        self._clock: StepClock = clock or (CudaClock() if device == "cuda" else HostClock())
        self._steps, self._stepped = 0, True
        self._calls, self._usual = 0, Counter[int]()
        self._turns: Turns | None = None
        self._plans: Mapping[str, Plan] = {}
        self._began: Any = None
        self._hook: Any = None
        self._own = {id(parameter) for parameter in model.parameters()}
        self.told = ""

    @property
    def model(self) -> nn.Module | None:
        """Whose race it is; None where the script has let go of it."""
        return self._ref()

    def begin(self) -> None:
        """Take part in the script's steps from now on."""
        self._hook = register_optimizer_step_post_hook(self._optimizer_stepped)
        listen(self)

    def cancel(self) -> None:
        """Take part no more, and leave what is bound now: somebody else has decided."""
        if not self.told:
            self._finish("a kept profile is applied")

    def end(self, why: str = "the script has ended") -> None:
        """Take part no more; an undecided race ends with the best that is proven, else the originals."""
        if not self.told:
            if self._turns is not None:
                self._turns.stop(why)
            self._settle()

    def called(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """As of :class:`~twinkle_tune.script.outermost.Listens`."""
        model = inner_of(module)
        if self.told or self._ref() is not model:
            return
        if not self._begins_a_step(model, args, kwargs):
            self._calls += 1
            return
        try:
            with torch.inference_mode(False):
                self._step(model, is_compiled=hasattr(module, "_orig_mod"))
        except Exception as error:  # of a kernel's source, the compiler, the model: the script goes on
            self._give_up(in_a_line(error, 300))

    def _begins_a_step(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        if (torch.is_grad_enabled() and model.training) is not self.trains:
            return False
        return self._stepped if self.trains else repeatable(model, args, kwargs) is not None

    def _step(self, model: nn.Module, *, is_compiled: bool) -> None:
        end = self._clock.mark() if self._began is not None else None
        is_usual = self._step_is_usual()
        self._steps += 1
        self._stepped = False
        if self._turns is None:
            if self._steps <= LOOKED_AT:
                return
            if is_compiled:
                self._give_up("it is compiled, and would be compiled again at each turn")
                return
            with random_kept():
                self._plans = dict(self._rivals())
            self._turns = Turns(tuple(self._plans), seed=self._seed)
        elif end is not None and is_usual:
            self._turns.took(self._clock.between_us(self._began, end))
        if self._turns.decision is not None:
            self._settle()
            return
        before, turn = self._turns.turn, self._turns.next()
        if turn != before:
            self._put(model, turn)
        self._began = self._clock.mark()

    def _step_is_usual(self) -> bool:
        """Whether the step that ends now had as many calls as most; the next one has begun with one."""
        self._usual[self._calls] += self._steps > 0
        is_usual = self._usual[self._calls] == max(self._usual.values())
        self._calls = 1
        return is_usual

    def _put(self, model: nn.Module, turn: str) -> None:
        if turn == ORIGINAL:
            restore_model(model)
        else:
            bind_plan(model, self._plans[turn])

    def _settle(self) -> None:
        """The winner stays."""
        decision, model = None if self._turns is None else self._turns.decision, self._ref()
        if decision is None:
            self._give_up(f"{self._steps} steps were too few, of {LOOKED_AT + 1} at least")
            return
        if model is not None:
            self._put(model, decision.winner)
        self._keep(decision)
        self._finish(f"{decision.winner} stays: {decision.reason}")

    def _keep(self, decision: Decision) -> None:
        assert self._turns is not None
        found = Won.of(decision.winner, decision.reason, self._turns.times_us)
        if found is not None and self._won is not None:
            self._won(found)

    def _give_up(self, why: str) -> None:
        model = self._ref()
        if model is not None:
            restore_model(model)
        self._finish(f"the originals run: {why}")

    def _finish(self, how: str) -> None:
        self.told = how
        unlisten(self)
        self._hook.remove()
        self._plans = {}
        self._tell(f"{self._name}, online: {how}")

    def _optimizer_stepped(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        del args, kwargs
        if any(id(tensor) in self._own for group in optimizer.param_groups for tensor in group["params"]):
            self._stepped = True
