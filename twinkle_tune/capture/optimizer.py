"""The optimizer's step of a training step, on copies of the parameters: the model's own weights are never touched.

A learning rate of zero on the weights themselves would not leave them as they were: -0.0 becomes 0.0, and a gradient
that is not finite makes them NaN. So the optimizer works on copies in memory of their own, with the gradients of the
originals: the same arithmetic on as many bytes, for the memory of one more copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any
from weakref import ref

import torch
from torch import nn

from twinkle_tune.capture.point import unwrapped
from twinkle_tune.errors import in_a_line
from twinkle_tune.source.digest import digest_code

OptimizerFactory = Callable[[Sequence[nn.Parameter]], Any]
"""Makes an optimizer of some parameters: ``torch.optim.SGD``, or a function that also says its settings."""

_COPIES = 3
"""Of the parameters, that AdamW needs here: the copies, and two averages for each."""


class OptimizerStep:
    """Makes an optimizer's step with the gradients that a model's parameters have; the state comes with the first one.

    Where the optimizer cannot be had (its state needs more memory than there is, it raises) there is none from then on,
    and :attr:`problem` says why: the training step is timed without it.

    Attributes:
        name: the optimizer's class, once there is one; "" where there is none.
        problem: why there is none any more; "" where nothing went wrong.
        took_us: microseconds of the last step, as the host sees it.
    """

    def __init__(self, make: OptimizerFactory = torch.optim.AdamW, *, room_bytes: int | None = None) -> None:
        """Nothing is allocated yet.

        Args:
            make: of the copied parameters, in the model's order.
            room_bytes: memory that may be taken, where allocating too much would not raise (a CPU's); None for any.
        """
        self.name = self.problem = ""
        self.took_us = 0.0
        self._make, self._room_bytes = make, room_bytes
        self._model: ref[nn.Module] | None = None
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._optimizer: Any = None

    @property
    def digest(self) -> str:
        """Of the code that makes the optimizer."""
        return digest_code(self._make)

    @property
    def holds(self) -> bool:
        """Whether it holds memory: copies of parameters, and the optimizer's state."""
        return bool(self._pairs)

    def __call__(self, model: nn.Module) -> None:
        """Make a step with the gradients as they are now; parameters without one are passed over."""
        self.took_us = 0.0
        if self.problem:
            return
        began_ns = perf_counter_ns()
        try:
            self._step(unwrapped(model))
            self.took_us = (perf_counter_ns() - began_ns) / 1000
        except Exception as error:
            # Anything can come out of a stranger's optimizer, and of one that does not fit the memory.
            self.give_up(in_a_line(error, 200))

    def give_up(self, why: str) -> None:
        """Have no optimizer from now on."""
        self.release()
        self.name, self.problem = "", f"without the optimizer's step: {why}"

    def release(self) -> None:
        """Let go of the copies and the state. The next step makes them anew."""
        self._model, self._optimizer = None, None
        self._pairs = []

    def _step(self, model: nn.Module) -> None:
        if self._model is None or self._model() is not model:
            self.release()
            self._begin(model)
        for parameter, copy in self._pairs:
            copy.grad = parameter.grad
        try:
            self._optimizer.step()
        finally:
            for _, copy in self._pairs:
                copy.grad = None

    def _begin(self, model: nn.Module) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        needed = _COPIES * sum(p.numel() * p.element_size() for p in trained)
        if self._room_bytes is not None and needed > self._room_bytes:
            raise MemoryError(f"it takes {needed / 2**30:.1f} GiB, {self._room_bytes / 2**30:.1f} GiB are free")
        self._pairs = [(p, nn.Parameter(p.detach().clone())) for p in trained]
        self._optimizer = self._make([copy for _, copy in self._pairs])
        self._model, self.name = ref(model), type(self._optimizer).__name__
