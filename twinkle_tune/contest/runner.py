"""The model as it runs under torch.compile: as a whole, or block by block; apart from what the user compiled of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from twinkle_tune.capture.point import unwrapped
from twinkle_tune.contest.compiling import Backend, compiled


class Compiled(nn.Module):
    """A model compiled as a whole."""

    def __init__(self, model: nn.Module, backend: Backend, dynamic: bool | None) -> None:
        super().__init__()
        self.model = unwrapped(model)
        self._run = compiled(self.model, backend, dynamic)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)


class CompiledBlocks(nn.Module):
    """A model with blocks of it compiled, each with code of its own: its layer's index is a guard of that code.

    They stand in the model only while it is called.
    """

    def __init__(self, model: nn.Module, blocks: Collection[nn.Module], backend: Backend) -> None:
        super().__init__()
        self.model = unwrapped(model)
        self._forwards = [(block, compiled(block.forward, backend, None)) for block in blocks]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._placed():
            return self.model(*args, **kwargs)

    @contextmanager
    def _placed(self) -> Iterator[None]:
        before = [(vars(block), vars(block).get("forward")) for block, _ in self._forwards]
        for block, forward in self._forwards:
            vars(block)["forward"] = forward
        try:
            yield
        finally:
            for attributes, own in before:
                if own is None:
                    del attributes["forward"]
                else:
                    attributes["forward"] = own
