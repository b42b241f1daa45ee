"""Watching the calls of a script's models: passively, each of them once, as they come."""

from __future__ import annotations

import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from twinkle_tune.call.arguments import Call, snapshot
from twinkle_tune.capture.given import repeatable
from twinkle_tune.kernel.measured import casts_to
from twinkle_tune.kernel.setups import digest_of_model
from twinkle_tune.script.outermost import expect_no_weights, expect_weights, listen, unlisten
from twinkle_tune.script.recording import CallsSeen, ModelSeen, Recording
from twinkle_tune.workload import Items, Node, TensorSpec, Workload, observe, target_of

CALLS = 100
"""Calls that are recorded after the last new model or weight came up; those that go on with a cache do not count."""


@dataclass(slots=True, eq=False)
class _Form:
    """Calls that look the same, while they are counted."""

    workload: Workload
    autocast: str
    continues: bool
    kept: Call | None
    count: int = 0


@dataclass(slots=True, eq=False)
class _Model:
    """A model while it is watched: kept alive by ``held`` alone, the newest of those of one form, where asked for."""

    path: str
    core: weakref.ref[nn.Module]
    target: str
    digest: str
    device: str
    parameters: int
    optimizer: str = ""
    make_optimizer: Callable[..., Any] | None = None
    held: nn.Module | None = None
    total: int = 0
    states: set[tuple[bool, str]] = field(default_factory=set)
    forms: dict[object, _Form] = field(default_factory=dict)

    def seen(self) -> ModelSeen:
        return ModelSeen(
            path=self.path,
            target=self.target,
            digest=self.digest,
            device=self.device,
            parameters=self.parameters,
            calls=tuple(
                CallsSeen(
                    workload=form.workload,
                    count=form.count,
                    autocast=form.autocast,
                    continues=form.continues,
                    kept=form.kept,
                )
                for form in self.forms.values()
            ),
            total=self.total,
            optimizer=self.optimizer,
        )


class Found(Protocol):
    """Told before the call of a model in a state in which it was not called before: training, under an autocast."""

    def __call__(self, model: nn.Module, seen: ModelSeen, *, trains: bool, autocast: str) -> None:
        """A model, and what was seen of it."""


