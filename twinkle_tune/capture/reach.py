"""Everything that a model holds and a run may change: attributes, containers, tensors, generators.

A module's buffer is half of what it knows: the number beside it that says how much of the table is filled, the list of
what it saw and the generator that a dropout draws from are state, too.
"""

from __future__ import annotations

import functools
import pickle
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

_DEEPEST = 6
"""Objects within objects that are followed below a module."""
_MOST = 1_000_000
"""Values that are looked at, at most: a table of plain numbers is none of them."""
_LARGEST_BYTES = 1 << 24
"""Arrays above this are data sets, and not looked at."""
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_NOT_FOLLOWED = (
    *("torch", "builtins", "threading", "_thread", "logging", "concurrent", "multiprocessing", "asyncio", "queue"),
    *("socket", "io", "_io", "weakref", "inspect", "enum", "twinkle_tune", "triton", "tokenizers"),
)
"""Packages whose objects are the process's business, not a model's: putting back a half of one would break it."""


_CODE = (type, ModuleType, FunctionType, MethodType, functools.partial)
"""Code is not looked into: what a user's hook counts or gathers is its own business, as is whom it belongs to."""


class Saved:
    """What a mutable object held at one time."""

    def is_changed(self) -> bool:
        """Whether it holds something else now."""
        raise NotImplementedError

    def put_back(self) -> None:
        """Make it hold again what it held."""
        raise NotImplementedError

    def anew(self) -> Saved:
        """What it holds now."""
        raise NotImplementedError


class SavedDict(Saved):
    """Of a dictionary, or an object's attributes, the keys in their order and the values by identity."""

    def __init__(self, holder: dict[Any, Any]) -> None:
        """Now."""
        self.holder, self.content = holder, dict(holder)

    def is_changed(self) -> bool:
        """As :meth:`Saved.is_changed`."""
        if len(self.holder) != len(self.content):
            return True
        pairs = zip(self.holder.items(), self.content.items(), strict=True)
        return any(now[0] is not then[0] or now[1] is not then[1] for now, then in pairs)

    def put_back(self) -> None:
        """As :meth:`Saved.put_back`; what did not change is not touched."""
        # Past what a subclass makes of it (transformers' outputs refuse to delete), and not past an ordered
        # dictionary's list of keys: one that ``dict`` itself wrote to cannot be read any more.
        base: Any = OrderedDict if isinstance(self.holder, OrderedDict) else dict
        for key in [key for key in self.holder if key not in self.content]:
            base.__delitem__(self.holder, key)
        if list(self.holder) != [key for key in self.content if key in self.holder] or len(self.holder) < len(
            self.content
        ):
            base.clear(self.holder)
        for key, value in self.content.items():
            if key not in self.holder or base.__getitem__(self.holder, key) is not value:
                base.__setitem__(self.holder, key, value)

    def anew(self) -> Saved:
        """As :meth:`Saved.anew`."""
        return SavedDict(self.holder)


class SavedItems(Saved):
    """Of a list, a deque or a set the items by identity."""

    def __init__(self, holder: Any) -> None:
        """Now."""
        self.holder, self.content = holder, list(holder)

    def is_changed(self) -> bool:
        """As :meth:`Saved.is_changed`."""
        if len(self.holder) != len(self.content):
            return True
        return any(now is not then for now, then in zip(self.holder, self.content, strict=True))

    def put_back(self) -> None:
        """As :meth:`Saved.put_back`."""
        self.holder.clear()
        (self.holder.update if isinstance(self.holder, set) else self.holder.extend)(self.content)

    def anew(self) -> Saved:
        """As :meth:`Saved.anew`."""
        return SavedItems(self.holder)


class SavedNames(Saved):
    """Of an owner that is no dictionary (a class, an object with slots) some attributes by identity."""

    def __init__(self, owner: Any, names: tuple[str, ...]) -> None:
        """Now."""
        self.owner, self.names = owner, names
        self.content = {name: getattr(owner, name) for name in names if hasattr(owner, name)}

    def is_changed(self) -> bool:
        """As :meth:`Saved.is_changed`."""
        missing = object()
        return any(getattr(self.owner, name, missing) is not self.content.get(name, missing) for name in self.names)

    def put_back(self) -> None:
        """As :meth:`Saved.put_back`."""
        for name in self.names:
            if name in self.content:
                setattr(self.owner, name, self.content[name])
            elif hasattr(self.owner, name):
                delattr(self.owner, name)

    def anew(self) -> Saved:
        """As :meth:`Saved.anew`."""
        return SavedNames(self.owner, self.names)


