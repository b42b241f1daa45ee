"""What objects hold: whether a replay, which reads and writes where it was captured, would still be right."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain
from operator import getitem, is_
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_DEEPEST = 6
"""Objects within objects that are followed below a module."""
_MOST = 200_000
_OURS = "_twinkle_tune"
"""What the names begin with of what is noted at a module that has something bound."""
_FORWARDS = ("forward", "_old_forward")
_OF_ALL = vars(nn.Module()).keys() - {"training", "_parameters", "_buffers", "_modules"}
"""What every module has and no forward reads. Hooks are asked for elsewhere."""
_CODE = (type, ModuleType, FunctionType, MethodType)
_NOT_FOLLOWED = ("torch", "builtins", "threading", "_thread", "weakref", "twinkle_tune", "tokenizers")


class Held:
    """What some objects, and all that they reach, hold now.

    It is asked at each call of a model, so what all dictionaries hold is compared at once, by value; where that is not
    what it was, each attribute that a forward may read is looked at, by identity.

    Attributes:
        tensors: all that they hold.
        is_whole: whether all was looked at; else there was too much.
    """

    def __init__(self, *roots: Any) -> None:
        """Look at them.

        A module's own forward on its instance counts by its function: it may be bound anew. That of a root is whoever
        asks here; of a root's attributes those count that are no one's private.
        """
        self.tensors: list[Tensor] = []
        self._tops = [vars(root) for root in roots if isinstance(root, nn.Module)]
        self._modules: list[dict[str, Any]] = []
        self._holders: list[Any] = []
        self._bags: list[Any] = []
        self._of: list[Any] = []
        self._keys: list[Any] = []
        self._seen: dict[int, Any] = {}
        waiting: deque[tuple[Any, int]] = deque((root, 0) for root in roots)
        while waiting and len(self._seen) < _MOST:
            value, depth = waiting.popleft()
            if id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            below = 1 if isinstance(value, nn.Module) else depth + 1
            waiting.extend((item, below) for item in self._inside(value, depth))
        self.is_whole = not waiting
        self._seen = {}
        self._sizes = list(map(self._size, self._holders))
        self._values = list(map(getitem, self._of, self._keys))
        self._pointers = list(map(Tensor.data_ptr, self.tensors))
        self._functions = list(map(_forwards_of, self._modules))
        with_tensors = {id(holder) for holder, value in zip(self._of, self._values, strict=True) if _is_tensor(value)}
        of_modules = {id(attributes) for attributes in (*self._tops, *self._modules)}
        tables = (holder for holder in self._holders if isinstance(holder, dict) and holder)
        filled = [table for table in tables if id(table) not in of_modules]
        self._tables = [*self._modules, *(holder for holder in filled if id(holder) not in with_tensors)]
        self._lists = [*self._bags, *(holder for holder in self._holders if isinstance(holder, list))]
        self._in_bags = [list(map(id, bag)) for bag in self._bags]
        self._of_tensors = [holder for holder in filled if id(holder) in with_tensors]
        self._ids = self._tensor_ids()
        self._content = self._now()

    def is_same(self) -> bool:
        """Whether they hold the very same."""
        try:
            if list(map(Tensor.data_ptr, self.tensors)) != self._pointers or self._tensor_ids() != self._ids:
                return False
            if self._now() == self._content:
                return True
        except Exception:  # what others put there cannot be compared, say
            return self._is_same_by_identity()
        is_same = self._is_same_by_identity()
        if is_same:
            self._content = self._now()
        return is_same

    def _tensor_ids(self) -> list[int]:
        return list(map(id, chain.from_iterable(map(dict.values, self._of_tensors))))

    def _now(self) -> list[Any]:
        tops = chain.from_iterable((top[name] for name in _public(top)) for top in self._tops)
        return [*tops, *chain.from_iterable(map(dict.values, self._tables)), *chain.from_iterable(self._lists)]

    def _size(self, holder: Any) -> int:
        return len(_public(holder)) if any(holder is top for top in self._tops) else len(holder)

    def _is_same_by_identity(self) -> bool:
        try:
            return (
                list(map(self._size, self._holders)) == self._sizes
                and all(map(is_, map(getitem, self._of, self._keys), self._values))
                and [list(map(id, bag)) for bag in self._bags] == self._in_bags
                and list(map(_forwards_of, self._modules)) == self._functions
            )
        except (KeyError, IndexError):
            return False

    def versions(self) -> list[int | None]:
        """What counts up where one of the tensors is written to."""
        return [None if tensor.is_inference() else tensor._version for tensor in self.tensors]

    def _inside(self, value: Any, depth: int) -> Iterator[Any]:
        """Note what a value holds, and give what is to be looked at next."""
        if isinstance(value, Tensor):
            self.tensors.append(value)
        elif isinstance(value, nn.Module):
            own = vars(value)
            if any(own is top for top in self._tops):
                names = [*_public(own), "_parameters", "_buffers", "_modules"]
            else:
                self._modules.append(own)
                known = (name for name in own if name not in _OF_ALL and name not in _FORWARDS)
                names = [name for name in known if not name.startswith(_OURS)]
            yield from self._items(own, names)
        elif isinstance(value, _CODE) or depth > _DEEPEST:
            return
        elif isinstance(value, (dict, list)):
            yield from self._items(value, list(value) if isinstance(value, dict) else range(len(value)))
            yield from self._attributes(value)
        elif isinstance(value, (tuple, set, frozenset, deque)):
            self._bags += [value] if isinstance(value, (set, deque)) else []
            yield from value
        else:
            yield from self._attributes(value)

    def _attributes(self, value: Any) -> Iterator[Any]:
        attributes: Any = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and type(value).__module__.split(".")[0] not in _NOT_FOLLOWED:
            yield from self._items(attributes, list(attributes))

    def _items(self, holder: Any, keys: Any) -> Iterator[Any]:
        self._holders.append(holder)
        self._of += [holder] * len(keys)
        self._keys += keys
        yield from (holder[key] for key in keys)


def _public(top: Mapping[str, Any]) -> list[str]:
    return [name for name in top if name[0] != "_" and name not in _FORWARDS and name != "generate"]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _forwards_of(attributes: Mapping[str, Any]) -> Any:
    """The function that stands as a module's forward on its instance; None where the class's does."""
    if "forward" not in attributes:
        return None
    return [getattr(attributes.get(name), "__func__", attributes.get(name)) for name in _FORWARDS]


def memory_of(tensor: Tensor) -> int:
    """Where a tensor's memory begins, whichever part of it the tensor is; 0 for none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
