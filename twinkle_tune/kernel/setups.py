"""Binding the ways of running the whole model that won: each for the calls for which that was shown, at its root."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.forward import signature_of_forward
from twinkle_tune.kernel.measured import Accepts, State, accepts_of
from twinkle_tune.kernel.patch import Binding, replaced_by_another
from twinkle_tune.profile.setup import ModelCall, Setup
from twinkle_tune.slot import MODEL
from twinkle_tune.strategy import STRATEGIES, Strategy
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.strategy.base import Call
from twinkle_tune.workload import Node, TensorSpec, digest_of, module_settings, observe, signature_of, target_of

Layers = tuple[tuple[nn.Module, Call, Binding], ...]
_CACHE = "past_key_values"
_FREE = frozenset({"use_cache", "return_dict", "logits_to_keep"})
"""Arguments of which no way of running depends: what is asked for beside the outputs, and of how many tokens."""


def digest_of_model(model: nn.Module) -> str:
    """16 hexadecimal digits: the model's class, its settings, the classes of all its modules, its number of parameters.

    Weights are no part of it, so that what was shown on random ones holds for a checkpoint.
    """
    target = target_of(type(model))
    parts = [target_of(type(module)) for module in model.modules()]
    count = sum(parameter.numel() for parameter in model.parameters())
    return digest_of({"model": signature_of(target, module_settings(model)), "parts": parts, "parameters": count})


def call_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelCall:
    """Describe a call of the model that is about to happen; positional arguments by their names, without None."""
    given = _named(names_of(model), args, kwargs)
    workload = replace(observe(target_of(type(model)), (), given, model), settings=())
    return ModelCall(workload=workload, cached=_cached(given))


def setup_layers(model: nn.Module, setups: Sequence[Setup]) -> Layers | str:
    """What to bind so that the model runs in the ways that won; why it cannot be, where it cannot."""
    known = {strategy.name: strategy for strategy in STRATEGIES}
    unknown = [setup.way for setup in setups if setup.way not in known]
    if unknown:
        return f"there is no way of running a model by the name {unknown[0]!r} here"
    digest = digest_of_model(model)
    if any(setup.model != digest for setup in setups):
        return "the model's settings, layers or size changed since it was profiled; profile it again"
    for path, module in model.named_modules():
        if replaced_by_another(module):
            return f"the forward of {path or 'the model'} was replaced on the instance by somebody else"
        if _has_hooks(module):
            return f"{path or 'the model'} has hooks, which compiled code does not call"
    by_way: dict[str, list[Setup]] = {}
    for setup in setups:
        by_way.setdefault(setup.way, []).append(setup)
    return way_layers(model, [(known[way], Backend(gives_up=False), own) for way, own in by_way.items()])


def way_layers(model: nn.Module, ways: Sequence[tuple[Strategy, Backend, Sequence[Setup] | None]]) -> Layers:
    """The forwards by which a model runs in ways, each for the calls of its setups.

    None for every call, with whatever the compiler raises: that is for a contest.
    """
    cases: list[_Case] = []
    layers: list[tuple[nn.Module, Call, Binding]] = []
    for strategy, backend, setups in ways:
        running = strategy.running(model, backend)
        rows = "all" if setups is None else ", ".join(setup.label for setup in setups)
        made = [None] if setups is None else [form for setup in setups for form in _forms(setup.calls)]
        cases += [_Case(call=running.root, way=strategy.name, form=form) for form in made]
        for path, module, call in running.parts:
            layers.append((module, call, Binding(slot=MODEL, path=path, candidate=strategy.name, rows=rows)))
    names = ", ".join(strategy.name for strategy, _, _ in ways)
    told = [setup.label for _, _, setups in ways for setup in setups or ()]
    binding = Binding(slot=MODEL, path="", candidate=names, rows=", ".join(told) or "all")
    falls_back = all(setups is not None for _, _, setups in ways)
    root = Root(model, cases, falls_back=falls_back)
    return ((model, root, binding), *layers)


class Root:
    """The forward of a model that runs in ways: each for its calls, the class's own for all else.

    Once a way could not be compiled it is not tried again: the class's own forward runs, and a warning says so.

    Attributes:
        broken: what was the matter, by the way's name.
    """

    def __init__(self, model: nn.Module, cases: Sequence[_Case], *, falls_back: bool) -> None:
        """Of a model as it is now; a copy of it is watched from its first call on."""
        self._original, self._names = type(model).forward, names_of(model)
        self._cases, self._falls_back = cases, falls_back
        self._watched = weakref.WeakKeyDictionary({model: _Watched(model)})
        self.broken: dict[str, str] = {}

    def __call__(self, model: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._original(model, *args, **kwargs)
        given = _named(self._names, args, kwargs)
        case = self._case(model, given)
        if case is None:
            return self._original(model, *args, **kwargs)
        cached = _cached(given)
        try:
            return case.call(model, *args, **kwargs)
        except Exception as error:
            # What was begun and has written into the cache cannot be begun again.
            if not self._falls_back or not _is_of_the_compiler(error) or _cached(given) != cached:
                raise
            inner = getattr(error, "inner_exception", error)  # torch wraps what a backend raises
            self.broken[case.way] = in_a_line(inner, 200)
        warnings.warn(
            f"{case.way}: the model could not be compiled ({self.broken[case.way]}); the original runs instead",
            stacklevel=2,
        )
        return self._original(model, *args, **kwargs)

    def why_not(self, model: nn.Module) -> str:
        """Why no call of the model runs in a way any more; "" where one may."""
        if len(self.broken) == len({case.way for case in self._cases}):
            return f"it could not be compiled ({next(iter(self.broken.values()))}): the original runs"
        flags = {case.form.training for case in self._cases if case.form is not None}
        if flags and model.training not in flags:
            now, then = ("train", "eval") if model.training else ("eval", "train")
            return f"the model is in {now} mode and was measured in {then} mode: the original runs; call model.{then}()"
        if not self._watch(model).is_as_it_was():
            return (
                "a part of the model was replaced after it was bound, or has a hook: the original runs; kernelize again"
            )
        return ""

    def _case(self, model: nn.Module, given: Mapping[str, Any]) -> _Case | None:
        found = [case for case in self._cases if case.way not in self.broken and case.fits(model, given)]
        # Where two ways won calls on both sides of this one, nobody knows.
        if not found or len({case.way for case in found}) > 1 or not self._watch(model).is_as_it_was():
            return None
        return found[0]

    def _watch(self, model: nn.Module) -> _Watched:
        watched = self._watched.get(model)
        if watched is None:
            watched = self._watched[model] = _Watched(model)
        return watched


class _Watched:
    """A model's modules as they are: compiled code would not see what is exchanged later."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._hooks = [hooks for module in modules for hooks in _hooks_of(module)]
        self._children = [(m._modules, tuple(map(id, m._modules.values()))) for m in modules if m._modules]
        first = next(((m, n) for m in modules for n, p in m._parameters.items() if p is not None), None)
        self._weight = (
            None if first is None else (first[0]._parameters, first[1], _kind(first[0]._parameters[first[1]]))
        )

    def is_as_it_was(self) -> bool:
        if any(self._hooks):
            return False
        if self._weight is not None:
            parameters, name, kind = self._weight
            if _kind(parameters.get(name)) != kind:
                return False
        return all(tuple(map(id, now.values())) == then for now, then in self._children)