class SavedState(Saved):
    """Of what has a state of its own (a generator, an array) that state, by value."""

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], object], same: Callable[[Any, Any], bool]) -> None:
        """Now."""
        self.get, self.put, self.same, self.content = get, put, same, get()

    def is_changed(self) -> bool:
        """As :meth:`Saved.is_changed`."""
        return not self.same(self.get(), self.content)

    def put_back(self) -> None:
        """As :meth:`Saved.put_back`."""
        self.put(self.content)

    def anew(self) -> Saved:
        """As :meth:`Saved.anew`."""
        return SavedState(self.get, self.put, self.same)


class Reach:
    """What a model reaches, now.

    Attributes:
        saved: everything that can be made to hold something else.
        tensors: every tensor, by identity.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look at the model, and at all that it holds."""
        self.saved: list[Saved] = []
        self.tensors: dict[int, Tensor] = {}
        self._seen: dict[int, Any] = {}
        waiting: deque[tuple[Any, int]] = deque([(model, 0)])
        while waiting and len(self._seen) < _MOST:
            value, depth = waiting.popleft()
            if isinstance(value, _PLAIN) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            below = 1 if isinstance(value, nn.Module) else depth + 1
            waiting.extend((item, below) for item in self._inside(value, depth))

    def _inside(self, value: Any, depth: int) -> Iterator[Any]:
        """Note what a value holds, and give what is to be looked at next."""
        if isinstance(value, Tensor):
            self.tensors[id(value)] = value
            if getattr(value, "__dict__", None):
                self.saved.append(SavedDict(value.__dict__))
                yield from value.__dict__.values()
        elif isinstance(value, nn.Module):
            yield from self._of_module(value)
        elif isinstance(value, dict):
            self.saved.append(SavedDict(value))
            yield from value.values()
        elif isinstance(value, (list, deque, set)):
            if not all(type(item) in (int, float, bool, str) for item in value):
                yield from value
            self.saved.append(SavedItems(value))
        elif isinstance(value, (tuple, frozenset)):
            yield from value
        elif (state := _state_of(value)) is not None:
            self.saved.append(state)
        elif depth <= _DEEPEST and not isinstance(value, _CODE):
            yield from self._of_object(value)

    def _of_module(self, module: nn.Module) -> Iterator[Any]:
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            return  # its first call makes another module of it
        self.saved.append(SavedDict(module.__dict__))
        yield from module.__dict__.values()
        for owner in type(module).__mro__:
            if owner.__module__.partition(".")[0] not in ("torch", "builtins", "typing", "abc"):
                own = {n: v for n, v in vars(owner).items() if not n.startswith("__") and _is_data(v)}
                if own:
                    self.saved.append(SavedNames(owner, tuple(own)))
                    yield from own.values()

    def _of_object(self, value: Any) -> Iterator[Any]:
        if type(value).__module__.partition(".")[0] in _NOT_FOLLOWED and not isinstance(value, torch.optim.Optimizer):
            return
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            self.saved.append(SavedDict(own))
            yield from own.values()
        slots = tuple(
            name
            for owner in type(value).__mro__
            for name in _names(vars(owner).get("__slots__", ()))
            if name not in ("__dict__", "__weakref__") and hasattr(value, name)
        )
        if slots and not getattr(type(value), "__dataclass_params__", _Mutable).frozen:
            self.saved.append(SavedNames(value, slots))
            yield from (getattr(value, name) for name in slots)


class _Mutable:
    frozen = False


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_data(value: Any) -> bool:
    return isinstance(value, (*_PLAIN, tuple, list, dict, set, deque, Tensor))


def _state_of(value: Any) -> Saved | None:
    """The state of what keeps it out of sight: random generators and arrays."""
    if isinstance(value, torch.Generator):
        return SavedState(value.get_state, value.set_state, torch.equal)
    if isinstance(value, random.Random):
        return SavedState(value.getstate, value.setstate, lambda now, then: bool(now == then))
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.ndarray):
        if value.nbytes > _LARGEST_BYTES or not value.flags.writeable:
            return None
        return SavedState(
            value.copy,
            lambda content: numpy.copyto(value, content),
            lambda now, then: bool(now.tobytes() == then.tobytes()),
        )
    if isinstance(value, numpy.random.Generator):
        bits = value.bit_generator
        return SavedState(lambda: bits.state, lambda state: setattr(bits, "state", state), _same_pickled)
    if isinstance(value, numpy.random.RandomState):
        return SavedState(value.get_state, value.set_state, _same_pickled)
    return None


def _same_pickled(one: Any, other: Any) -> bool:
    return pickle.dumps(one) == pickle.dumps(other)
