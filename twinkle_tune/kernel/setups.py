"""Binding the ways of running the whole model that won: each for the calls for which that was shown, at its root."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

from twinkle_tune.call.saving import saving_hooks
from twinkle_tune.catalog.attention import other_attentions
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.again import Again, again_of
from twinkle_tune.kernel.aside import with_attention, with_originals
from twinkle_tune.kernel.fixed_cache import Fixed, FixedCaches, goes_on, has_written
from twinkle_tune.kernel.forward import run_original
from twinkle_tune.kernel.going import Case, Going, going_of
from twinkle_tune.kernel.owner import OriginalsInside, with_kernels
from twinkle_tune.kernel.patch import Binding, replaced_by_another
from twinkle_tune.kernel.record import is_ours
from twinkle_tune.kernel.setup_calls import Asked, are_rows, forms_of, names_of, rows_of
from twinkle_tune.kernel.watched import Watched, has_hooks
from twinkle_tune.profile.setup import Setup, way_name
from twinkle_tune.slot import MODEL
from twinkle_tune.strategy import STRATEGIES, Strategy
from twinkle_tune.strategy.backend import Backend
from twinkle_tune.strategy.base import Call
from twinkle_tune.strategy.static_cache import STATIC, why_not_static
from twinkle_tune.workload import digest_of, module_settings, signature_of, target_of

Layers = tuple[tuple[nn.Module, Call, Binding], ...]


def digest_of_model(model: nn.Module) -> str:
    """16 hexadecimal digits: the model's class, its settings, the classes of all its modules, its number of parameters.

    Weights are no part of it, so that what was shown on random ones holds for a checkpoint.
    """
    target = target_of(type(model))
    parts = [target_of(type(module)) for module in model.modules()]
    count = sum(parameter.numel() for parameter in model.parameters())
    return digest_of({"model": signature_of(target, module_settings(model)), "parts": parts, "parameters": count})


@dataclass(frozen=True, slots=True, kw_only=True)
class WayIn:
    """A way in which a model is to run.

    Attributes:
        strategy: the way.
        backend: compiles it.
        setups: which calls run so; None for every call, with whatever the compiler raises: that is for a contest.
        kernels: whether what is bound inside of the model runs in it; else the originals do.
        layers, functions: whether kernels are bound beside it, in the places of layers and of functions. Where none
            are, nothing has to be told to what is compiled, which would write that down at each call.
        attention: what the model's own switch of its attention is set to in it; "" leaves it alone.
        cache: which cache generations have in it; "" for the model's own.
    """

    strategy: Strategy
    backend: Backend
    setups: Sequence[Setup] | None = None
    kernels: bool = False
    layers: bool = True
    functions: bool = True
    attention: str = ""
    cache: str = ""

    @property
    def name(self) -> str:
        return way_name(self.strategy.name, kernels=self.kernels, attention=self.attention, cache=self.cache)

    @property
    def steps_aside(self) -> bool:
        """Whether kernels that are bound inside of the model must give way to the originals in it."""
        return not self.kernels and (self.layers or self.functions)

    def traced(self, forward: Call) -> Call:
        """A forward as it is to be compiled: it sets what is to be inside."""
        forward = with_attention(forward, self.attention) if self.attention else forward
        if self.steps_aside:
            return with_originals(forward)
        return with_kernels(forward) if self.kernels and self.functions else forward


def backend_of(*, gives_up: bool, attention: str) -> Backend:
    """What compiles a way with an attention ("" for the model's own), which is set while all of it is traced."""
    return Backend(gives_up=gives_up, stands_in=True, breaks=not attention)


def setup_layers(
    model: nn.Module, setups: Sequence[Setup], *, layers: bool = True, functions: bool = True
) -> Layers | str:
    """What to bind so that the model runs in the ways that won; why it cannot be, where it cannot.

    ``layers`` and ``functions`` are as of a :class:`WayIn`.
    """
    known = {strategy.name: strategy for strategy in STRATEGIES}
    unknown = [setup.way for setup in setups if setup.way not in known]
    if unknown:
        return f"there is no way of running a model by the name {unknown[0]!r} here"
    if unfit := [why for name in dict.fromkeys(setup.way for setup in setups) if (why := _why_not(known[name], model))]:
        return unfit[0]
    named = {setup.attention for setup in setups if setup.attention}
    if odd := sorted(named.difference(other_attentions(model) if named else ())):
        return f"the model has no attention by the name {odd[0]!r} to switch to"
    if any(setup.cache for setup in setups) and (why := why_not_static(model)):
        return f"cache:{STATIC}: {why}"
    digest = digest_of_model(model)
    if any(setup.model != digest for setup in setups):
        return "the model's settings, layers or size changed since it was profiled; profile it again"
    for path, module in model.named_modules():
        if replaced_by_another(module):
            return f"the forward of {path or 'the model'} was replaced on the instance by somebody else"
        if has_hooks(module):
            return f"{path or 'the model'} has hooks, which compiled code does not call"
    if any(setup.cache for setup in setups) and "generate" in vars(model) and not is_ours(vars(model)["generate"]):
        return "the model's generate was replaced on the instance by somebody else"
    by_way: dict[tuple[str, bool, str, str], list[Setup]] = {}
    for setup in setups:
        by_way.setdefault((setup.way, setup.kernels, setup.attention, setup.cache), []).append(setup)
    return way_layers(
        model,
        [
            WayIn(
                strategy=known[way],
                backend=backend_of(gives_up=False, attention=attention),
                setups=own,
                kernels=kernels,
                layers=layers,
                functions=functions,
                attention=attention,
                cache=cache,
            )
            for (way, kernels, attention, cache), own in by_way.items()
        ],
    )


def _why_not(strategy: Strategy, model: nn.Module) -> str:
    why = strategy.why_not(model, trains=False)
    return why and f"{strategy.name}: {why}"


def way_layers(model: nn.Module, ways: Sequence[WayIn]) -> Layers:
    """The forwards by which a model runs in ways, each for the calls of its setups."""
    cases: list[Case] = []
    layers: list[tuple[nn.Module, Call, Binding]] = []
    for way in ways:
        running = way.strategy.running(model, way.backend, way.traced)
        rows = "all" if way.setups is None else ", ".join(setup.label for setup in way.setups)
        made = [None] if way.setups is None else [form for setup in way.setups for form in forms_of(setup.calls)]
        most = max((call.cached or 0 for setup in way.setups or () for call in setup.calls), default=0) + 2
        case = Case(
            call=running.root,
            way=way.name,
            steps_aside=way.steps_aside,
            form=None,
            cache=way.cache,
            most=most,  # the last call adds one, and gives one that is added nowhere
            backend=way.backend,
        )
        cases += [replace(case, form=form) for form in made]
        for path, module, call in running.parts:
            layers.append((module, call, Binding(slot=MODEL, path=path, candidate=way.name, rows=rows)))
    names = ", ".join(way.name for way in ways)
    told = [setup.label for way in ways for setup in way.setups or ()]
    binding = Binding(slot=MODEL, path="", candidate=names, rows=", ".join(told) or "all")
    falls_back = all(way.setups is not None for way in ways)
    root = Root(model, cases, falls_back=falls_back)
    return ((model, root, binding), *layers)


class Root:
    """The forward of a model that runs in ways: each for its calls, the class's own for all else.

    Once a way could not be compiled, or a call of it failed, it is not tried again: the class's own forward runs, and a
    warning says so.

    Attributes:
        broken: what was the matter, by the way's name.
        own: the class's own forward, or one around it that tells whose it is.
    """

    def __init__(self, model: nn.Module, cases: Sequence[Case], *, falls_back: bool) -> None:
        """Of a model as it is now; a copy of it is watched from its first call on."""
        self.own: Call = run_original
        self._names, self._rows = names_of(model), rows_of(model)
        self._cases, self._falls_back = cases, falls_back
        self._watched = weakref.WeakKeyDictionary({model: Watched(model)})
        self._going: Again | Going | None = None
        self._fixed: weakref.WeakKeyDictionary[nn.Module, FixedCaches] = weakref.WeakKeyDictionary()
        self.tells_generation = any(case.cache for case in cases)
        self.broken: dict[str, str] = {}

    def __call__(self, model: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.own(model, *args, **kwargs)
        if self.tells_generation and (fixed := self._caches(model).of(kwargs)) is not None:
            return self._next_token(model, fixed, args, kwargs)
        going = self._going
        before = None if going is None else going.goes_on(model, args, kwargs)
        if going is not None and before is not None and going.case.way not in self.broken:
            case = going.case
        else:
            found = self._asked(model, args, kwargs)
            if found is None:
                return self.own(model, *args, **kwargs)
            case, before = found
        call = self._caches(model).beginning(case) if case.cache else case.call
        # Here, and not in a method of its own: a generation comes here once a token.
        try:
            if case.steps_aside:
                with OriginalsInside():
                    return call(model, *args, **kwargs)
            return call(model, *args, **kwargs)
        except Exception as error:
            has_written = Asked(self._names, args, kwargs).state() != before
            return self._answered(model, case, error, has_written, args, kwargs)

    def _answered(
        self, model: nn.Module, case: Case, error: Exception, has_written: bool, args: Any, kwargs: Any
    ) -> Any:
        """The original's answer to a call that failed in a way; raises ``error`` where it must not answer."""
        why = self._why_again(error)
        if why and has_written:
            # What was begun and has written into the cache, or into an input, cannot be begun again.
            self.broken[case.way] = why
        if not why or has_written:
            raise error
        # What the original raises as well is the call's fault, and no reason to give up.
        answer = self.own(model, *args, **kwargs)
        self.broken[case.way] = why
        warnings.warn(f"{case.way}: {why}; the original runs instead", stacklevel=3)
        return answer

    def _next_token(self, model: nn.Module, fixed: Fixed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of a generation that was begun on a cache of a fixed size."""
        case = fixed.case
        if args or case.way in self.broken or not goes_on(model, self._watch(model), kwargs, self._rows):
            answer = self.own(model, *args, **kwargs)
        else:
            answer = self._step(model, fixed, args, kwargs)
        fixed.tokens += int(kwargs["input_ids"].shape[1])
        return answer

    def _step(self, model: nn.Module, fixed: Fixed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        case = fixed.case
        try:
            if case.steps_aside:
                with OriginalsInside():
                    return case.call(model, *args, **kwargs)
            return case.call(model, *args, **kwargs)
        except Exception as error:
            return self._answered(model, case, error, has_written(fixed, kwargs), args, kwargs)

    def _caches(self, model: nn.Module) -> FixedCaches:
        if (found := self._fixed.get(model)) is None:
            found = self._fixed[model] = FixedCaches()
        return found

    def _why_again(self, error: Exception) -> str:
        """What a way's error says, where the original is to answer the call; "" where the error passes through."""
        if not self._falls_back:
            return ""
        told = in_a_line(getattr(error, "inner_exception", error), 200)  # torch wraps what a backend raises
        if _is_of_the_compiler(error):
            return f"the model could not be compiled ({told})"
        # Checkpointing ends what it runs again by an error, where it has seen enough.
        return "" if saving_hooks(True) is not None else f"a call of it failed ({told})"

    @property
    def steps_aside(self) -> bool:
        """Whether nothing that is bound runs in any of its ways: whose a forward is need be told of its own alone."""
        return all(case.steps_aside for case in self._cases)

    def why_not(self, model: nn.Module) -> str:
        """Why no call of the model runs in a way any more; "" where one may."""
        if len(self.broken) == len({case.way for case in self._cases}):
            return f"{next(iter(self.broken.values()))}: the original runs"
        flags = {case.form.training for case in self._cases if case.form is not None}
        if flags and model.training not in flags:
            now, then = ("train", "eval") if model.training else ("eval", "train")
            return f"the model is in {now} mode and was measured in {then} mode: the original runs; call model.{then}()"
        if not self._watch(model).is_as_it_was():
            return (
                "a part of the model was replaced after it was bound, had its attention switched, or has a hook: the "
                "original runs; kernelize again"
            )
        return ""

    def _asked(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Case, tuple[object, ...]] | None:
        """The way in which a call runs, and its state before; None for none. Every form is asked."""
        asked = Asked(self._names, args, kwargs)
        cases = [case for case in self._cases if case.way not in self.broken]
        found = [case for case in cases if case.fits(model, asked)]
        # Where two ways won calls on both sides of this one, nobody knows.
        if not found or (len(found) > 1 and len({case.way for case in found}) > 1):
            return None
        if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
            return None  # compiled code has no forward-mode derivative, and takes no tensors of a transform
        watched = self._watch(model)
        if not watched.is_as_it_was():
            return None
        if found[0].form is not None and not are_rows(asked.given, self._rows):
            return None
        if found[0].form is not None and not found[0].cache:
            again = again_of(model, watched, cases, found[0], asked, args, kwargs, self._rows)
            self._going = again or going_of(model, watched, cases, found[0], asked, kwargs, self._rows)
        return found[0], asked.now()

    def _watch(self, model: nn.Module) -> Watched:
        if (watched := self._watched.get(model)) is None:
            watched = self._watched[model] = Watched(model)
        return watched


def _is_of_the_compiler(error: BaseException) -> bool:
    """Whether an error is torch.compile's own: it came before the code that it was to compile ran."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    return isinstance(error, (TorchDynamoException, InductorError))
