"""Copies of the block around a slot: each candidate in one, as it will stand in the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from twinkle_tune.call.arguments import Call
from twinkle_tune.capture.block import Block, kept_call, states_in
from twinkle_tune.capture.kv_cache import has_state
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.patch import bind_forward, replaced_by_another
from twinkle_tune.kernel.place import find_place
from twinkle_tune.kernel.record import Binding
from twinkle_tune.slot import Slot
from twinkle_tune.strategy.backend import Backend, compiled

_LARGE_BYTES = 1 << 24
"""Buffers above this are weights in disguise: shared, not copied."""


class NoBlockError(TuneError):
    """A block cannot be copied, or its call not be repeated: the contest is held on the slot alone."""


class Copies:
    """One block, its call, and copies of it for the contestants. Parameters are shared, and never written to.

    Attributes:
        call: the arguments, the same for all contestants.
    """

    def __init__(self, block: Block, slot: Slot) -> None:
        """Copy the arguments, and see that the call can be repeated.

        Raises:
            NoBlockError: it cannot; the message says why.
        """
        self._block, self._slot = block, slot
        try:
            self.call = kept_call(block.call.args, block.call.kwargs)
            module = self.copied()
            if any(replaced_by_another(module.get_submodule(path)) for path in block.places):
                raise NoBlockError("a forward in it was replaced on the instance by somebody else")
            self.rewind = _Rewind(self.call)
            for _ in range(2):
                module(*self.call.args, **self.call.kwargs)
                self.rewind()
        except NoBlockError:
            raise
        except Exception as error:  # a stranger's module may raise anything
            text = str(error).splitlines()
            raise NoBlockError(
                f"its call cannot be repeated ({type(error).__name__}{': ' + text[0][:120] if text else ''})"
            ) from error

    def copied(self) -> nn.Module:
        """The block with the same parameters in new modules."""
        module = self._block.module
        shared = [*module.parameters(), *(b for b in module.buffers() if b.nbytes > _LARGE_BYTES)]
        return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})

    def forward(
        self, name: str, call: Callable[..., Any] | None, backend: Backend, dynamic: bool | None
    ) -> Callable[[], object]:
        """The block's compiled call with a candidate in all places; ``call`` is None for the original."""
        module = self.copied()
        for path in self._block.places if call is not None else ():
            binding = Binding(slot=self._slot.name, path=f"{self._block.path}.{path}", candidate=name, rows="all")
            bind_forward(module.get_submodule(path), call, binding)  # type: ignore[arg-type]
        run, args, kwargs, rewind = compiled(module, backend, dynamic), self.call.args, self.call.kwargs, self.rewind
        if not rewind.needed:
            return lambda: run(*args, **kwargs)

        def rewound() -> object:
            result = run(*args, **kwargs)
            rewind()
            return result

        return rewound

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The block's parameters."""
        return list(self._block.module.parameters())


def in_place_of(slot: Slot, call: Callable[..., Any] | None) -> Callable[[], AbstractContextManager[object]]:
    """What must stand while a contestant of a function slot is called: its dispatcher, for the process."""
    if call is None:
        return nullcontext

    @contextmanager
    def standing() -> Iterator[None]:
        place = find_place(slot.target)
        before = place.raw
        place.put(call)
        try:
            yield
        finally:
            place.put_back(before)

    return standing


@dataclass(frozen=True, slots=True)
class _Saved:
    holder: dict[str, Any] | list[Any]
    content: dict[str, Any] | list[Any]

    @property
    def is_changed(self) -> bool:
        if len(self.holder) != len(self.content):
            return True
        if isinstance(self.holder, dict) and isinstance(self.content, dict):
            return any(self.content.get(name, self) is not value for name, value in self.holder.items())
        return any(now is not then for now, then in zip(self.holder, self.content, strict=True))

    def put_back(self) -> None:
        if isinstance(self.holder, dict) and isinstance(self.content, dict):
            self.holder.clear()
            self.holder.update(self.content)
        else:
            self.holder[:] = self.content  # type: ignore[index]


class _Rewind:
    """Puts the caches among a call's arguments back to what they were: a call makes them longer.

    Only what the first call changed is put back, for that is timed along with the block. No tensor is copied: a block
    that writes into them was refused when it was captured.
    """

    def __init__(self, call: Call) -> None:
        self._saved: list[_Saved] = []
        for state in states_in(call):
            self._save(state)
        self._learned = not self._saved

    @property
    def needed(self) -> bool:
        """Whether there is anything to put back."""
        return bool(self._saved)

    def __call__(self) -> None:
        if not self._learned:
            self._saved = [saved for saved in self._saved if saved.is_changed]
            self._learned = True
        for saved in self._saved:
            saved.put_back()

    def _save(self, value: Any) -> None:
        if isinstance(value, (list, dict)):
            self._saved.append(_Saved(value, copy.copy(value)))
            for item in value.values() if isinstance(value, dict) else value:
                self._save(item)
        elif isinstance(value, tuple):
            for item in value:
                self._save(item)
        elif has_state(value):
            self._save(value.__dict__)