class Watch:
    """Listens to the outermost calls of a process, records the first ones, and is quiet then.

    A model is a module with parameters that is called from outside of any module; what belongs to one that was seen is
    none by itself. Whatever goes wrong in describing a call is the end of watching, kept as :attr:`problem`: the
    script's call goes on.

    Attributes:
        problem: why it stopped before its time; None where nothing went wrong.
    """

    def __init__(
        self,
        *,
        within: Mapping[str, nn.Module] | None = None,
        calls: int = CALLS,
        keep_inputs: bool = False,
        holds: bool = False,
        found: Found | None = None,
        grown: Callable[[], None] | None = None,
    ) -> None:
        """Nothing is watched yet.

        Args:
            within: the modules that are meant, by their paths, with those inside and around them; None for all.
            calls: that are recorded, after the last new model.
            keep_inputs: whether copies of the arguments are kept, of one call of each form.
            holds: whether models are kept until the end, of those of one form the newest.
            found: told of each model.
            grown: told when a new model or form is recorded, less and less often, and when the last call is.
        """
        self.problem: Exception | None = None
        self._within = None if within is None else {path: weakref.ref(module) for path, module in within.items()}
        self._calls, self._left, self._keep = calls, calls, keep_inputs
        self._holds, self._found, self._grown = holds, found, grown
        self._grew = 0
        self._models: weakref.WeakKeyDictionary[nn.Module, _Model] = weakref.WeakKeyDictionary()
        self._order: list[_Model] = []
        self._passed: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._listens = False
        self._handles: list[Any] = []
        self._pid, self._lock = os.getpid(), threading.RLock()

    def begin(self) -> None:
        """Watch from now on: calls, steps of optimizers, and whether new weights come up."""
        self._handles = [register_optimizer_step_post_hook(self._stepped)]
        expect_weights(self._expects)
        self._listen()

    def end(self) -> None:
        """Watch no more; torch is as it was."""
        self._unlisten()
        expect_no_weights(self._expects)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def recording(self) -> Recording:
        """What was seen until now."""
        return Recording(models=tuple(model.seen() for model in self._order))

    def pairs(self) -> list[tuple[nn.Module, ModelSeen, Callable[..., Any] | None]]:
        """The models that are still there, with what was seen of them, and what makes their optimizers."""
        alive = [(model.core(), model) for model in self._order]
        return [(core, model.seen(), model.make_optimizer) for core, model in alive if core is not None]

    def called(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], None] | None:
        """An outermost call is about to begin: see :class:`~twinkle_tune.script.outermost.Listens`."""
        if os.getpid() != self._pid:  # a process that was forked is none of ours
            self.end()
            return None
        try:
            with self._lock:
                return self._called(module, args, kwargs)
        except Exception as error:  # of a stranger's arguments, device, settings: the script is not to know
            self.problem = error
            self.end()
            return None

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], None] | None:
        model = self._model_of(module)
        if model is None:
            return None
        core = inner_of(module)
        inputs = repeatable(core, args, kwargs)
        continues = inputs is None
        args, kwargs = ((), kwargs) if continues else (inputs, {}) if isinstance(inputs, tuple) else ((), inputs)
        workload = observe(model.target, args, kwargs)
        workload = replace(workload, context=replace(workload.context, training=core.training))
        model.total += 1
        if self._left <= 0:
            return None
        self._left -= not continues
        if self._left <= 0:
            self._unlisten()
        key = workload.key
        looks = None
        if key in model.forms:
            form = model.forms[key]
            form.workload = _wider(form.workload, workload)
        else:
            kept = snapshot(args, kwargs) if self._keep and not continues else None
            form = _Form(workload=workload, autocast=workload.context.autocast, continues=continues, kept=kept)
            model.forms[key] = form
            if "forward" in vars(core):  # somebody's wrapping, which may open autocast
                looks = functools.partial(_look, form, model.device)
        form.count += 1
        state = (workload.context.grad and core.training, form.autocast)
        if self._found is not None and state not in model.states:
            model.states.add(state)
            self._found(core, model.seen(), trains=state[0], autocast=state[1])
        self._tell_grown(is_new=form.count == 1)
        return looks

    def _tell_grown(self, *, is_new: bool) -> None:
        self._grew += is_new
        is_power = self._grew & (self._grew - 1) == 0
        if self._grown is not None and ((is_new and is_power) or self._left == 0):
            self._grown()

    def _model_of(self, module: nn.Module) -> _Model | None:
        core = inner_of(module)
        known = self._models.get(core)
        if known is not None:
            return known
        if core in self._passed:
            return None
        parts = set(core.modules())
        if next(core.parameters(), None) is None or any(core in set(each.modules()) for each in self._models):
            self._passed.add(core)
            return None
        path = self._path_of(parts)
        if path is None:
            self._passed.add(core)
            return None
        for part in [each for each in self._models if each in parts]:
            self._order.remove(self._models.pop(part))  # it is a part of this one
        device = next(core.parameters()).device.type
        model = _Model(
            path=path,
            core=weakref.ref(core),
            target=target_of(type(core)),
            digest=digest_of_model(core),
            device="rocm" if device == "cuda" and torch.version.hip is not None else device,
            parameters=sum(parameter.numel() for parameter in core.parameters()),
            held=core if self._holds else None,
        )
        for other in self._order:
            other.held = None if other.digest == model.digest else other.held
        self._models[core] = model
        self._order.append(model)
        self._left = self._calls
        return model

    def _path_of(self, parts: set[nn.Module]) -> str | None:
        """The path of what was asked for that holds the module, or that the module holds; None for neither."""
        if self._within is None:
            return ""
        there = [(path, found) for path, each in self._within.items() if (found := each()) is not None]
        for path, found in there:
            inside = set(found.modules())
            if found in parts or parts & inside:
                return path
        return None

    def _stepped(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        del args, kwargs
        if all(model.optimizer for model in self._order):
            return
        stepped = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        for core, model in list(self._models.items()):
            if not model.optimizer and any(id(parameter) in stepped for parameter in core.parameters()):
                model.optimizer, model.make_optimizer = type(optimizer).__name__, _maker(optimizer)

    def _expects(self) -> None:
        self._left = self._calls
        self._listen()

    def _listen(self) -> None:
        if not self._listens:
            self._listens = True
            listen(self)

    def _unlisten(self) -> None:
        if self._listens:
            self._listens = False
            unlisten(self)


def inner_of(module: nn.Module) -> nn.Module:
    """The model that torch.compile, DDP and DataParallel wrapped; the module itself where none did."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if not isinstance(inner, nn.Module) and isinstance(
            module, (nn.parallel.DistributedDataParallel, nn.DataParallel)
        ):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def parts_of(watched: object) -> dict[str, nn.Module]:
    """The modules of a model or a pipeline, by the names under which it holds them ("" for a module itself)."""
    if isinstance(watched, nn.Module):
        return {"": watched}
    held = dict(getattr(watched, "__dict__", {}))
    components = getattr(watched, "components", None)
    if isinstance(components, Mapping):
        held |= components
    return {str(name): value for name, value in held.items() if isinstance(value, nn.Module)}


def _look(form: _Form, device: str) -> None:
    form.autocast = casts_to("cuda" if device == "rocm" else device)


def _maker(optimizer: torch.optim.Optimizer) -> Callable[..., Any] | None:
    """What makes such an optimizer of other parameters; None where its class takes something else."""
    kind = type(optimizer)
    takes = inspect.signature(kind).parameters
    given = {name: value for name, value in optimizer.defaults.items() if name in takes}
    return functools.partial(kind, **given)


def _wider(one: Workload, other: Workload) -> Workload:
    """A form with the bounds of two calls of it."""
    return replace(
        one,
        args=tuple(map(_wider_node, one.args, other.args)),
        kwargs=tuple(
            (name, _wider_node(mine, its)) for (name, mine), (_, its) in zip(one.kwargs, other.kwargs, strict=True)
        ),
    )


def _wider_node(one: Node, other: Node) -> Node:
    if isinstance(one, TensorSpec) and isinstance(other, TensorSpec) and one.low is not None and other.low is not None:
        return replace(one, low=min(one.low, other.low), high=max(one.high or 0, other.high or 0))
    if isinstance(one, Items) and isinstance(other, Items):
        return replace(one, items=tuple(map(_wider_node, one.items, other.items)))
    return one