def _kind(parameter: Any) -> tuple[object, ...]:
    return type(parameter), getattr(parameter, "dtype", None), getattr(parameter, "device", None)


def _hooks_of(module: nn.Module) -> tuple[Mapping[Any, Any], ...]:
    return (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )


def _has_hooks(module: nn.Module) -> bool:
    return any(_hooks_of(module)) or "_hf_hook" in vars(module)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A way, and the form of the calls for which it runs; None for every call."""

    call: Call
    way: str
    form: _Form | None

    def fits(self, model: nn.Module, given: Mapping[str, Any]) -> bool:
        return self.form is None or self.form.fits(model, given)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Form:
    """Calls that look alike but for their sizes.

    Attributes:
        accepts: by name what each argument may be.
        sizes: by name of a tensor the sizes that its first dimension may have, and the least and largest of the others.
        cached: the least and largest number of tokens in the cache; None for no cache.
        state: of the process.
        training: the model's own flag.
    """

    accepts: Mapping[str, Accepts]
    sizes: Mapping[str, tuple[frozenset[int], tuple[tuple[int, int], ...]]]
    cached: tuple[int, int] | None
    state: State
    training: bool

    def fits(self, model: nn.Module, given: Mapping[str, Any]) -> bool:
        if model.training is not self.training:
            return False
        asked = {name for name in given if name not in _FREE}
        if asked != self.accepts.keys() or not all(self.accepts[name](given[name]) for name in asked):
            return False
        for name, (firsts, others) in self.sizes.items():
            shape = given[name].shape
            if shape and (shape[0] not in firsts or not _within(shape[1:], others)):
                return False
        cached = _cached(given)
        if cached is None or self.cached is None:
            if cached is not None or self.cached is not None:
                return False
        elif not self.cached[0] <= cached <= self.cached[1]:
            return False
        tensors = [value for value in given.values() if isinstance(value, Tensor)]
        return self.state.is_now(model, tensors, tensors[0].device.type if tensors else "cpu")


def _within(shape: Sequence[int], bounds: Sequence[tuple[int, int]]) -> bool:
    return all(low <= size <= high for size, (low, high) in zip(shape, bounds, strict=True))


def _forms(calls: Iterable[ModelCall]) -> Iterator[_Form]:
    """The forms of a setup's calls: those that are alike but for sizes are one, and stand for all sizes between."""
    alike: dict[object, list[ModelCall]] = {}
    for call in calls:
        alike.setdefault(_form_key(call), []).append(call)
    for same in alike.values():
        workloads = [call.workload for call in same]
        nodes = {name: node for name, node in workloads[0].kwargs if name not in _FREE}
        specs = {n: [s for w in workloads if isinstance(s := dict(w.kwargs)[n], TensorSpec)] for n in nodes}
        lengths = [call.cached for call in same if call.cached is not None]
        yield _Form(
            accepts={name: accepts_of(node) for name, node in nodes.items()},
            sizes={name: _sizes(found) for name, found in specs.items() if found},
            cached=(min(lengths), max(lengths)) if lengths else None,
            state=State.of(workloads[0].context),
            training=workloads[0].context.training,
        )


