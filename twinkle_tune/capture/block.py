"""The smallest part of a model that repeats around a slot's call, and one call of it.

Under torch.compile a slot does not run alone: what stands around it is compiled with it. So a contest is held on the
decoder layer (the residual block, the expert) that the call lies in, which is what a model has many of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from twinkle_tune.call.arguments import Call, snapshot
from twinkle_tune.capture.kv_cache import forked, has_state, leaves
from twinkle_tune.capture.sites import Site
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import Context, observe, target_of

OUTSIDE = "no part of the model that repeats is around it"
MIXED = "most of its calls lie outside of every part of the model that repeats"
WRITTEN = "the part of the model around it writes into tensors that it is given"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """A module around a slot's call whose class its siblings share, and one call of it.

    Attributes:
        path: "model.layers.0".
        module: the instance.
        call: its arguments in a call that called the slot; caches in it are as they were before.
        places: the slot's instances in it that are called alike, as paths inside it; empty for a function.
        calls: how often one call of the block calls the slot so.
    """

    path: str
    module: nn.Module
    call: Call
    places: tuple[str, ...]
    calls: int

    @property
    def name(self) -> str:
        """The class's name: "Qwen3DecoderLayer"."""
        return target_of(type(self.module)).replace(":", ".").rpartition(".")[2]


Visit = tuple[str, int]
"""A call of a block: the step, and its number among all calls of blocks in it."""


@dataclass(slots=True)
class Calls:
    """Where the calls of one slot and workload lay: how many in each visit, None for outside of every block."""

    visits: Counter[Visit | None] = field(default_factory=Counter)
    places: dict[Visit, dict[Site, None]] = field(default_factory=dict)

    def add(self, visit: Visit | None, site: Site) -> None:
        """Count one call."""
        self.visits[visit] += 1
        if visit is not None:
            self.places.setdefault(visit, {})[site] = None


class BlockLog:
    """Which call of a block each call of a slot lay in, and afterwards the arguments of those that are wanted.

    The arguments are taken in a run of their own: only then it is known which ones are wanted, and what is taken is
    what the block was given, not what was left of it when it came to the slot.
    """

    def __init__(self, model: nn.Module) -> None:
        self.sites = tuple(_repeated(model))
        self._visited: dict[Visit, Site] = {}
        self._running: list[tuple[Site, Visit]] = []
        self._count: Counter[str] = Counter()
        self._calls: dict[Visit, Call | str] = {}
        self._contexts: dict[Visit, Context] = {}

    def around(self, site: Site) -> Visit | None:
        """The innermost block that is running around a slot's call."""
        for block, visit in reversed(self._running):
            if block.module is not site.module:
                return visit
        return None

    def kind_of(self, visit: Visit | None) -> str:
        """The class of a visited block as "module:name"; "" for none."""
        return "" if visit is None else self._visited[visit].target

    def recorder(self, step: str) -> Callable[[Site, Callable[..., Any]], Callable[..., Any]]:
        """Stand-ins for the blocks' forwards that know which one is running."""

        def wrap(site: Site, original: Callable[..., Any]) -> Callable[..., Any]:
            def recorded(*args: Any, **kwargs: Any) -> Any:
                visit = (step, self._count[step])
                self._count[step] += 1
                self._visited[visit] = site
                self._running.append((site, visit))
                try:
                    return original(*args, **kwargs)
                finally:
                    self._running.pop()

            return recorded

        return wrap

    def keeper(self, step: str, wanted: set[Visit]) -> Callable[[Site, Callable[..., Any]], Callable[..., Any]]:
        """Stand-ins that keep the arguments of the wanted visits, in a run like the recorded one."""
        count = 0

        def wrap(site: Site, original: Callable[..., Any]) -> Callable[..., Any]:
            def kept(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                visit = (step, count)
                count += 1
                if visit not in wanted or self._visited[visit] is not site:
                    return original(*args, **kwargs)
                call = kept_call(args, kwargs)
                self._contexts[visit] = observe(site.target, args, kwargs, site.module).context
                before = _versions(call)
                result = original(*args, **kwargs)
                self._calls[visit] = call if _versions(call) == before else WRITTEN
                return result

            return kept

        return wrap

    def wanted(self, calls: Calls) -> Visit | None:
        """The visit to hold a contest on: the first of those that are like most; None where most lie outside."""
        inside: Counter[str] = Counter()
        for visit, count in calls.visits.items():
            inside[self.kind_of(visit)] += count
        kind = max(inside, key=lambda name: inside[name])
        if not kind:
            return None
        counts = Counter(count for visit, count in calls.visits.items() if self.kind_of(visit) == kind)
        usual = counts.most_common(1)[0][0]
        return next(v for v, count in calls.visits.items() if count == usual and self.kind_of(v) == kind)

    def block(self, calls: Calls, context: Context) -> Block | str:
        """The block of one slot's calls, made in a state of the process; or why there is none."""
        visit = self.wanted(calls)
        if visit is None:
            return OUTSIDE if set(calls.visits) == {None} else MIXED
        site, call = self._visited[visit], self._calls.get(visit, "the model ran another way when it was run again")
        if isinstance(call, str):
            return call
        around = self._contexts[visit]
        if (around.grad, around.autocast) != (context.grad, context.autocast):
            return "the part of the model around it runs with other gradients or another autocast"
        assert site.module is not None
        inside = {id(part): path for path, part in site.module.named_modules()}
        found = [inside.get(id(place.module), "") for place in calls.places[visit] if place.module is not None]
        if not all(found):
            return "it is called from a part of the model that does not hold it"
        return Block(path=site.path, module=site.module, call=call, places=tuple(found), calls=calls.visits[visit])


def kept_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """As :func:`~twinkle_tune.call.arguments.snapshot`; a cache is a new object around the same tensors."""
    call = snapshot(args, kwargs)

    def apart(value: Any) -> Any:
        return forked(value) if has_state(value) else value

    made = {name: apart(value) for name, value in call.kwargs.items()}
    return replace(call, args=tuple(map(apart, call.args)), kwargs=made)


def states_in(call: Call) -> Iterator[object]:
    """The caches among a call's arguments."""
    yield from (value for value in (*call.args, *call.kwargs.values()) if has_state(value))


def _versions(call: Call) -> list[tuple[int, int]]:
    """How often each tensor of a call's caches was written to. Those that are shared are the model's own."""
    tensors = [leaf for state in states_in(call) for leaf in leaves(state) if isinstance(leaf, Tensor)]
    return [(id(tensor), tensor._version) for tensor in tensors if not tensor.is_inference()]


def _repeated(model: nn.Module) -> Iterator[Site]:
    """The modules that have a sibling of their class and are more than one operation of torch."""
    seen: set[int] = set()
    for path, parent in model.named_modules():
        classes = Counter(type(child) for child in parent.children())
        for name, child in parent.named_children():
            own = type(child)
            simple = own.__module__.startswith("torch.nn.") and next(child.children(), None) is None
            if classes[own] > 1 and not simple and id(child) not in seen:
                seen.add(id(child))
                target = target_of(own)
                slot = Slot(name="block", kind=SlotKind.LAYER, target=target)
                yield Site(slot=slot, path=f"{path}.{name}" if path else name, module=child, target=target)