def _sizes(specs: Sequence[TensorSpec]) -> tuple[frozenset[int], tuple[tuple[int, int], ...]]:
    firsts = frozenset(spec.shape[0] for spec in specs if spec.shape)
    others = zip(*(spec.shape[1:] for spec in specs), strict=True)
    return firsts, tuple((min(sizes), max(sizes)) for sizes in others)


def _form_key(call: ModelCall) -> object:
    def key(node: Node) -> object:
        return (node.dtype, len(node.shape)) if isinstance(node, TensorSpec) else node

    kwargs = ((name, key(node)) for name, node in call.workload.kwargs if name not in _FREE)
    # A call that goes on with a cache is another one than that which begins it.
    return tuple(kwargs), call.workload.context, None if call.cached is None else call.cached > 0


def names_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the parameters of a model's forward."""
    signature = signature_of_forward(type(model).forward)
    return () if signature is None else tuple(signature.parameters)[1:]


def _named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    numbered = zip((*names, *map(str, range(len(names), len(args)))), args, strict=False)
    return {name: value for name, value in (*numbered, *kwargs.items()) if value is not None}


def _cached(given: Mapping[str, Any]) -> int | None:
    """Tokens in the cache of a call; None where it has none that tells."""
    cache = given.get(_CACHE)
    length = getattr(cache, "get_seq_length", None)
    return None if length is None else int(length())


def _is_of_the_compiler(error: BaseException) -> bool:
    """Whether an error is torch.compile's own: it came before the code that it was to compile ran."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    return isinstance(error, (TorchDynamoException, InductorError))
